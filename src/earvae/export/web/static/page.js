/* The page: a file comes in, the worker does the work, both versions are heard and seen. */
import { evened, readHeader, readWav, toSafetensors, toWav } from './formats.js';
import { paintLatents, paintSpectrogram, ticks, topOfScale } from './pictures.js';

const LARGEST = 1 << 30; // bytes of a file
const BARS = 1500; // of the envelope
const HEADROOM = 0.99;
const earvae = window.earvae;
const by = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const number = new Intl.NumberFormat('en').format;

/** The worker, by way of a blob: so the page's policy (connect to nothing else) binds it, too. */
function startWorker() {
  const script = 'import ' + JSON.stringify(new URL('worker.js', import.meta.url).href) + ';';
  const url = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
  const worker = new Worker(url, { type: 'module', name: location.search.slice(1) });
  worker.onmessage = ({ data }) => heed(data);
  worker.onerror = (event) => fail(event.message || 'The worker cannot start; reload the page');
  return worker;
}

/** Both versions for the report's player: 0 the original, 1 the reconstruction. */
class Sounds {
  constructor(rate) {
    this.rate = rate;
    this.buffers = new Map();
  }

  put(version, channels) {
    const options = { length: channels[0].length, numberOfChannels: channels.length, sampleRate: this.rate };
    const buffer = new AudioBuffer(options);
    channels.forEach((channel, n) => buffer.copyToChannel(channel, n));
    this.buffers.set(version, buffer);
  }

  has(version) {
    return this.buffers.has(version);
  }

  async load(version) {
    if (!this.has(version)) throw new Error('The reconstruction is not ready yet');
  }
}

let worker = null;
let job = 0;
let song = null; // what is known of the file at work
let player = null;
let timeline = null;

// ------------------------------------------------------------------------------ a file comes in

async function take(file) {
  if (!file) return;
  job += 1;
  const mine = job;
  player?.pause();
  song = { name: file.name.replace(/\.[^.]*$/, ''), file: file.name };
  by('result').hidden = true;
  show('Reading ' + file.name, null);
  try {
    if (file.size > LARGEST) throw new Error('It is larger than a gigabyte');
    const { channels, rate, source } = await decoded(await file.arrayBuffer());
    if (mine !== job) return;
    Object.assign(song, { rate: source, channels: channels.length });
    worker = worker || startWorker();
    worker.postMessage({ job, channels, rate }, channels.map((channel) => channel.buffer));
  } catch (error) {
    if (mine === job) fail(error.message || String(error));
  }
}

/** `{channels, rate, source}`: `source` is the file's own rate, null where only the browser knows. */
async function decoded(buffer) {
  const wav = readWav(buffer);
  if (wav) return { ...wav, source: wav.rate };
  const { rate: source, bits } = readHeader(buffer);
  const { sample_rate: ours } = await modelOf();
  let context; // its rate is that of what it decodes
  try {
    context = new OfflineAudioContext(2, 1, source || ours);
  } catch (error) {
    context = new OfflineAudioContext(2, 1, ours); // a rate that the browser does not do
  }
  let audio;
  try {
    audio = await context.decodeAudioData(buffer);
  } catch (error) {
    throw new Error('This browser cannot decode it; try WAV, FLAC or MP3');
  }
  const channels = Array.from({ length: audio.numberOfChannels }, (_, n) => audio.getChannelData(n).slice());
  const whole = bits === 16 && audio.sampleRate === source; // not resampled by the browser
  return { channels: whole ? evened(channels) : channels, rate: audio.sampleRate, source };
}

async function modelOf() {
  const response = await fetch(new URL('model.json', import.meta.url));
  if (!response.ok) throw new Error('model.json is missing beside the page');
  return response.json();
}

// ------------------------------------------------------------------------- the worker's messages

function heed(data) {
  if (data.job !== job) return;
  if (data.progress) show(data.progress, data.share);
  if (data.original) begin(data);
  if (data.done) finish(data.done);
  if (data.failed) fail(data.failed);
}

/** The original can be heard while the rest is computed. */
function begin({ original, about }) {
  Object.assign(song, { original, about });
  const rate = about.model.sample_rate;
  const sounds = new Sounds(rate);
  sounds.put(0, original);
  if (!player) {
    player = new earvae.Player(sounds, original[0].length / rate, refresh);
    timeline = new earvae.Timeline(player, []);
    requestAnimationFrame(frame);
  }
  player.sounds = sounds;
  Object.assign(player, { duration: original[0].length / rate, offset: 0, version: 0, heard: 0, loop: null });
  timeline.envelope = envelope(original);
  by('result').hidden = false;
  by('title').textContent = song.file;
  by('length').textContent = earvae.clock(player.duration);
  for (const part of all('.later')) part.hidden = true;
  by('original-rate').textContent = resampling(rate);
  setLevels([original]);
  timeline.paint();
  refresh();
  earvae.page = { player, song };
}

/** What became of the file's rate, in words. */
function resampling(rate) {
  if (song.rate === rate) return 'at ' + number(rate) + ' Hz, as the file';
  const from = song.rate ? 'from ' + number(song.rate) + ' Hz ' : '(if it had another rate, by the browser) ';
  return 'resampled ' + from + 'to the model’s ' + number(rate) + ' Hz';
}

function finish(done) {
  Object.assign(song, done);
  const { model, backend, threads } = song.about;
  player.sounds.put(1, done.result);
  setLevels([song.original, done.result]);
  for (const part of all('.later')) part.hidden = false;
  by('progress').hidden = true;
  const count = model.latent_channels;
  by('latents-fact').textContent =
    count + ' × ' + number(done.latents.length / count) + ' at ' + (model.sample_rate / model.hop_length).toFixed(2) + ' Hz';
  const where = backend === 'webgpu' ? 'WebGPU' : threads + (threads > 1 ? ' threads' : ' thread') + ' of the CPU';
  by('speed').textContent = done.seconds.toFixed(1) + ' s, ' + (player.duration / done.seconds).toFixed(1)
    + ' × real time, on ' + where;
  by('model').textContent = model.model;
  const [original, result] = done.pictures;
  for (const signal of ['mid', 'side']) {
    const top = topOfScale([original[signal], result[signal]]);
    paintSpectrogram(by('original-' + signal), original[signal], top);
    paintSpectrogram(by('result-' + signal), result[signal], top);
  }
  paintLatents(by('latents'), done.latents, count);
  for (const axis of all('.plot .axis.hertz')) {
    axis.replaceChildren(...ticks(model.sample_rate).map(([label, height]) => {
      const tick = document.createElement('span');
      tick.textContent = label;
      tick.style.top = 100 * (1 - height) + '%';
      return tick;
    }));
  }
  say('Ready: both versions can be heard');
  player.select(1);
}

// ------------------------------------------------------------------------------- what is shown

function show(what, share) {
  by('progress').hidden = false;
  by('failure').hidden = true;
  by('bar').toggleAttribute('value', share !== null);
  if (share !== null) by('bar').value = share;
  by('percent').textContent = share === null ? '' : Math.floor(100 * share) + ' %';
  say(what);
}

/** Say a stage, once: readers of screens speak each change. */
function say(what) {
  if (by('stage').textContent !== what) by('stage').textContent = what;
}

function fail(line) {
  by('progress').hidden = true;
  say('');
  by('failure').hidden = false;
  by('failure').textContent = (song ? song.file + ': ' : '') + line;
}

function cancel() {
  worker?.postMessage({ stop: true });
  job += 1;
  by('progress').hidden = true;
  say('Cancelled');
}

function envelope(channels) {
  const length = channels[0].length;
  const bars = Array.from({ length: Math.min(BARS, length) }, (_, bar, from = Math.floor) => {
    const stop = from(((bar + 1) * length) / Math.min(BARS, length));
    return peak(channels.map((c) => c.subarray(from((bar * length) / Math.min(BARS, length)), stop)));
  });
  const most = Math.max(...bars) || 1;
  return bars.map((value) => (100 * value) / most);
}

function peak(channels) {
  let most = 0;
  for (const channel of channels) for (const value of channel) most = Math.max(most, Math.abs(value));
  return most;
}

/** One gain for both versions: what exceeds full scale would be clipped. */
function setLevels(versions) {
  const peaks = versions.map(peak);
  const gain = Math.min(1, HEADROOM / Math.max(...peaks, 1e-9));
  player.setLevels([gain, gain]);
  by('peaks').textContent = peaks.map((value) => value.toFixed(3)).join(' → ')
    + (gain < 1 ? ', played at ' + (20 * Math.log10(gain)).toFixed(1).replace('-', '−') + ' dB' : '');
}

/** Everything but the position. */
function refresh() {
  if (!player || !timeline) return;
  by('play').textContent = player.playing || player.wanted ? 'Pause' : 'Play';
  by('loop').setAttribute('aria-pressed', String(player.loop !== null));
  for (const button of all('[data-version]')) {
    const version = Number(button.dataset.version);
    button.setAttribute('aria-pressed', String(version === player.version));
    button.disabled = !player.sounds.has(version);
  }
  by('status').textContent = player.error;
  timeline.showLoop();
  move();
}

function move() {
  const position = player.audible();
  document.body.style.setProperty('--position', (position / player.duration).toFixed(5));
  by('clock').textContent = earvae.clock(position);
  timeline.showPosition(position);
}

function frame() {
  if (player.playing) move();
  requestAnimationFrame(frame);
}

// -------------------------------------------------------------------------------- what is done

function toggle() {
  if (player.playing || player.wanted) player.pause();
  else player.play();
}

function loop() {
  player.setLoop(player.loop ? null : { start: 0, end: player.duration });
}

function download(name, content, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Do what a key says; false if it says nothing here. */
function act(event) {
  const target = event.target;
  if (event.key === ' ') {
    if (/^(BUTTON|INPUT|A|SUMMARY)$/.test(target.tagName)) return false; // that control is meant
    toggle();
  } else if (event.key === '1' || event.key === '2') {
    if (player.sounds.has(Number(event.key) - 1)) player.select(Number(event.key) - 1);
  } else if (event.key.toLowerCase() === 'r') {
    if (player.sounds.has(1)) player.select(1 - player.version);
  } else if (event.key.toLowerCase() === 'l') {
    loop();
  } else {
    return !event.shiftKey && timeline.key(event);
  }
  return true;
}

by('choose').addEventListener('click', () => by('file').click());
by('file').addEventListener('change', () => {
  take(by('file').files[0]);
  by('file').value = ''; // the same file can be chosen again
});
by('cancel').addEventListener('click', cancel);
by('play').addEventListener('click', toggle);
by('loop').addEventListener('click', loop);
for (const button of all('[data-version]')) {
  button.addEventListener('click', () => player.select(Number(button.dataset.version)));
}
for (const button of all('[data-signal]')) {
  button.addEventListener('click', () => {
    for (const other of all('[data-signal]')) other.setAttribute('aria-pressed', String(other === button));
    for (const canvas of all('canvas.mid, canvas.side')) {
      canvas.hidden = !canvas.classList.contains(button.dataset.signal);
    }
  });
}
for (const pane of all('[data-seek]')) {
  earvae.drag(pane, (share) => player.seek(share * player.duration));
}
by('save-audio').addEventListener('click', () => {
  download(song.name + '_vae.wav', toWav(song.result, song.about.model.sample_rate), 'audio/wav');
});
by('save-latents').addEventListener('click', () => {
  const bytes = toSafetensors(song.latents, song.about.model.latent_channels, song.metadata);
  download(song.name + '.safetensors', bytes, 'application/octet-stream');
});
document.addEventListener('keydown', (event) => {
  if (!player || event.ctrlKey || event.metaKey || event.altKey) return;
  if (act(event)) event.preventDefault();
});
// After a click with the mouse, Space is to play, not to press the same button again.
document.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button && event.detail > 0) button.blur();
});
// A file may be dropped anywhere.
let depth = 0;
const over = (change) => (event) => {
  event.preventDefault();
  depth = change ? Math.max(0, depth + change) : 0;
  by('drop').classList.toggle('over', depth > 0);
};
addEventListener('dragenter', over(1));
addEventListener('dragover', (event) => event.preventDefault());
addEventListener('dragleave', over(-1));
addEventListener('drop', (event) => {
  over(0)(event);
  take(event.dataTransfer.files[0]);
});
by('unserved').hidden = true;
by('drop').hidden = false;
