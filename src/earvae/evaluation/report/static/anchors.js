/* The anchors of a MUSHRA test: the reference without its treble (ITU-R BS.1534-3, 5.1). */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const TRANSITION = 500; // Hz: everything is gone half a kilohertz above the edge
  const SHAPE = 5.65; // of the Kaiser window: 60 dB
  const REACH = 0.00365; // seconds of the filter on both sides, for that window and transition

  /** The modified Bessel function of order zero. */
  function bessel(x) {
    let sum = 1;
    let term = 1;
    for (let k = 1; term > 1e-12 * sum; k += 1) {
      term *= (x / (2 * k)) * (x / (2 * k));
      sum += term;
    }
    return sum;
  }

  /** A windowed sinc that passes what lies below `edge` Hz. */
  function kernel(edge, rate) {
    const half = Math.ceil(REACH * rate);
    const cut = (2 * (edge + TRANSITION / 2)) / rate;
    const values = new Float32Array(2 * half + 1);
    for (let i = -half; i <= half; i += 1) {
      const angle = Math.PI * cut * i;
      const window = bessel(SHAPE * Math.sqrt(1 - (i / half) * (i / half))) / bessel(SHAPE);
      values[i + half] = cut * (i ? Math.sin(angle) / angle : 1) * window;
    }
    return values;
  }

  /** Promise of `buffer` without what lies above `edge` Hz, sample by sample in time with it. */
  earvae.lowPassed = async function (buffer, edge) {
    const values = kernel(edge, buffer.sampleRate);
    const half = (values.length - 1) / 2;
    const channels = buffer.numberOfChannels;
    const context = new OfflineAudioContext(channels, buffer.length + half, buffer.sampleRate);
    const response = context.createBuffer(1, values.length, buffer.sampleRate);
    response.copyToChannel(values, 0);
    const filter = context.createConvolver();
    filter.normalize = false;
    filter.buffer = response;
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(filter);
    filter.connect(context.destination);
    source.start();
    const late = await context.startRendering();
    const result = context.createBuffer(channels, buffer.length, buffer.sampleRate);
    for (let channel = 0; channel < channels; channel += 1) {
      result.copyToChannel(late.getChannelData(channel).subarray(half), channel);
    }
    return result;
  };
})();
