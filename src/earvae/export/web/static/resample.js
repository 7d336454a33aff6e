/* Audio at another sample rate: a polyphase filter of windowed sincs, without delay.

   Its passband reaches to 0.913 of the lower rate's Nyquist frequency and 100 dB are gone at 1.0,
   as with the filter that `earvae reconstruct` uses (soxr's HQ; that one attenuates more). */

const PASSBAND = 0.913;
const ATTENUATION_DB = 100;
const BETA = 0.1102 * (ATTENUATION_DB - 8.7); // Kaiser's window
const REACH = Math.ceil((ATTENUATION_DB - 7.95) / (14.36 * (1 - PASSBAND))); // samples, each way
const SLICE = 1 << 15; // samples between two looks at whether to stop

/** Samples at the rate `to` that span `samples` at the rate `from`. */
export function resampledLength(samples, from, to) {
  return Math.ceil((samples * to) / from);
}

/** Channels (Float32Arrays) at the rate `to`. `step(share)` is awaited now and then. */
export async function resample(channels, from, to, step) {
  if (from === to) return channels;
  const divisor = gcd(from, to);
  const phases = to / divisor;
  const stride = from / divisor; // of `phases` input samples
  const table = polyphase(phases, Math.min(1, to / from));
  const taps = table.length / phases;
  const total = resampledLength(channels[0].length, from, to);
  const results = channels.map(() => new Float32Array(total));
  for (let start = 0; start < total; start += SLICE) {
    const stop = Math.min(total, start + SLICE);
    channels.forEach((input, channel) => {
      const output = results[channel];
      for (let n = start; n < stop; n += 1) {
        const place = n * stride; // in units of 1/phases input samples
        const first = Math.floor(place / phases) - taps / 2 + 1;
        const row = (place % phases) * taps;
        const end = Math.min(taps, input.length - first);
        let sum = 0;
        for (let k = Math.max(0, -first); k < end; k += 1) sum += table[row + k] * input[first + k];
        output[n] = sum;
      }
    });
    await step(stop / total);
  }
  return results;
}

/** The filter between samples, a row for each of `phases` places between two of them. */
function polyphase(phases, ratio) {
  const cutoff = ((1 + PASSBAND) / 2) * ratio; // of the input's Nyquist frequency
  const half = Math.ceil(REACH / ratio);
  const taps = 2 * half;
  const table = new Float32Array(phases * taps);
  const scale = 1 / bessel(BETA);
  for (let phase = 0; phase < phases; phase += 1) {
    for (let k = 0; k < taps; k += 1) {
      const time = phase / phases + half - 1 - k;
      const x = Math.PI * cutoff * time;
      const window = scale * bessel(BETA * Math.sqrt(Math.max(0, 1 - (time / half) ** 2)));
      table[phase * taps + k] = (x ? Math.sin(x) / x : 1) * cutoff * window;
    }
  }
  return table;
}

/** The modified Bessel function of order zero. */
function bessel(x) {
  let sum = 1;
  for (let k = 1, term = 1; term > 1e-12 * sum; k += 1) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}
