/* Bytes of files: WAV in and out, what other containers say of their rate, latents as
   `earvae encode` writes them. */

const text = (bytes, at, length) => String.fromCharCode(...bytes.subarray(at, at + length));

/** The channels and the rate of a WAV file, as `{rate, channels}`; null if it is none, or of a kind
    that is left to the browser. Samples become float32 as libsndfile makes them. */
export function readWav(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (bytes.length < 12 || text(bytes, 0, 4) !== 'RIFF' || text(bytes, 8, 4) !== 'WAVE') return null;
  let format = null;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = text(bytes, at, 4);
    const size = view.getUint32(at + 4, true);
    const start = at + 8;
    if (name === 'fmt ' && start + 16 <= bytes.length) {
      const extensible = view.getUint16(start, true) === 0xfffe && start + 26 <= bytes.length;
      format = {
        kind: view.getUint16(extensible ? start + 24 : start, true),
        count: view.getUint16(start + 2, true),
        rate: view.getUint32(start + 4, true),
        bits: view.getUint16(start + 14, true),
      };
    } else if (name === 'data' && format) {
      return samplesOf(view, start, size, format);
    }
    at = start + size + (size % 2);
  }
  return null;
}

function samplesOf(view, start, size, { kind, count, rate, bits }) {
  const reader = {
    '1.8': (at) => (view.getUint8(at) - 128) / 128,
    '1.16': (at) => view.getInt16(at, true) / 32768,
    '1.24': (at) => ((view.getInt16(at + 1, true) << 8) | view.getUint8(at)) / 8388608,
    '1.32': (at) => view.getInt32(at, true) / 2147483648,
    '3.32': (at) => view.getFloat32(at, true),
    '3.64': (at) => view.getFloat64(at, true),
  }[kind + '.' + bits];
  if (!reader || !count || !rate) return null;
  const there = view.byteLength - start;
  const streamed = size === 0 || size === 0xffffffff; // written to a pipe: up to the end
  if (size > there && !streamed) {
    throw new Error('It is cut off: ' + there + ' of ' + size + ' bytes of sound are there');
  }
  const width = bits / 8;
  const samples = Math.floor((streamed ? there : size) / (count * width));
  const channels = Array.from({ length: count }, (_, channel) => {
    const values = new Float32Array(samples);
    for (let n = 0; n < samples; n += 1) values[n] = reader(start + (n * count + channel) * width);
    return values;
  });
  return { rate, channels };
}

/** What the first bytes of a FLAC, Ogg or MP3 file tell, `{rate, bits}`; null where they do not.
    Bits are those of a sample, of FLAC only. */
export function readHeader(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const of = (rate, bits = null) => ({ rate: rate || null, bits });
  const flac = (at) => // at: of "fLaC"
    of((view.getUint16(at + 18) << 4) | (bytes[at + 20] >> 4), ((view.getUint16(at + 20) >> 4) & 31) + 1);
  try {
    let start = 0;
    if (text(bytes, 0, 3) === 'ID3') {
      start = 10 + [6, 7, 8, 9].reduce((size, at) => (size << 7) | (bytes[at] & 127), 0);
    }
    if (text(bytes, start, 4) === 'fLaC') return flac(start);
    if (text(bytes, 0, 4) === 'OggS') {
      const packet = 27 + bytes[26];
      if (text(bytes, packet, 8) === 'OpusHead') return of(48000);
      if (text(bytes, packet + 1, 6) === 'vorbis') return of(view.getUint32(packet + 12, true));
      if (text(bytes, packet + 9, 4) === 'fLaC') return flac(packet + 9);
      return of(null);
    }
    const [sync, second, third] = bytes.subarray(start, start + 3);
    const version = (second >> 3) & 3;
    const isMp3 = sync === 255 && second >= 224 && ((second >> 1) & 3) === 1 && version !== 1;
    const rate = [44100, 48000, 32000][(third >> 2) & 3];
    return of(isMp3 && rate && rate / { 3: 1, 2: 2, 0: 4 }[version]);
  } catch (error) {
    return of(null); // shorter than its header
  }
}

/** Samples of 16 bits as all others have them: Chromium divides those above zero by 32767. */
export function evened(channels) {
  const isWhole = (value) => Math.abs(value - Math.round(value)) < 0.01;
  if (channels.every((channel) => channel.every((value) => isWhole(32768 * value)))) return channels;
  return channels.map((channel) => channel.map((value) => (value > 0 ? (value * 32767) / 32768 : value)));
}

/** A WAV file of 32-bit floats: nothing is clipped or rounded. */
export function toWav(channels, rate) {
  const count = channels.length;
  const samples = channels[0].length;
  const size = 4 * count * samples;
  const buffer = new ArrayBuffer(58 + size);
  const view = new DataView(buffer);
  const word = (at, letters) => [...letters].forEach((c, k) => view.setUint8(at + k, c.charCodeAt(0)));
  word(0, 'RIFF');
  view.setUint32(4, 50 + size, true);
  word(8, 'WAVEfmt ');
  view.setUint32(16, 18, true);
  view.setUint16(20, 3, true); // IEEE float
  view.setUint16(22, count, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 4 * count * rate, true);
  view.setUint16(32, 4 * count, true);
  view.setUint16(34, 32, true);
  word(38, 'fact');
  view.setUint32(42, 4, true);
  view.setUint32(46, samples, true);
  word(50, 'data');
  view.setUint32(54, size, true);
  for (let n = 0, at = 58; n < samples; n += 1) {
    for (let channel = 0; channel < count; channel += 1, at += 4) {
      view.setFloat32(at, channels[channel][n], true);
    }
  }
  return buffer;
}

/** A safetensors file of latents [rows, columns], as `earvae encode` writes it. */
export function toSafetensors(latents, rows, metadata) {
  const words = Object.fromEntries(Object.entries(metadata).map(([key, value]) => [key, String(value)]));
  const tensor = { dtype: 'F32', shape: [rows, latents.length / rows], data_offsets: [0, latents.byteLength] };
  const header = new TextEncoder().encode(JSON.stringify({ __metadata__: words, latents: tensor }));
  const length = Math.ceil(header.length / 8) * 8;
  const buffer = new ArrayBuffer(8 + length + latents.byteLength);
  const bytes = new Uint8Array(buffer).fill(32, 8, 8 + length);
  new DataView(buffer).setUint32(0, length, true);
  bytes.set(header, 8);
  bytes.set(new Uint8Array(latents.buffer, latents.byteOffset, latents.byteLength), 8 + length);
  return buffer;
}
