/* A track's page: its parts put together, and the keys. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const data = JSON.parse(document.getElementById('page-data').textContent);
  if (!document.getElementById('player')) return; // a track without audio
  earvae.root = '../';

  const by = (id) => document.getElementById(id);
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const sounds = new earvae.Sounds(data.versions, data.rate, data.frames);
  const player = new earvae.Player(sounds, data.frames / data.rate, refresh);
  const timeline = new earvae.Timeline(player, data.envelope);
  const goniometer = new earvae.Goniometer();
  const abx = new earvae.AbxPanel(player, data, () => by('match').checked);
  let lastCodec = data.versions.findIndex((version, index) => index > 0 && version.script);
  earvae.page = { player: player, abx: abx, sounds: sounds }; // for the console and for tests

  function choose(index) {
    if (abx.running || !data.versions[index] || !data.versions[index].script) return;
    if (index > 0) lastCodec = index;
    player.select(index);
  }

  function toggle() {
    if (player.playing || player.wanted) {
      player.pause();
    } else {
      player.play();
    }
  }

  // ---------------------------------------------------------------------------- what is shown

  /** Everything but the position. */
  function refresh() {
    if (!earvae.page) return; // parts are still being made
    const playing = Boolean(player.playing || player.wanted);
    by('play').textContent = playing ? 'Pause' : 'Play';
    by('loop').setAttribute('aria-pressed', String(player.loop !== null));
    if (!abx.running) showVersion(player.version); // else the page would say what X is
    by('status').textContent = player.error || (player.loading ? 'Loading …' : '');
    timeline.showLoop();
    move();
  }

  function showVersion(version) {
    for (const button of all('[data-version]')) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.version) === version));
    }
    for (const part of all('[data-row], [data-of]')) {
      part.classList.toggle('chosen', Number(part.dataset.row || part.dataset.of) === version);
    }
    const name = data.versions[version].name;
    for (const place of all('.heard')) place.textContent = name;
    for (const place of all('.heard-codec')) {
      place.textContent = version ? name : 'select a version to compare';
    }
  }

  /** What depends on the position. */
  function move() {
    const position = player.audible();
    document.body.style.setProperty('--position', (position / player.duration).toFixed(5));
    by('clock').textContent = earvae.clock(position);
    timeline.showPosition(position);
    const buffer = !abx.running && sounds.buffers.get(player.heard);
    if (buffer) goniometer.draw(buffer, position, player.playing);
  }

  function frame() {
    if (player.playing) move();
    requestAnimationFrame(frame);
  }

  // ---------------------------------------------------------------------------- what is done

  function setLoop(name, time) {
    const loop = player.loop || { start: 0, end: player.duration };
    const wanted = Object.assign({}, loop, { [name]: time });
    if (wanted.end > wanted.start) player.setLoop(wanted);
    // An end before the start (or the other way round): the loop begins anew from there.
    else player.setLoop(name === 'start' ? { start: time, end: player.duration } : { start: 0, end: time });
  }

  function setMatching() {
    const levels = data.versions.map((version) => Math.pow(10, version.matching / 20));
    player.setLevels(by('match').checked ? levels : []);
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) && target.type !== 'checkbox') return;
    if (act(event, target)) event.preventDefault();
  }

  /** Do what a key says; false if it says nothing here. */
  function act(event, target) {
    const letter = event.key.toLowerCase();
    if (event.key === ' ') {
      // Somebody who came to a control by keyboard means that control.
      if (/^(BUTTON|INPUT|A|SUMMARY)$/.test(target.tagName)) return false;
      toggle();
    } else if (abx.running && /^[abx]$/.test(letter)) {
      if (event.shiftKey && letter !== 'x') abx.answer(letter.toUpperCase());
      else abx.hear(letter.toUpperCase());
    } else if (/^[1-9]$/.test(event.key)) {
      choose(Number(event.key) - 1);
    } else if (letter === 'r') {
      choose(player.version ? 0 : lastCodec);
    } else if (letter === 'l') {
      player.setLoop(player.loop ? null : { start: 0, end: player.duration });
    } else if (event.key === '[') {
      setLoop('start', player.position());
    } else if (event.key === ']') {
      setLoop('end', player.position());
    } else {
      // Wide tables scroll by the same keys while they have the focus.
      return !event.shiftKey && !target.closest('.scroll') && timeline.key(event);
    }
    return true;
  }

  by('play').addEventListener('click', toggle);
  by('loop').addEventListener('click', () =>
    player.setLoop(player.loop ? null : { start: 0, end: player.duration }));
  by('set-start').addEventListener('click', () => setLoop('start', player.position()));
  by('set-end').addEventListener('click', () => setLoop('end', player.position()));
  by('match').addEventListener('change', setMatching);
  for (const button of all('[data-version]')) {
    button.addEventListener('click', () => choose(Number(button.dataset.version)));
  }
  for (const pane of all('[data-seek]')) {
    earvae.drag(pane, (share) => player.seek(share * player.duration));
  }
  for (const button of all('button[data-signal]')) {
    button.addEventListener('click', function () {
      by('spectra').dataset.signal = button.dataset.signal;
      for (const other of all('button[data-signal]')) {
        other.setAttribute('aria-pressed', String(other === button));
      }
    });
  }
  // After a click with the mouse, Space is to play, not to press the same button again.
  document.addEventListener('click', function (event) {
    const button = event.target.closest('button');
    if (button && event.detail > 0) button.blur();
  });
  document.addEventListener('keydown', key);
  window.addEventListener('earvae-theme', () => move());
  setMatching(); // browsers restore the box after going back

  by('length').textContent = earvae.clock(player.duration);
  player.ready(0).then(function () {
    refresh();
    sounds.preload();
  });
  refresh();
  requestAnimationFrame(frame);
})();
