/* Left against Right of what is heard: Mid upwards, Side across, older dots fading. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const SPAN = 2048; // samples around the playhead
  const LONG = 8192; // for the correlation, which would flicker with less

  /** Correlation of two channels from sample `from` to `to`, null in silence. */
  earvae.correlation = function (left, right, from, to) {
    let cross = 0;
    let ofLeft = 0;
    let ofRight = 0;
    for (let i = Math.max(0, from); i < Math.min(left.length, to); i += 1) {
      cross += left[i] * right[i];
      ofLeft += left[i] * left[i];
      ofRight += right[i] * right[i];
    }
    const power = Math.sqrt(ofLeft * ofRight);
    return power > 1e-6 ? cross / power : null;
  };

  earvae.Goniometer = class {
    constructor() {
      this.canvas = document.getElementById('goniometer');
      this.meter = document.getElementById('meter');
      this.size = 1; // of the loudest sample lately: the picture grows and shrinks slowly
      this.still = window.matchMedia && matchMedia('(prefers-reduced-motion: reduce)').matches;
    }

    colours() {
      const style = getComputedStyle(document.documentElement);
      const of = (name) => style.getPropertyValue(name).trim();
      return { ground: of('--scope'), line: of('--scope-line'), dot: of('--scope-dot'), text: of('--muted') };
    }

    /** Draw `buffer` around `position`; `moving` leaves a trace of what was there before. */
    draw(buffer, position, moving) {
      const now = performance.now();
      if (moving && this.still && now - (this.last || 0) < 500) return;
      this.last = now;
      const centre = Math.round(position * buffer.sampleRate);
      const left = buffer.getChannelData(0);
      const right = buffer.getChannelData(buffer.numberOfChannels > 1 ? 1 : 0);
      this.paint(left, right, centre, moving && !this.still);
      const value = earvae.correlation(left, right, centre - LONG / 2, centre + LONG / 2);
      this.meter.style.setProperty('--value', value === null ? 0 : value.toFixed(3));
      this.meter.classList.toggle('silent', value === null);
    }

    paint(left, right, centre, trace) {
      const draw = this.canvas.getContext('2d');
      const size = this.canvas.width;
      const middle = size / 2;
      const colours = this.colours();
      draw.globalAlpha = trace ? 0.3 : 1;
      draw.fillStyle = colours.ground;
      draw.fillRect(0, 0, size, size);
      draw.globalAlpha = 1;
      this.frame(draw, size, colours);
      const from = Math.max(0, centre - SPAN / 2);
      const to = Math.min(left.length, from + SPAN);
      let peak = 0.02;
      for (let i = from; i < to; i += 1) peak = Math.max(peak, Math.abs(left[i]), Math.abs(right[i]));
      this.size = trace ? Math.max(peak, this.size * 0.99 + peak * 0.01) : peak;
      const zoom = (middle * 0.94 * Math.SQRT1_2) / this.size;
      draw.fillStyle = colours.dot;
      draw.globalAlpha = 0.55;
      for (let i = from; i < to; i += 1) {
        const side = (left[i] - right[i]) * Math.SQRT1_2;
        const mid = (left[i] + right[i]) * Math.SQRT1_2;
        draw.fillRect(middle - side * zoom - 1, middle - mid * zoom - 1, 2.4, 2.4);
      }
      draw.globalAlpha = 1;
    }

    /** The axes of Left, Right, Mid and Side. */
    frame(draw, size, colours) {
      const middle = size / 2;
      draw.strokeStyle = colours.line;
      draw.fillStyle = colours.text;
      draw.lineWidth = 1.5;
      draw.beginPath();
      for (const angle of [0, 45, 90, 135]) {
        const x = Math.cos((angle * Math.PI) / 180) * middle * 0.86;
        const y = Math.sin((angle * Math.PI) / 180) * middle * 0.86;
        draw.moveTo(middle - x, middle - y);
        draw.lineTo(middle + x, middle + y);
      }
      draw.stroke();
      draw.font = '24px system-ui, sans-serif';
      draw.textAlign = 'center';
      draw.textBaseline = 'middle';
      const corner = middle * 0.66;
      for (const [text, x, y] of [['M', 0, -0.93 * middle], ['S', -0.93 * middle, 0],
        ['L', -corner, -corner], ['R', corner, -corner]]) {
        draw.fillText(text, middle + x, middle + y);
      }
    }
  };
})();
