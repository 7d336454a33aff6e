/* The seek bar: the reference's envelope, the playhead, and the region that repeats. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const STEP = 2; // seconds an arrow key moves the playhead
  const FINE = 0.1; // and an end of the loop
  const PAUSE = 80; // milliseconds between two jumps while dragging

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  /** Seconds as minutes:seconds.tenths. */
  earvae.clock = function (seconds) {
    const tenths = Math.floor(seconds * 10 + 1e-6);
    const rest = tenths % 600;
    const text = (rest / 10).toFixed(1);
    return Math.floor(tenths / 600) + ':' + (rest < 100 ? '0' : '') + text;
  };

  /** Call `act(share)` with 0…1 across `element` (or `scale`) while it is pressed and dragged, at
      most once in PAUSE milliseconds, and in any case for where it ends. */
  earvae.drag = function (element, act, scale) {
    let timer = 0;
    let latest = null;
    const share = function (event) {
      const box = (scale || element).getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    };
    const flush = function () {
      timer = 0;
      if (latest !== null) act(latest);
      latest = null;
    };
    element.addEventListener('pointerdown', function (event) {
      if (event.button > 0) return;
      element.setPointerCapture(event.pointerId);
      act(share(event));
    });
    element.addEventListener('pointermove', function (event) {
      if (!element.hasPointerCapture(event.pointerId)) return;
      latest = share(event);
      if (!timer) timer = setTimeout(flush, PAUSE);
    });
    element.addEventListener('pointerup', function () {
      clearTimeout(timer);
      flush();
    });
  };

  earvae.Timeline = class {
    constructor(player, envelope) {
      this.player = player;
      this.envelope = envelope;
      this.element = document.getElementById('timeline');
      this.canvas = this.element.querySelector('canvas');
      this.region = document.getElementById('region');
      this.handles = document.getElementById('handles');
      this.ends = {
        start: document.getElementById('loop-start'),
        end: document.getElementById('loop-end'),
      };
      earvae.drag(this.element, (share) => player.seek(share * player.duration));
      for (const name of ['start', 'end']) {
        const move = (share) => this.moveEnd(name, share * player.duration);
        earvae.drag(this.ends[name], move, this.element);
        this.ends[name].addEventListener('keydown', (event) => this.endKey(name, event));
      }
      window.addEventListener('earvae-theme', () => this.paint());
      if (window.ResizeObserver) new ResizeObserver(() => this.paint()).observe(this.element);
      this.paint();
    }

    /** The envelope of another track. */
    exchange(envelope) {
      this.envelope = envelope;
      this.paint();
    }

    moveEnd(name, time) {
      const loop = this.player.loop;
      if (name === 'start') this.player.setLoop({ start: Math.min(time, loop.end - 0.1), end: loop.end });
      else this.player.setLoop({ start: loop.start, end: Math.max(time, loop.start + 0.1) });
    }

    endKey(name, event) {
      const direction = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!direction || !this.player.loop) return;
      event.preventDefault();
      event.stopPropagation(); // else the playhead would move too
      const step = event.shiftKey ? 10 * FINE : FINE;
      this.moveEnd(name, this.player.loop[name] + direction * step);
    }

    /** Move by a key; says whether the key means a move. */
    key(event) {
      const player = this.player;
      const moves = {
        ArrowLeft: -STEP, ArrowRight: STEP, PageUp: 5 * STEP, PageDown: -5 * STEP,
        Home: -Infinity, End: Infinity,
      };
      if (!(event.key in moves)) return false;
      player.seek(player.position() + moves[event.key]);
      return true;
    }

    paint() {
      const box = this.element.getBoundingClientRect();
      const scale = window.devicePixelRatio || 1;
      const width = (this.canvas.width = Math.max(1, Math.round(box.width * scale)));
      const height = (this.canvas.height = Math.max(1, Math.round(box.height * scale)));
      const draw = this.canvas.getContext('2d');
      draw.fillStyle = colour('--wave');
      const bars = Math.min(this.envelope.length, Math.floor(width / (3 * scale)));
      for (let bar = 0; bar < bars; bar += 1) {
        const from = Math.floor((bar * this.envelope.length) / bars);
        const to = Math.max(from + 1, Math.floor(((bar + 1) * this.envelope.length) / bars));
        const peak = Math.max.apply(null, this.envelope.slice(from, to)) / 100;
        const tall = Math.max(scale, peak * height * 0.86);
        draw.fillRect((bar * width) / bars, (height - tall) / 2, 2 * scale, tall);
      }
    }

    showLoop() {
      const loop = this.player.loop;
      this.region.hidden = this.handles.hidden = !loop;
      if (!loop) return;
      const place = (time) => (100 * time) / this.player.duration + '%';
      this.region.style.left = place(loop.start);
      this.region.style.width = place(loop.end - loop.start);
      for (const name of ['start', 'end']) {
        const end = this.ends[name];
        end.style.left = place(loop[name]);
        end.setAttribute('aria-valuenow', loop[name].toFixed(2));
        end.setAttribute('aria-valuetext', earvae.clock(loop[name]));
      }
    }

    showPosition(position) {
      const text = earvae.clock(position);
      if (text === this.shown) return;
      this.shown = text;
      this.element.setAttribute('aria-valuenow', position.toFixed(1));
      this.element.setAttribute('aria-valuetext', text);
    }
  };
})();
