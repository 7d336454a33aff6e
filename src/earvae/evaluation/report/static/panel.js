/* The player's part of a page: its buttons, its seek bar, and the keys. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});

  const by = (id) => document.getElementById(id);
  const all = (selector) => Array.from(document.querySelectorAll(selector));

  earvae.Panel = class {
    /** `data` is a track: `versions`, `rate`, `frames`, `envelope`. `page` may say what else there
        is: `blind()`, whether what sounds may not be told; `changed()` and `moved(position)`, to be
        called then; `key(event, letter)`, true where a key means something of its own. */
    constructor(data, page) {
      this.page = page || {};
      this.data = data;
      this.sounds = new earvae.Sounds(data.versions, data.rate, data.frames);
      this.player = new earvae.Player(this.sounds, data.frames / data.rate, () => this.refresh());
      this.timeline = new earvae.Timeline(this.player, data.envelope);
      this.listen();
      this.show(data);
      const frame = () => {
        if (this.player.playing) this.move();
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    }

    /** Another track, from its beginning on. */
    show(data) {
      const player = this.player;
      this.data = data;
      if (data.versions !== this.sounds.versions) {
        this.sounds = new earvae.Sounds(data.versions, data.rate, data.frames);
        player.exchange(this.sounds, data.frames / data.rate);
        this.timeline.exchange(data.envelope);
      }
      this.other = data.versions.findIndex((version, index) => index > 0 && this.sounds.can(index));
      for (const id of ['timeline', 'loop-start', 'loop-end']) {
        by(id).setAttribute('aria-valuemax', player.duration.toFixed(2));
      }
      by('length').textContent = earvae.clock(player.duration);
      this.match();
      this.refresh();
      const sounds = this.sounds;
      player.ready(0).then(() => {
        this.refresh();
        sounds.preload();
      });
    }

    get blind() {
      return Boolean(this.page.blind && this.page.blind());
    }

    choose(index) {
      if (this.blind || !this.sounds.can(index)) return;
      if (index > 0) this.other = index;
      this.player.select(index);
    }

    toggle() {
      if (this.player.playing || this.player.wanted) this.player.pause();
      else this.player.play();
    }

    // ---------------------------------------------------------------------------- what is shown

    /** Everything but the position. */
    refresh() {
      const player = this.player;
      if (!this.timeline) return; // parts are still being made
      by('play').textContent = player.playing || player.wanted ? 'Pause' : 'Play';
      by('loop').setAttribute('aria-pressed', String(player.loop !== null));
      if (!this.blind) { // else the page would say what X is
        for (const button of all('[data-version]')) {
          const heard = Number(button.dataset.version) === player.version;
          button.setAttribute('aria-pressed', String(heard));
        }
      }
      by('status').textContent = player.error || (player.loading ? 'Loading …' : '');
      this.timeline.showLoop();
      if (this.page.changed) this.page.changed(player.version);
      this.move();
    }

    /** What depends on the position. */
    move() {
      const player = this.player;
      const position = player.audible();
      document.body.style.setProperty('--position', (position / player.duration).toFixed(5));
      by('clock').textContent = earvae.clock(position);
      this.timeline.showPosition(position);
      if (this.page.moved) this.page.moved(position);
    }

    // ---------------------------------------------------------------------------- what is done

    setLoop(name, time) {
      const player = this.player;
      const loop = player.loop || { start: 0, end: player.duration };
      const wanted = Object.assign({}, loop, { [name]: time });
      if (wanted.end > wanted.start) player.setLoop(wanted);
      // An end before the start (or the other way round): the loop begins anew from there.
      else player.setLoop(name === 'start' ? { start: time, end: player.duration } : { start: 0, end: time });
    }

    toggleLoop() {
      const player = this.player;
      player.setLoop(player.loop ? null : { start: 0, end: player.duration });
    }

    /** Make the versions equally loud, or leave their levels. */
    match() {
      const levels = this.data.versions.map((version) => Math.pow(10, version.matching / 20));
      this.player.setLevels(by('match').checked ? levels : []);
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target;
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName);
      if (typing && target.type !== 'checkbox' && target.type !== 'range') return;
      if (this.act(event, target)) event.preventDefault();
    }

    /** Do what a key says; false if it says nothing here. */
    act(event, target) {
      const letter = event.key.toLowerCase();
      if (this.page.key && this.page.key(event, letter)) return true;
      if (event.key === ' ') {
        // Somebody who came to a control by keyboard means that control; Space moves no slider.
        if (/^(BUTTON|INPUT|A|SUMMARY)$/.test(target.tagName) && target.type !== 'range') return false;
        this.toggle();
      } else if (/^[1-9]$/.test(event.key)) {
        this.choose(Number(event.key) - 1);
      } else if (letter === 'r') {
        this.choose(this.player.version ? 0 : this.other);
      } else if (letter === 'l') {
        this.toggleLoop();
      } else if (event.key === '[') {
        this.setLoop('start', this.player.position());
      } else if (event.key === ']') {
        this.setLoop('end', this.player.position());
      } else if (target.type === 'range') {
        return false;
      } else {
        // Wide tables scroll by the same keys while they have the focus.
        return !event.shiftKey && !target.closest('.scroll') && this.timeline.key(event);
      }
      return true;
    }

    listen() {
      by('play').addEventListener('click', () => this.toggle());
      by('loop').addEventListener('click', () => this.toggleLoop());
      by('set-start').addEventListener('click', () => this.setLoop('start', this.player.position()));
      by('set-end').addEventListener('click', () => this.setLoop('end', this.player.position()));
      by('match').addEventListener('change', () => this.match());
      for (const button of all('[data-version]')) {
        button.addEventListener('click', () => this.choose(Number(button.dataset.version)));
      }
      // After a click with the mouse, Space is to play, not to press the same button again.
      document.addEventListener('click', function (event) {
        const button = event.target.closest('button');
        if (button && event.detail > 0) button.blur();
      });
      document.addEventListener('keydown', (event) => this.key(event));
    }
  };

  /** What a page's scripts need to know. */
  earvae.pageData = function () {
    return JSON.parse(by('page-data').textContent);
  };

  /** The name of who listens, as the browser remembers it; `field` holds it and changes it. */
  earvae.rememberListener = function (field) {
    try { field.value = localStorage.getItem('earvae-listener') || ''; } catch (error) { /* none */ }
    field.addEventListener('change', function () {
      try { localStorage.setItem('earvae-listener', field.value); } catch (error) { /* none */ }
    });
  };
})();
