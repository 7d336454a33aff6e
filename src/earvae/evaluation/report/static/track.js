/* A track's page: its parts put together. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  if (!document.getElementById('player')) return; // a track without audio
  const data = earvae.pageData();
  earvae.root = '../';

  const by = (id) => document.getElementById(id);
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const goniometer = new earvae.Goniometer();
  const running = () => Boolean(earvae.page && earvae.page.abx.running);
  let panel = null; // while it is being made
  panel = new earvae.Panel(data, {
    blind: running,
    changed: (version) => { if (!running()) showVersion(version); },
    moved: showStereo,
    key: blindKey,
  });
  const abx = new earvae.AbxPanel(panel.player, data, () => by('match').checked);
  earvae.page = { player: panel.player, abx: abx, sounds: panel.sounds }; // for the console and for tests
  earvae.rememberListener(by('listener'));

  function showVersion(version) {
    for (const part of all('[data-row], [data-of]')) {
      part.classList.toggle('chosen', Number(part.dataset.row || part.dataset.of) === version);
    }
    const name = data.versions[version].name;
    for (const place of all('.heard')) place.textContent = name;
    for (const place of all('.heard-codec')) {
      place.textContent = version ? name : 'select a version to compare';
    }
  }

  function showStereo(position) {
    const player = panel && panel.player;
    const buffer = player && !running() && panel.sounds.buffers.get(player.heard);
    if (buffer) goniometer.draw(buffer, position, player.playing);
  }

  function blindKey(event, letter) {
    if (!running() || !/^[abx]$/.test(letter)) return false;
    if (event.shiftKey && letter !== 'x') abx.answer(letter.toUpperCase());
    else abx.hear(letter.toUpperCase());
    return true;
  }

  for (const pane of all('[data-seek]')) {
    earvae.drag(pane, (share) => panel.player.seek(share * panel.player.duration));
  }
  for (const button of all('button[data-signal]')) {
    button.addEventListener('click', function () {
      by('spectra').dataset.signal = button.dataset.signal;
      for (const other of all('button[data-signal]')) {
        other.setAttribute('aria-pressed', String(other === button));
      }
    });
  }
  window.addEventListener('earvae-theme', () => panel.move());
  panel.refresh();
})();
