#!/usr/bin/env python3
"""Run an exported εar-VAE without PyTorch: needs onnxruntime, numpy and soundfile, nothing else.

This one file is complete in itself; `earvae export --onnx FOLDER` puts a copy beside the graphs.

    python FOLDER/runner.py reconstruct song.wav out.wav
    python FOLDER/runner.py encode song.wav song.safetensors
    python FOLDER/runner.py decode song.safetensors out.wav
    python FOLDER/runner.py info

    >>> model = Runner("FOLDER")
    >>> mean, std = model.encode(audio)         # float32 [batch, 2, samples]
    >>> audio = model.decode(mean, samples)     # exactly `samples` samples

Audio of any length is computed in chunks with as much context on both sides as the network sees,
so that chunked equals whole: any length in flat memory, no crossfade, as many samples out as in.
Latent files are those of `earvae encode`, and either program reads the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

FORMAT = "earvae-onnx"
FORMAT_VERSION = "1"
CHUNK_FRAMES = 430  # about ten seconds
BLOCK_SAMPLES = 65_536  # read at a time, per channel

LATENT_FORMAT = "earvae-latents"
LATENT_FORMAT_VERSION = "1"
LATENT_SUFFIX = ".safetensors"
STATISTICS_NAME = "latent_stats.json"
FLOAT_SUFFIXES = (".wav", ".w64", ".rf64", ".caf", ".aiff")  # containers that hold float32
SMALL_SUFFIXES = (".wav", ".aiff")  # their headers count to 4 GiB
HEADER_LIMIT = 2**32 - 2**16  # bytes of audio, with room for the header


class RunnerError(Exception):
    """What cannot be done, in one line that says why."""


class Runner:
    """The graphs of a folder, and exact chunked encoding and decoding with them.

    Args:
        folder: written by `earvae export --onnx`; only the encoder or only the decoder will do
            for work in one direction.
        threads: how many a computation takes; None lets onnxruntime decide.
        providers: names of onnxruntime's execution providers, in order of preference.

    Attributes:
        sample_rate: Hz.
        hop_length: samples per latent frame.
        audio_channels, latent_channels: as the names say.
        tail_deficit: samples that the decoder ends short of whole frames.
        model: twelve hex digits; the same as `earvae info` prints for the PyTorch model.
        metadata: all that the files say of themselves.

    Raises RunnerError for a folder without graphs, or with graphs of several models.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._context: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        for part in ("encoder", "transformer", "decoder"):
            path = Path(folder) / f"{part}.onnx"
            if path.is_file():
                self._sessions[part] = _session(path, options, list(providers))
                self._read_metadata(path, part)
        if not self._sessions:
            raise RunnerError(
                f"{folder}: holds no encoder.onnx or decoder.onnx; "
                "write them with `earvae export --onnx FOLDER`"
            )
        needs_transformer = self.metadata["has_transformer"] == "true"
        if needs_transformer and "decoder" in self._sessions and "transformer" not in self._context:
            raise RunnerError(f"{folder}: transformer.onnx is missing; this model decodes with it")
        self.sample_rate = int(self.metadata["sample_rate"])
        self.hop_length = int(self.metadata["hop_length"])
        self.audio_channels = int(self.metadata["audio_channels"])
        self.latent_channels = int(self.metadata["latent_channels"])
        self.tail_deficit = int(self.metadata["tail_deficit"])
        self.model = self.metadata["model"]

    def _read_metadata(self, path: Path, part: str) -> None:
        found = self._sessions[part].get_modelmeta().custom_metadata_map
        if found.get("format") != FORMAT or found.get("part") != part:
            raise RunnerError(f"{path}: not a graph of `earvae export --onnx`")
        if found.get("format_version") != FORMAT_VERSION:
            raise RunnerError(
                f"{path}: format version {found.get('format_version')}, this program reads "
                f"{FORMAT_VERSION}; use the runner.py that came with it"
            )
        if self.metadata and self.metadata["model"] != found["model"]:
            raise RunnerError(
                f"{path}: is of model {found['model']}, the file beside it of "
                f"{self.metadata['model']}; export both again"
            )
        self._context[part] = int(found["context_frames"])
        self.metadata = {**found, **self.metadata}

    def _run(self, part: str, **inputs: np.ndarray) -> list[np.ndarray]:
        if part not in self._sessions:
            raise RunnerError(f"{part}.onnx is missing in the model's folder")
        return self._sessions[part].run(None, inputs)

    def frames_for(self, samples: int) -> int:
        """Latent frames whose decoding holds at least ``samples`` samples."""
        return max(1, -(-(samples + self.tail_deficit) // self.hop_length))

    def encode(
        self, audio: np.ndarray, chunk_frames: int = CHUNK_FRAMES
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each float32 ``[batch, latent, frames]``, of audio
        ``[batch, channels, samples]`` (full scale ±1). Raises ValueError for another shape, for
        no samples, or for a chunk shorter than a frame."""
        if audio.ndim != 3 or audio.shape[1] != self.audio_channels:
            raise ValueError(
                f"audio must be [batch, {self.audio_channels}, samples], got {list(audio.shape)}"
            )
        block = max(1, chunk_frames) * self.hop_length
        blocks = (audio[..., start : start + block] for start in range(0, audio.shape[2], block))
        mean, std, _ = self.encode_stream(blocks, chunk_frames)
        return mean, std

    def decode(
        self, latents: np.ndarray, samples: int, chunk_frames: int = CHUNK_FRAMES
    ) -> np.ndarray:
        """The first ``samples`` samples of decoded latents ``[batch, latent, frames]``, float32
        ``[batch, channels, samples]``; may overshoot ±1. Raises ValueError for another shape or
        too few frames."""
        return np.concatenate(list(self.decode_stream(latents, samples, chunk_frames)), axis=2)

    def reconstruct(self, audio: np.ndarray, chunk_frames: int = CHUNK_FRAMES) -> np.ndarray:
        """Audio ``[batch, channels, samples]`` through the codec and back, of the same length;
        its latents are the posterior's mean."""
        mean, _ = self.encode(audio, chunk_frames)
        return self.decode(mean, audio.shape[2], chunk_frames)

    def encode_stream(
        self, blocks: Iterable[np.ndarray], chunk_frames: int = CHUNK_FRAMES
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Mean, standard deviation ``[batch, latent, frames]`` and number of samples of audio that
        arrives in blocks ``[batch, channels, n]`` of any lengths. Holds a chunk and its context."""
        _check_chunk(chunk_frames)
        hop, context = self.hop_length, self._context.get("encoder", 0)
        means: list[np.ndarray] = []
        stds: list[np.ndarray] = []
        held: list[np.ndarray] = []  # audio from frame `first` on
        first = done = samples = 0  # `done` frames are encoded
        for block in chain(blocks, [None]):
            if block is not None:
                held.append(block)
                samples += block.shape[2]
                certain, enough = samples // hop - context, chunk_frames
            elif samples:  # the end: zeros fill the last frame
                certain, enough = self.frames_for(samples), 1
                held.append(np.zeros((*held[0].shape[:2], certain * hop - samples), np.float32))
            else:
                raise ValueError("audio holds no samples")
            while certain - done >= enough:
                audio = np.concatenate(held, axis=2)
                stop = min(done + chunk_frames, certain)
                reach = min(stop + context - first, audio.shape[2] // hop)
                inputs = np.ascontiguousarray(audio[..., : reach * hop], np.float32)
                mean, std = self._run("encoder", audio=inputs)
                means.append(mean[..., done - first : stop - first])
                stds.append(std[..., done - first : stop - first])
                keep = max(first, stop - context)
                held = [audio[..., (keep - first) * hop :]]
                first, done = keep, stop
        return np.concatenate(means, axis=2), np.concatenate(stds, axis=2), samples

    def decode_stream(
        self, latents: np.ndarray, samples: int, chunk_frames: int = CHUNK_FRAMES
    ) -> Iterator[np.ndarray]:
        """The decoded audio of latents ``[batch, latent, frames]`` in blocks ``[batch, channels,
        n]``, ``samples`` in all: the transformer once, then the decoder in chunks."""
        if latents.ndim != 3 or latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents must be [batch, {self.latent_channels}, frames], "
                f"got {list(latents.shape)}"
            )
        _check_chunk(chunk_frames)
        frames, hop, context = latents.shape[2], self.hop_length, self._context.get("decoder", 0)
        if samples > frames * hop - self.tail_deficit:
            raise ValueError(f"{frames} latent frames cannot hold {samples} samples")
        latents = np.ascontiguousarray(latents, np.float32)
        if "transformer" in self._sessions:
            (latents,) = self._run("transformer", latents=latents)
        for start in range(0, frames, chunk_frames):
            stop = min(start + chunk_frames, frames)
            low, high = max(0, start - context), min(frames, stop + context)
            (audio,) = self._run("decoder", latents=np.ascontiguousarray(latents[..., low:high]))
            end = min(stop * hop, samples)
            if start * hop < end:
                yield audio[..., (start - low) * hop : end - low * hop]


def _check_chunk(chunk_frames: int) -> None:
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")


def _session(
    path: Path, options: onnxruntime.SessionOptions, providers: list[str]
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises many kinds; the user needs one line
        reason = str(error).strip().splitlines()[0]
        raise RunnerError(f"{path}: onnxruntime cannot load it: {reason}") from None


# --------------------------------------------------------------------------- audio files


class AudioInput:
    """A mono or stereo sound file at the model's rate, as blocks.

    Raises RunnerError: unreadable, another rate, more than two channels, and from ``blocks``
    for damage, NaN or no samples.
    """

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        self.path = Path(path)
        try:
            info = soundfile.info(str(path))
        except (soundfile.SoundFileError, OSError) as error:
            reason = "no such file" if not self.path.is_file() else str(error).splitlines()[0]
            raise RunnerError(f"{path}: cannot be read: {reason}") from None
        self.channels = info.channels
        if info.samplerate != sample_rate:
            raise RunnerError(
                f"{path}: is at {info.samplerate} Hz, the model at {sample_rate}; "
                f"resample it first, for instance with `ffmpeg -i IN -ar {sample_rate} OUT.wav`"
            )
        if self.channels > 2:
            raise RunnerError(f"{path}: has {self.channels} channels; fold it to stereo first")

    def blocks(self, channels: int) -> Iterator[np.ndarray]:
        """Float32 ``[1, channels, n]`` each; mono is repeated for a stereo model."""
        samples = 0
        try:
            with soundfile.SoundFile(str(self.path)) as file:
                while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                    if not np.isfinite(block).all():
                        raise RunnerError(f"{self.path}: holds NaN or infinity")
                    samples += len(block)
                    if self.channels == 2 and channels == 1:
                        block = block.mean(axis=1, keepdims=True)
                    yield np.repeat(block.T[None], channels // block.shape[1], axis=1)
        except soundfile.SoundFileError as error:
            reason = str(error).splitlines()[0]
            raise RunnerError(f"{self.path}: damaged or cut off: {reason}") from None
        if samples == 0:
            raise RunnerError(f"{self.path}: holds no audio samples")


def write_audio(
    path: str | Path, blocks: Iterable[np.ndarray], rate: int, channels: int, samples: int
) -> float:
    """Write blocks ``[1, n_channels, n]`` as a float32 file of ``channels``; the largest magnitude.

    Two channels become one by their mean. Only float containers, since integers would clip what
    overshoots. The file appears when it is complete. Raises RunnerError.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FLOAT_SUFFIXES:
        raise RunnerError(
            f"{path}: decoded audio may exceed full scale, which integer formats cut off; "
            f"write one of {', '.join(FLOAT_SUFFIXES)} and convert that"
        )
    if suffix in SMALL_SUFFIXES and samples * channels * 4 > HEADER_LIMIT:
        raise RunnerError(f"{path}: more than 4 GiB; write .w64 or .rf64")
    peak = 0.0
    form = {"subtype": "FLOAT", "format": suffix.removeprefix(".").upper()}
    with (
        _atomic(path) as temporary,
        soundfile.SoundFile(str(temporary), "w", rate, channels, **form) as file,
    ):
        for block in blocks:
            if channels < block.shape[1]:
                block = block.mean(axis=1, keepdims=True, dtype=np.float32)
            peak = max(peak, float(np.abs(block).max(initial=0)))
            file.write(block[0].T)
    return peak


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place once all is written."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise RunnerError(f"{path}: cannot be written: {error.strerror}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except (OSError, soundfile.SoundFileError) as error:
        raise RunnerError(f"{path}: cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


# --------------------------------------------------------------------------- latent files


def write_latents(path: str | Path, latents: np.ndarray, properties: dict[str, object]) -> None:
    """A safetensors file with float32 ``latents [latent, frames]`` and string metadata.

    Eight bytes of header length, a JSON header, the numbers in little-endian order.
    """
    data = np.ascontiguousarray(latents, "<f4").tobytes()
    header = {
        "__metadata__": {name: str(value) for name, value in properties.items()},
        "latents": {"dtype": "F32", "shape": list(latents.shape), "data_offsets": [0, len(data)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with _atomic(Path(path)) as temporary:
        temporary.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_latents(path: str | Path) -> tuple[np.ndarray, dict[str, str]]:
    """Float32 ``latents [latent, frames]`` and metadata of a file of `earvae encode` or of ours.

    Raises RunnerError for anything else.
    """
    try:
        content = Path(path).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        properties = header["__metadata__"]
        tensor = header["latents"]
        begin, end = tensor["data_offsets"]
        kind = {"F32": "<f4", "F16": "<f2"}[tensor["dtype"]]
        data = content[8 + length + begin : 8 + length + end]
        latents = np.frombuffer(data, kind).reshape(tensor["shape"]).astype(np.float32)
    except OSError as error:
        raise RunnerError(f"{path}: cannot be read: {error.strerror}") from None
    except (struct.error, ValueError, KeyError, TypeError):
        raise RunnerError(f"{path}: not a file of latents, or damaged") from None
    if properties.get("format") != LATENT_FORMAT or latents.ndim != 2:
        raise RunnerError(f"{path}: not latents of `earvae encode` (no format={LATENT_FORMAT})")
    if properties.get("format_version") != LATENT_FORMAT_VERSION:
        raise RunnerError(
            f"{path}: format version {properties.get('format_version')}, this program reads "
            f"{LATENT_FORMAT_VERSION}"
        )
    if not np.isfinite(latents).all():
        raise RunnerError(f"{path}: holds NaN or infinity; encode it again")
    return latents, properties


def statistics_beside(path: str | Path) -> Path | None:
    """The ``latent_stats.json`` of `earvae stats` in a file's folder or the nearest one above."""
    for folder in Path(path).absolute().parents:
        if (folder / STATISTICS_NAME).is_file():
            return folder / STATISTICS_NAME
    return None


def denormalised(
    latents: np.ndarray, statistics: str | Path, digest: str | None = None
) -> np.ndarray:
    """Latents ``[latent, frames]`` of mean 0 and deviation 1 put back by a ``latent_stats.json``.

    Raises RunnerError for another file, another number of channels, or, with a ``digest``, other
    statistics than those that normalised.
    """
    try:
        values = json.loads(Path(statistics).read_text(encoding="utf-8"))
        mean, std = np.array(values["mean"]), np.array(values["std"])
        found, shapes = values["digest"], {mean.shape, std.shape}
    except OSError as error:
        raise RunnerError(f"{statistics}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise RunnerError(f"{statistics}: not statistics that `earvae stats` wrote") from None
    if shapes != {latents.shape[:1]}:
        raise RunnerError(f"{statistics}: is not of {latents.shape[0]} channels")
    if digest not in (None, found):
        raise RunnerError(
            f"{statistics}: are statistics {found}, the latents were normalised by {digest}; "
            "name the right ones with --denormalise"
        )
    scale = np.where(std > 0, std, 1.0)
    return (latents * scale[:, None] + mean[:, None]).astype(np.float32)


# --------------------------------------------------------------------------- command line


def reconstruct_file(
    model: Runner, source: str, target: str, chunk_frames: int, stereo: bool
) -> str:
    """``source`` through the codec into ``target``; a line about it."""
    audio = AudioInput(source, model.sample_rate)
    mean, _, samples = model.encode_stream(audio.blocks(model.audio_channels), chunk_frames)
    return _decode_into(target, model, mean, samples, chunk_frames, 2 if stereo else audio.channels)


def _decode_into(
    target: str, model: Runner, latents: np.ndarray, samples: int, chunk_frames: int, channels: int
) -> str:
    """Latents ``[1, latent, frames]`` decoded into ``target``; a line about it."""
    channels = min(channels, model.audio_channels)
    blocks = model.decode_stream(latents, samples, chunk_frames)
    peak = write_audio(target, blocks, model.sample_rate, channels, samples)
    return f"{target}: {samples} samples, {samples / model.sample_rate:.2f} s, peak {peak:.3f}"


def encode_file(model: Runner, source: str, target: str, chunk_frames: int) -> str:
    """The posterior mean of ``source`` into ``target``; a line about it."""
    if Path(target).suffix != LATENT_SUFFIX:
        raise RunnerError(f"{target}: name a file in {LATENT_SUFFIX}")
    audio = AudioInput(source, model.sample_rate)
    mean, _, samples = model.encode_stream(audio.blocks(model.audio_channels), chunk_frames)
    properties = {
        "format": LATENT_FORMAT,
        "format_version": LATENT_FORMAT_VERSION,
        "sample_rate": model.sample_rate,
        "samples": samples,
        "original_rate": model.sample_rate,
        "original_samples": samples,
        "channels": audio.channels,
        "hop_length": model.hop_length,
        "model": model.model,
        "latents": "mean",
    }
    write_latents(target, mean[0], properties)
    return f"{target}: {mean.shape[2]} frames, {samples / model.sample_rate:.2f} s"


def decode_file(
    model: Runner,
    source: str,
    target: str,
    chunk_frames: int,
    stereo: bool = False,
    force: bool = False,
    statistics: Path | None = None,
) -> str:
    """The latents of ``source`` into audio at the model's rate; a line about it.

    Normalised latents are put back by ``statistics``, or by those found beside the file.
    """
    latents, properties = read_latents(source)
    made_by = properties.get("model")
    if made_by != model.model and not force:
        raise RunnerError(
            f"{source}: was encoded by model {made_by}, this is model {model.model}; "
            "decode anyway with --force"
        )
    try:
        samples, channels = int(properties["samples"]), int(properties["channels"])
        original_rate = int(properties["original_rate"])
    except (KeyError, ValueError):
        raise RunnerError(f"{source}: its metadata is incomplete; encode it again") from None
    needed = model.frames_for(samples)
    if "segment" in properties and latents.shape[1] == needed - 1:
        latents = np.concatenate([latents, latents[:, -1:]], axis=1)  # as `earvae decode` does
    if latents.shape[0] != model.latent_channels or latents.shape[1] < needed:
        raise RunnerError(
            f"{source}: holds latents {list(latents.shape)}; {samples} samples of this model are "
            f"[{model.latent_channels}, {needed}]"
        )
    digest = properties.get("normalised")
    if digest is not None and statistics is None:
        statistics = statistics_beside(source)
        if statistics is None:
            raise RunnerError(
                f"{source}: is normalised, and there is no {STATISTICS_NAME} beside it; name that "
                "with --denormalise"
            )
    if statistics is not None:
        latents = denormalised(latents, statistics, None if force else digest)
    channels = 2 if stereo else channels
    line = _decode_into(target, model, latents[np.newaxis], samples, chunk_frames, channels)
    if original_rate != model.sample_rate:
        line += f" (at the model's {model.sample_rate} Hz; the original had {original_rate})"
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 1 after printing one line about what went wrong."""
    here = Path(__file__).resolve().parent
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--model", type=Path, default=here, help="folder of the graphs (default: this file's)"
    )
    shared.add_argument("--threads", type=int, help="default: as onnxruntime decides")
    shared.add_argument(
        "--provider", action="append", help="onnxruntime's (default: CPUExecutionProvider)"
    )
    shared.add_argument(
        "--chunk-seconds", type=float, default=10.0, help="audio computed at a time (default: 10)"
    )
    parser = argparse.ArgumentParser(description="Music to latents and back, without PyTorch.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (
        ("reconstruct", "audio through the codec and back"),
        ("encode", "audio to latents (.safetensors)"),
        ("decode", "latents to audio"),
    ):
        command = verbs.add_parser(verb, help=what, parents=[shared])
        command.add_argument("source", metavar="IN")
        command.add_argument("target", metavar="OUT")
        if verb != "encode":
            command.add_argument(
                "--stereo", action="store_true", help="write mono inputs as stereo"
            )
        if verb == "decode":
            command.add_argument(
                "--force", action="store_true", help="decode latents of another model"
            )
            command.add_argument(
                "--denormalise", type=Path, metavar="STATS", help=f"a {STATISTICS_NAME}"
            )
    verbs.add_parser("info", help="what the model is", parents=[shared])
    given = parser.parse_args(arguments)

    try:
        providers = given.provider or ["CPUExecutionProvider"]
        model = Runner(given.model, given.threads, providers)
        chunk = max(1, round(given.chunk_seconds * model.sample_rate / model.hop_length))
        if given.verb == "info":
            line = "\n".join(f"{name}: {value}" for name, value in sorted(model.metadata.items()))
        elif given.verb == "encode":
            line = encode_file(model, given.source, given.target, chunk)
        elif given.verb == "reconstruct":
            line = reconstruct_file(model, given.source, given.target, chunk, given.stereo)
        else:
            options = given.stereo, given.force, given.denormalise
            line = decode_file(model, given.source, given.target, chunk, *options)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
