/* The player of the first page: any track, every version. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  if (!document.getElementById('player')) return; // nothing to hear
  const tracks = earvae.pageData();
  const select = document.getElementById('track');
  earvae.root = '';

  function show() {
    const track = tracks[Number(select.value)];
    document.getElementById('track-page').href = track.href;
    document.querySelectorAll('.version').forEach(function (button, index) {
      button.disabled = !track.versions[index].script;
    });
    return track;
  }

  const panel = new earvae.Panel(show(), {}); // browsers restore the choice after going back
  earvae.page = { player: panel.player, get sounds() { return panel.sounds; } };
  select.addEventListener('change', function () {
    const playing = panel.player.playing;
    panel.show(show());
    if (playing) panel.player.play();
  });
  window.addEventListener('earvae-theme', () => panel.move());
})();
