/* Spectrograms as those of the listening report, and latents as a picture. */

export const COLUMNS = 1000;
export const ROWS = 208;
const WINDOW = 4096;
const FLOOR_DB = -120;
const RANGE_DB = 90;
const KNEE_HZ = 700; // the frequency axis is linear below and logarithmic above, as the mel scale
const HANN_BINS = 1.5; // over which the window spreads the power of a sine
const TICKS_HZ = [200, 1000, 2000, 4000, 8000, 16000];
const MAGMA = [
  [0, 0, 4], [29, 17, 71], [81, 18, 124], [131, 38, 129], [183, 55, 121], [230, 81, 98],
  [252, 137, 97], [254, 194, 135], [252, 253, 191],
];
const BELOW = [45, 125, 210];
const ABOVE = [225, 105, 20];
const FULL_COLOUR = 3; // standard deviations of a latent channel

/** Labels of the frequency axis and their heights, 0 to 1. */
export function ticks(rate) {
  const top = Math.log1p(rate / 2 / KNEE_HZ);
  return TICKS_HZ
    .map((hertz) => [hertz < 1000 ? String(hertz) : hertz / 1000 + ' k', Math.log1p(hertz / KNEE_HZ) / top])
    .filter((tick) => tick[1] < 0.97);
}

/** Levels in dB of Mid and Side, each [ROWS, COLUMNS] with the lowest frequency first: a column is
    the mean power of its time, a full-scale sine reads about 0. `step(share)` is awaited. */
export async function spectrograms(channels, rate, step) {
  const left = channels[0];
  const right = channels[channels.length - 1];
  const hop = left.length / COLUMNS;
  const frames = Math.max(1, Math.round((2 * hop) / WINDOW)); // per column
  const hann = Float64Array.from({ length: WINDOW }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / WINDOW));
  const scale = (2 / hann.reduce((a, b) => a + b)) ** 2 / frames;
  const rows = filters(rate);
  const transform = fourier(WINDOW);
  const real = new Float64Array(WINDOW);
  const imaginary = new Float64Array(WINDOW);
  const bins = WINDOW / 2 + 1;
  const power = [new Float64Array(bins), new Float64Array(bins)];
  const levels = [new Float32Array(ROWS * COLUMNS), new Float32Array(ROWS * COLUMNS)];
  for (let column = 0; column < COLUMNS; column += 1) {
    power.forEach((each) => each.fill(0));
    for (let frame = 0; frame < frames; frame += 1) {
      const start = Math.floor(((column * frames + frame + 0.5) * hop) / frames) - WINDOW / 2;
      for (let n = 0; n < WINDOW; n += 1) {
        const l = left[start + n] || 0; // zeros beyond both ends
        const r = right[start + n] || 0;
        real[n] = (l + r) * Math.SQRT1_2 * hann[n];
        imaginary[n] = (l - r) * Math.SQRT1_2 * hann[n];
      }
      transform(real, imaginary); // two real signals at once
      for (let bin = 0; bin < bins; bin += 1) {
        const mirror = (WINDOW - bin) % WINDOW;
        const a = real[bin], b = imaginary[bin], c = real[mirror], d = imaginary[mirror];
        power[0][bin] += 0.25 * ((a + c) ** 2 + (b - d) ** 2);
        power[1][bin] += 0.25 * ((b + d) ** 2 + (c - a) ** 2);
      }
    }
    power.forEach((each, signal) => rows.forEach(({ first, weights }, row) => {
      let sum = 0;
      for (let k = 0; k < weights.length; k += 1) sum += weights[k] * each[first + k];
      levels[signal][row * COLUMNS + column] = Math.max(FLOOR_DB, 10 * Math.log10(sum * scale));
    }));
    if (column % 20 === 19) await step((column + 1) / COLUMNS);
  }
  return { mid: levels[0], side: levels[1] };
}

/** Overlapping triangles that sum up the power around each row's frequency, at least two bins wide. */
function filters(rate) {
  const width = rate / WINDOW; // of a bin
  const centres = Array.from({ length: ROWS }, (_, row) =>
    KNEE_HZ * Math.expm1((row / (ROWS - 1)) * Math.log1p(rate / 2 / KNEE_HZ)));
  return centres.map((centre, row) => {
    const low = Math.max(0, row - 1);
    const high = Math.min(ROWS - 1, row + 1);
    const reach = Math.max((centres[high] - centres[low]) / (high - low), width);
    const first = Math.max(0, Math.ceil((centre - reach) / width));
    const last = Math.min(WINDOW / 2, Math.floor((centre + reach) / width));
    const weights = [];
    for (let bin = first; bin <= last; bin += 1) {
      weights.push(Math.max(0, 1 - Math.abs(bin * width - centre) / reach) / HANN_BINS);
    }
    return { first, weights };
  });
}

/** The discrete Fourier transform of complex signals of `size` (a power of two) samples, in place. */
function fourier(size) {
  const cosine = Float64Array.from({ length: size / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / size));
  const sine = Float64Array.from({ length: size / 2 }, (_, k) => Math.sin((2 * Math.PI * k) / size));
  const bits = Math.log2(size);
  const reversed = Uint32Array.from({ length: size }, (_, n) => {
    let result = 0;
    for (let bit = 0; bit < bits; bit += 1) result |= ((n >> bit) & 1) << (bits - 1 - bit);
    return result;
  });
  return function (real, imaginary) {
    for (let n = 0; n < size; n += 1) {
      const other = reversed[n];
      if (other > n) {
        [real[n], real[other]] = [real[other], real[n]];
        [imaginary[n], imaginary[other]] = [imaginary[other], imaginary[n]];
      }
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k += 1) {
          const a = start + k;
          const b = a + half;
          const c = cosine[k * stride];
          const s = sine[k * stride];
          const x = real[b] * c + imaginary[b] * s;
          const y = imaginary[b] * c - real[b] * s;
          real[b] = real[a] - x;
          imaginary[b] = imaginary[a] - y;
          real[a] += x;
          imaginary[a] += y;
        }
      }
    }
  };
}

/** The upper end of the colour scale for spectrograms that are shown together, in dB. */
export function topOfScale(all) {
  const high = (levels) => Float32Array.from(levels).sort()[Math.floor(0.999 * (levels.length - 1))];
  return Math.ceil(Math.max(...all.map(high)) / 5) * 5;
}

/** Paint levels [ROWS, COLUMNS] as colours from `top` down to 90 dB below. */
export function paintSpectrogram(canvas, levels, top) {
  paint(canvas, COLUMNS, ROWS, (column, row) => {
    const level = levels[(ROWS - 1 - row) * COLUMNS + column];
    const place = Math.min(1, Math.max(0, (level - top) / RANGE_DB + 1)) * (MAGMA.length - 1);
    const stop = Math.min(MAGMA.length - 2, Math.floor(place));
    const share = place - stop;
    return [0, 1, 2].map((k) => MAGMA[stop][k] * (1 - share) + MAGMA[stop + 1][k] * share).concat(255);
  });
}

/** Paint latents [channels, frames]: a row for each channel, what lies above its mean orange and
    what lies below it blue, by its own spread. Long ones are shown by every nth frame. */
export function paintLatents(canvas, latents, channels) {
  const frames = latents.length / channels;
  const columns = Math.min(frames, 2 * COLUMNS);
  const scales = Array.from({ length: channels }, (_, channel) => {
    const row = latents.subarray(channel * frames, (channel + 1) * frames);
    const mean = row.reduce((a, b) => a + b) / frames;
    const spread = Math.sqrt(row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / frames);
    return { mean, spread: spread || 1 };
  });
  paint(canvas, columns, channels, (column, row) => {
    const { mean, spread } = scales[row];
    const value = (latents[row * frames + Math.floor((column * frames) / columns)] - mean) / spread;
    return [...(value < 0 ? BELOW : ABOVE), 255 * Math.min(1, Math.abs(value) / FULL_COLOUR)];
  });
}

function paint(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const draw = canvas.getContext('2d');
  const image = draw.createImageData(width, height);
  for (let row = 0, at = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1, at += 4) image.data.set(colour(column, row), at);
  }
  draw.putImageData(image, 0, 0);
}
