/* Everything that takes long, beside the page: one job at a time.

   In:  {job, channels, rate} with the audio as Float32Arrays; {stop} cancels.
   Out: {job, progress, share}, {job, original, about}, {job, done}, {job, failed}. */
import { Codec } from './codec.js';
import { resample } from './resample.js';
import { spectrograms } from './pictures.js';

const LONGEST_MINUTES = 20; // a browser holds the original, the result and copies for playing
const TURN = 50; // milliseconds of work before messages are looked at

const base = new URL('.', import.meta.url);
const wanted = new URLSearchParams(self.name).get('backend');
let codec = null;
let current = 0; // the job that is wanted; 0 for none
let queue = Promise.resolve(); // a graph computes one thing at a time

class Stopped extends Error {}
class Refused extends Error {}

self.onmessage = function ({ data }) {
  current = data.stop ? 0 : data.job;
  if (!data.stop) queue = queue.then(() => work(data));
};

async function work(data) {
  const { job } = data;
  const say = (message, transfer) => self.postMessage({ job, ...message }, transfer || []);
  try {
    await run(data, (progress, share) => say({ progress, share }), say);
  } catch (error) {
    if (error instanceof Stopped) return;
    // Out of memory, or a graphics driver that was lost: the next song gets a new start.
    if (!(error instanceof Refused)) codec = null;
    say({ failed: String(error.message || error).split('\n')[0] });
  }
}

/** A function that tells of progress, and now and then lets messages in and heeds a stop. */
function stepper(job, tell, what) {
  let last = performance.now();
  return async function (share) {
    if (performance.now() - last > TURN) {
      tell(what, share);
      await new Promise((resolve) => setTimeout(resolve, 0));
      last = performance.now();
    }
    if (current !== job) throw new Stopped();
  };
}

async function run({ job, channels, rate }, tell, say) {
  const step = (what) => stepper(job, tell, what);
  const samples = channels[0].length;
  if (!samples) throw new Refused('It holds no sound');
  if (samples > LONGEST_MINUTES * 60 * rate) {
    throw new Refused('It is longer than ' + LONGEST_MINUTES + ' minutes; `earvae reconstruct` takes any length');
  }
  if (channels.length > 2) {
    throw new Refused('It has ' + channels.length + ' channels; fold it down to stereo first');
  }
  if (!codec) codec = await Codec.load(base, tell, wanted);
  if (current !== job) throw new Stopped();
  const { model } = codec;
  const original = await resample(channels, rate, model.sample_rate, step('Resampling'));
  const about = { model, backend: codec.backend, threads: codec.threads };
  say({ original, about }); // a copy: it is compared with the result below

  const started = performance.now();
  const length = original[0].length;
  const input = fitted(original, model.audio_channels);
  const latents = await codec.encode(input, step('Encoding'));
  let result = await codec.decode(latents, length, step('Decoding'));
  const seconds = (performance.now() - started) / 1000;
  if (original.length < result.length) result = fitted(result, 1);
  const metadata = {
    format: 'earvae-latents', format_version: '1', sample_rate: model.sample_rate,
    original_rate: rate, channels: original.length, hop_length: model.hop_length,
    model: model.model, latents: 'mean', samples: length, original_samples: samples,
  };
  const draw = step('Drawing');
  const pictures = [
    await spectrograms(original, model.sample_rate, (share) => draw(share / 2)),
    await spectrograms(result, model.sample_rate, (share) => draw((1 + share) / 2)),
  ];
  say({ done: { result, latents, metadata, pictures, seconds } }, [latents.buffer]);
}

/** Mono as stereo, or stereo as its mean. */
function fitted(channels, count) {
  if (channels.length === count) return channels;
  if (channels.length === 1) return Array(count).fill(channels[0]);
  return [channels[0].map((value, n) => (value + channels[1][n]) / 2)];
}
