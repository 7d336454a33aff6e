/* A model's graphs in ONNX Runtime Web, and exact encoding and decoding in chunks.

   Chunks have as much context on both sides as the network sees, as in runner.py beside the graphs
   of `earvae export --onnx`: their results equal those of the whole. */

const CHUNK_SECONDS = 5;
const MOST_THREADS = 8; // more do not help

/** The model that `model.json` tells of.

    Fields: `backend` ("webgpu" or "wasm"), `threads`, and those of model.json in `model`. */
export class Codec {
  /** Not loaded yet; see `load`. */
  constructor(base, model) {
    this.base = base;
    this.model = model;
    this.sessions = {};
    this.chunk = Math.max(1, Math.round((CHUNK_SECONDS * model.sample_rate) / model.hop_length));
  }

  /** Load the graphs. `tell(text, share)` is called on the way; `wanted` forces a backend.

      WebGPU is taken where there is one, loads the model and computes a short signal as PyTorch
      did when the page was made; else the CPU computes. Raises Error in one line. */
  static async load(base, tell, wanted) {
    const model = await (await fetched(new URL('model.json', base))).json();
    const codec = new Codec(base, model);
    const graphs = await codec.download(tell);
    if (wanted === 'webgpu' || (wanted !== 'wasm' && (await hasWebGpu()))) {
      try {
        await codec.open('webgpu', graphs, tell);
        if (await codec.isRight()) return codec;
        throw new Error('WebGPU computes other numbers here');
      } catch (error) {
        if (wanted === 'webgpu') throw error;
      }
    }
    await codec.open('wasm', graphs, tell);
    return codec;
  }

  /** The graphs' bytes by part. */
  async download(tell) {
    const parts = Object.entries(this.model.parts);
    const total = parts.reduce((sum, part) => sum + part[1].bytes, 0);
    const graphs = {};
    let done = 0;
    for (const [name, part] of parts) {
      const url = new URL(part.file + '?' + this.model.model, this.base); // never two models' mixed
      const bytes = new Uint8Array(part.bytes);
      const reader = (await fetched(url)).body.getReader();
      let at = 0;
      for (;;) {
        const { done: finished, value } = await reader.read();
        if (finished) break;
        if (at + value.length > bytes.length) throw new Error(part.file + ' is longer than it should be');
        bytes.set(value, at);
        at += value.length;
        tell('Loading the model', (done + at) / total);
      }
      if (at < bytes.length) throw new Error(part.file + ' is cut off; reload the page');
      graphs[name] = bytes;
      done += at;
    }
    return graphs;
  }

  async open(backend, graphs, tell) {
    tell('Starting ONNX Runtime', null);
    const files = this.model.onnxruntime[backend];
    const url = (name) => new URL(name, this.base).href;
    const ort = await import(url(files.module));
    ort.env.logLevel = 'error';
    ort.env.wasm.wasmPaths = { mjs: url(files.glue), wasm: url(files.wasm) };
    const processors = self.navigator.hardwareConcurrency || 1;
    this.threads = self.crossOriginIsolated ? Math.min(MOST_THREADS, processors) : 1;
    ort.env.wasm.numThreads = this.threads;
    this.ort = ort;
    this.backend = backend;
    for (const [name, bytes] of Object.entries(graphs)) {
      const options = { executionProviders: [backend], logSeverityLevel: 3 }; // errors
      this.sessions[name] = await ort.InferenceSession.create(bytes, options);
    }
  }

  /** Whether the check signal gives PyTorch's numbers. */
  async isRight() {
    const { check, audio_channels: channels, latent_channels: latents } = this.model;
    const audio = Array.from({ length: channels }, (_, channel) =>
      Float32Array.from({ length: check.samples }, (_, n) => 0.5 * Math.sin(5e-6 * n * n + channel)));
    const idle = async () => {};
    const mean = await this.encode(audio, idle);
    const decoded = await this.decode(mean, check.samples, idle);
    const frames = mean.length / latents;
    const found = {
      mean: check.mean.map((_, channel) => mean[channel * frames + check.frame]),
      audio: check.audio.map((_, k) => decoded[k % channels][Math.floor(k / channels) * check.every]),
    };
    return ['mean', 'audio'].every((name) => {
      const most = Math.max(...check[name].map(Math.abs));
      return check[name].every((value, k) => Math.abs(value - found[name][k]) <= check.tolerance * most);
    });
  }

  /** Latent frames whose decoding holds at least `samples` samples. */
  framesFor(samples) {
    const { hop_length: hop, tail_deficit: deficit } = this.model;
    return Math.max(1, Math.ceil((samples + deficit) / hop));
  }

  /** What a graph's first output is for values of shape [1, rows, columns]. A decoder that adds
      noise goes by the place in the song at which they begin. */
  async run(part, rows, columns, values, firstFrame = 0) {
    const session = this.sessions[part];
    const inputs = { [session.inputNames[0]]: new this.ort.Tensor('float32', values, [1, rows, columns]) };
    if (session.inputNames.includes('first_frame')) {
      inputs.first_frame = new this.ort.Tensor('int64', [BigInt(firstFrame)], [1]);
    }
    const outputs = await session.run(inputs);
    const result = outputs[session.outputNames[0]];
    const data = await result.getData();
    for (const output of Object.values(outputs)) output.dispose();
    return { data, columns: result.dims[2] };
  }

  /** The posterior's mean, [latent, frames] in one array, of channels of one length.
      `step(share)` is awaited after each chunk. */
  async encode(channels, step) {
    const { hop_length: hop, latent_channels: latents } = this.model;
    const context = this.model.parts.encoder.context_frames;
    const frames = this.framesFor(channels[0].length);
    const mean = new Float32Array(latents * frames);
    for (let start = 0; start < frames; start += this.chunk) {
      const stop = Math.min(frames, start + this.chunk);
      const low = Math.max(0, start - context);
      const high = Math.min(frames, stop + context);
      const length = (high - low) * hop;
      const input = new Float32Array(channels.length * length); // zeros fill the last frame
      channels.forEach((channel, n) => input.set(channel.subarray(low * hop, high * hop), n * length));
      const found = await this.run('encoder', channels.length, length, input);
      copyRows(found.data, found.columns, start - low, mean, frames, start, stop - start, latents);
      await step(stop / frames);
    }
    if (!mean.every(Number.isFinite)) throw new Error('Its latents are not finite; check its level');
    return mean;
  }

  /** The first `samples` samples of latents [latent, frames], a Float32Array a channel.
      They may exceed full scale. `step(share)` is awaited after each chunk. */
  async decode(mean, samples, step) {
    const { hop_length: hop, latent_channels: latents, audio_channels: count } = this.model;
    const context = this.model.parts.decoder.context_frames;
    const frames = mean.length / latents;
    if (this.sessions.transformer) {
      mean = (await this.run('transformer', latents, frames, mean)).data;
    }
    const channels = Array.from({ length: count }, () => new Float32Array(samples));
    for (let start = 0; start < frames; start += this.chunk) {
      const stop = Math.min(frames, start + this.chunk);
      const low = Math.max(0, start - context);
      const high = Math.min(frames, stop + context);
      const input = new Float32Array(latents * (high - low));
      copyRows(mean, frames, low, input, high - low, 0, high - low, latents);
      const { data, columns } = await this.run('decoder', latents, high - low, input, low);
      const end = Math.min(stop * hop, samples);
      channels.forEach((channel, n) => {
        const from = n * columns - low * hop;
        if (start * hop < end) channel.set(data.subarray(from + start * hop, from + end), start * hop);
      });
      await step(stop / frames);
    }
    return channels;
  }
}

/** Copy `count` columns of each row of one matrix into another. */
function copyRows(source, width, from, target, targetWidth, to, count, rows) {
  for (let row = 0; row < rows; row += 1) {
    const first = row * width + from;
    target.set(source.subarray(first, first + count), row * targetWidth + to);
  }
}

/** Whether there is a GPU, and not a program that plays one, which is slower than the CPU. */
async function hasWebGpu() {
  try {
    const adapter = await self.navigator.gpu.requestAdapter();
    return adapter !== null && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  } catch (error) {
    return false; // no WebGPU at all
  }
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(url.pathname.split('/').pop() + ' is missing (' + response.status + ')');
  return response;
}
