#!/usr/bin/env python3
"""Run an exported εar-VAE without PyTorch: needs onnxruntime, numpy and soundfile.

`earvae export --onnx FOLDER` puts this program, complete in one file, beside the graphs.

    python FOLDER/runner.py reconstruct song.wav out.wav
    python FOLDER/runner.py encode song.wav song.safetensors
    python FOLDER/runner.py decode song.safetensors out.wav
    python FOLDER/runner.py reconstruct album/ album_vae/
    python FOLDER/runner.py info

    >>> model = Runner("FOLDER")
    >>> mean, std = model.encode(audio)         # float32 [batch, 2, samples]
    >>> audio = model.decode(mean, samples)     # exactly `samples` samples

Audio of any length is computed in chunks with as much context on both sides as the network sees,
so that chunked equals whole: any length in flat memory, no crossfade, as many samples out as in.
Files at another rate than the model's are resampled, there and back, where soxr is installed.
Sound files and latents are read, checked and written by the code of `earvae` itself, so that either
program refuses what the other does and reads what it wrote.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime

from earvae.audio.channels import to_mono, to_stereo
from earvae.audio.reading import AudioSource
from earvae.audio.resampling import resample
from earvae.audio.writing import SUBTYPES, OutputFormat, output_format, write
from earvae.errors import EarvaeError, named, visible
from earvae.latents import file as latent_file
from earvae.latents.file import Latents
from earvae.latents.metadata import NOT_FINITE, Metadata
from earvae.latents.statistics import NAME as STATISTICS_NAME
from earvae.latents.statistics import Statistics, denormalised
from earvae.latents.statistics import read as read_statistics
from earvae.regular import check_regular
from earvae.signals import heed
from earvae.tracks import find, fitting, identity, stems

FORMAT = "earvae-onnx"
FORMAT_VERSION = "1"
CHUNK_FRAMES, CHUNK_SECONDS = 430, 10.0  # at most, as in earvae.codec
FIRST_FRAME = (
    "first_frame"  # an input of decoders that add noise: where in their file latents begin
)
LARGEST = 2**40  # a count that is larger is damage


class RunnerError(EarvaeError):
    """What cannot be done, in one line that says why."""


class Runner:
    """The graphs of a folder, and exact chunked encoding and decoding with them.

    Args:
        folder: written by `earvae export --onnx`; only the encoder or only the decoder will do
            for work in one direction.
        threads: how many a computation takes; None for as many as there are processors for it.
        providers: names of onnxruntime's execution providers, in order of preference.

    Attributes:
        sample_rate: Hz.
        hop_length: samples per latent frame.
        audio_channels, latent_channels: as the names say.
        tail_deficit: samples that the decoder ends short of whole frames.
        model: twelve hex digits; the same as `earvae info` prints for the PyTorch model.
        metadata: all that the files say of themselves.

    Raises EarvaeError for a folder without graphs, with damaged ones, or with those of several
    models. Its methods raise RunnerError where onnxruntime fails, and for graphs that give
    something other than they say.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # onnxruntime's own choice binds threads to processors, also to those it may not use.
        options.intra_op_num_threads = threads or _processors()
        if missing := sorted(set(providers) - set(onnxruntime.get_available_providers())):
            raise RunnerError(f"{', '.join(missing)}: not among the providers of this onnxruntime")
        self._folder = Path(folder)
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._context: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        for part in ("encoder", "transformer", "decoder"):
            path = self._path(part)
            if os.path.lexists(path):
                check_regular(path)
                self._sessions[part] = _session(path, options, list(providers))
                self._read_metadata(path, part)
        if not self._sessions:
            raise RunnerError(
                f"{folder}: holds no encoder.onnx or decoder.onnx; "
                "write them with `earvae export --onnx FOLDER`"
            )
        needs_transformer = self.metadata.get("has_transformer") == "true"
        if needs_transformer and "decoder" in self._sessions and "transformer" not in self._context:
            raise RunnerError(f"{folder}: transformer.onnx is missing; this model decodes with it")
        self.sample_rate = count(self.metadata, "sample_rate", folder)
        self.hop_length = count(self.metadata, "hop_length", folder)
        self.audio_channels = count(self.metadata, "audio_channels", folder)
        self.latent_channels = count(self.metadata, "latent_channels", folder)
        self.tail_deficit = count(self.metadata, "tail_deficit", folder, least=0)
        self.model = self.metadata["model"]

    def _path(self, part: str) -> Path:
        return self._folder / f"{part}.onnx"

    def _read_metadata(self, path: Path, part: str) -> None:
        found = self._sessions[part].get_modelmeta().custom_metadata_map
        if found.get("format") != FORMAT or found.get("part") != part or "model" not in found:
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
        self._context[part] = count(found, "context_frames", path, least=-1)
        self.metadata = {**found, **self.metadata}

    def _run(
        self, part: str, values: np.ndarray, shape: Sequence[int], first_frame: int = 0
    ) -> list[np.ndarray]:
        """What a graph gives for these values, each output of this shape."""
        path = self._path(part)
        if part not in self._sessions:
            raise RunnerError(f"{path}: no such file, and this needs it")
        try:
            names = [given.name for given in self._sessions[part].get_inputs()]
            inputs = {names[0]: values}
            if FIRST_FRAME in names:
                inputs[FIRST_FRAME] = np.array([first_frame], np.int64)
            results = self._sessions[part].run(None, inputs)
        except Exception as error:  # onnxruntime raises many kinds; the user needs one line
            raise RunnerError(f"{path}: onnxruntime fails: {_first_line(error)}") from error
        if any(result.shape != tuple(shape) for result in results):
            raise RunnerError(f"{path}: does not give what it says; export the model again")
        return results

    def _chunk(self, chunk_frames: int | None) -> int:
        if chunk_frames is None:
            seconds = round(CHUNK_SECONDS * self.sample_rate / self.hop_length)
            return max(1, min(CHUNK_FRAMES, seconds))
        if chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
        return chunk_frames

    def frames_for(self, samples: int) -> int:
        """Latent frames whose decoding holds at least ``samples`` samples."""
        return max(1, -(-(samples + self.tail_deficit) // self.hop_length))

    def encode(
        self, audio: np.ndarray, chunk_frames: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each float32 ``[batch, latent, frames]``, of audio
        ``[batch, channels, samples]`` (full scale ±1), computed ``chunk_frames`` frames at a time
        (None: ten seconds, 430 at most). Raises ValueError for another shape, for
        no samples, or for a chunk shorter than a frame."""
        if audio.ndim != 3 or audio.shape[1] != self.audio_channels:
            raise ValueError(
                f"audio must be [batch, {self.audio_channels}, samples], got {list(audio.shape)}"
            )
        block = self._chunk(chunk_frames) * self.hop_length
        blocks = (audio[..., start : start + block] for start in range(0, audio.shape[2], block))
        mean, std, _ = self.encode_stream(blocks, chunk_frames)
        return mean, std

    def decode(
        self, latents: np.ndarray, samples: int, chunk_frames: int | None = None
    ) -> np.ndarray:
        """The first ``samples`` samples of decoded latents ``[batch, latent, frames]``, float32
        ``[batch, channels, samples]``; may overshoot ±1. Raises ValueError for another shape or
        too few frames."""
        return np.concatenate(list(self.decode_stream(latents, samples, chunk_frames)), axis=2)

    def reconstruct(self, audio: np.ndarray, chunk_frames: int | None = None) -> np.ndarray:
        """Audio ``[batch, channels, samples]`` through the codec and back, of the same length;
        its latents are the posterior's mean."""
        mean, _ = self.encode(audio, chunk_frames)
        return self.decode(mean, audio.shape[2], chunk_frames)

    def encode_stream(
        self, blocks: Iterable[np.ndarray], chunk_frames: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Mean, standard deviation ``[batch, latent, frames]`` and number of samples of audio that
        arrives in blocks ``[batch, channels, n]`` of any lengths. Holds a chunk and its context."""
        chunk_frames = self._chunk(chunk_frames)
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
                shape = (len(inputs), self.latent_channels, reach)
                mean, std = self._run("encoder", inputs, shape)
                means.append(mean[..., done - first : stop - first])
                stds.append(std[..., done - first : stop - first])
                keep = max(first, stop - context)
                held = [audio[..., (keep - first) * hop :]]
                first, done = keep, stop
        return np.concatenate(means, axis=2), np.concatenate(stds, axis=2), samples

    def decode_stream(
        self, latents: np.ndarray, samples: int, chunk_frames: int | None = None
    ) -> Iterator[np.ndarray]:
        """The decoded audio of latents ``[batch, latent, frames]`` in blocks ``[batch, channels,
        n]``, ``samples`` in all: the transformer once, then the decoder in chunks."""
        if latents.ndim != 3 or latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents must be [batch, {self.latent_channels}, frames], "
                f"got {list(latents.shape)}"
            )
        chunk_frames = self._chunk(chunk_frames)
        frames, hop, context = latents.shape[2], self.hop_length, self._context.get("decoder", 0)
        if samples > frames * hop - self.tail_deficit:
            raise ValueError(f"{frames} latent frames cannot hold {samples} samples")
        latents = np.ascontiguousarray(latents, np.float32)
        if "transformer" in self._sessions:
            (latents,) = self._run("transformer", latents, latents.shape)
        for start in range(0, frames, chunk_frames):
            stop = min(start + chunk_frames, frames)
            low, high = max(0, start - context), min(frames, stop + context)
            shape = (len(latents), self.audio_channels, (high - low) * hop - self.tail_deficit)
            inputs = np.ascontiguousarray(latents[..., low:high])
            (audio,) = self._run("decoder", inputs, shape, low)
            end = min(stop * hop, samples)
            if start * hop < end:
                yield audio[..., (start - low) * hop : end - low * hop]


def _session(
    path: Path, options: onnxruntime.SessionOptions, providers: list[str]
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # as above
        raise RunnerError(f"{path}: onnxruntime cannot load it: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count(values: Mapping[str, str], name: str, path: str | Path, least: int = 1) -> int:
    """The whole number that metadata hold under ``name``. Raises RunnerError: none, or one that
    makes no sense."""
    found = values.get(name, "missing")
    if not re.fullmatch("-?[0-9]{1,13}", found) or not least <= int(found) < LARGEST:
        raise RunnerError(f"{path}: its metadata make no sense ({name}: {found:.20})")
    return int(found)


# --------------------------------------------------------------------------- command line


def reconstruct_file(
    model: Runner,
    source: str,
    target: str,
    output: OutputFormat,
    chunk_frames: int,
    stereo: bool = False,
    downmix: bool = False,
) -> str:
    """``source`` through the codec into ``target``, at the same rate; a line about it."""
    audio = _opened(model, source, target, downmix)
    mean, samples = _encode(model, audio, chunk_frames)
    assert audio.samples is not None
    sound = Sound(samples, audio.rate, audio.samples, 2 if stereo else audio.channels)
    return _decode_into(target, model, mean, sound, chunk_frames, output)


def _opened(model: Runner, source: str, target: str, downmix: bool) -> AudioSource:
    """A sound file that can be resampled and is not about to be replaced by ``target``."""
    _apart(source, target)
    audio = AudioSource(source, downmix)
    if audio.rate != model.sample_rate and not _resamples():
        raise RunnerError(
            f"{source}: is at {audio.rate} Hz, the model at {model.sample_rate}; `pip install "
            f"soxr`, or resample it, as with `ffmpeg -i IN -ar {model.sample_rate} OUT.wav`"
        )
    return audio


def _resamples() -> bool:
    try:
        import soxr  # noqa: F401
    except ImportError:
        return False
    return True


def _apart(source: str, target: str) -> None:
    if identity(source) == identity(target):
        raise RunnerError(f"{target}: is the input {source}; choose another output")


def _encode(model: Runner, audio: AudioSource, chunk_frames: int) -> tuple[np.ndarray, int]:
    """The posterior's mean ``[1, latent, frames]`` of a sound file, and its samples."""
    blocks = to_mono(audio.blocks()) if model.audio_channels == 1 else to_stereo(audio.blocks())
    blocks = resample(blocks, audio.rate, model.sample_rate)
    mean, _, samples = model.encode_stream((b[np.newaxis] for b in blocks), chunk_frames)
    if not np.isfinite(mean).all():
        raise RunnerError(f"{audio.path}: {NOT_FINITE}")
    return mean, samples


@dataclass(frozen=True)
class Sound:
    """What is to become of latents: ``samples`` are at the model's rate, ``total`` at ``rate``."""

    samples: int
    rate: int
    total: int
    channels: int


def _decode_into(
    target: str,
    model: Runner,
    latents: np.ndarray,
    sound: Sound,
    chunk_frames: int,
    output: OutputFormat,
) -> str:
    """Latents ``[1, latent, frames]`` decoded into ``target``; a line about it."""
    channels, rate, total = min(sound.channels, model.audio_channels), sound.rate, sound.total
    blocks = (block[0] for block in model.decode_stream(latents, sound.samples, chunk_frames))
    if channels < model.audio_channels:
        blocks = to_mono(blocks)
    blocks = resample(blocks, model.sample_rate, rate, total)
    written = write(target, blocks, rate, channels, total, output)
    quieter = f", rescaled by {written.gain:.3f} to fit" if written.gain != 1 else ""
    return f"{target}: {total} samples, {total / rate:.2f} s, peak {written.peak:.3f}{quieter}"


def encode_file(
    model: Runner, source: str, target: str, chunk_frames: int, downmix: bool = False
) -> str:
    """The posterior mean of ``source`` into ``target``; a line about it."""
    if Path(target).suffix != latent_file.SUFFIX:
        raise RunnerError(f"{target}: name a file in {latent_file.SUFFIX}")
    audio = _opened(model, source, target, downmix)
    mean, samples = _encode(model, audio, chunk_frames)
    assert audio.samples is not None
    metadata = Metadata(
        sample_rate=model.sample_rate,
        original_rate=audio.rate,
        channels=audio.channels,
        hop_length=model.hop_length,
        model=model.model,
        latents="mean",
        samples=samples,
        original_samples=audio.samples,
    )
    latent_file.write(target, Latents(metadata, mean[0]))
    return f"{target}: {mean.shape[2]} frames, {samples / model.sample_rate:.2f} s"


def decode_file(
    model: Runner,
    source: str,
    target: str,
    output: OutputFormat,
    chunk_frames: int,
    stereo: bool = False,
    force: bool = False,
    statistics: Statistics | None = None,
) -> str:
    """The latents of ``source`` into audio, without soxr at the model's rate; a line about it.

    Normalised latents are put back by ``statistics``, or by those found beside the file.
    """
    _apart(source, target)
    latents = latent_file.read(source)
    told, found = latents.metadata, len(latents.values)
    if told.model != model.model and not force:
        raise RunnerError(
            f"{source}: was encoded by model {told.model}, this is model {model.model}; "
            "decode anyway with --force"
        )
    own = (model.latent_channels, model.hop_length, model.sample_rate)
    if (found, told.hop_length, told.sample_rate) != own:
        raise RunnerError(
            f"{source}: holds {found} latents per {told.hop_length} samples at "
            f"{told.sample_rate} Hz; the model has {own[0]} per {own[1]} at {own[2]} Hz"
        )
    values = denormalised(Path(source), latents, statistics, force)
    needed = model.frames_for(told.samples)
    if told.segment is not None and values.shape[1] == needed - 1:
        values = np.concatenate([values, values[:, -1:]], axis=1)  # as `earvae decode` does
    if values.shape[1] < needed:
        raise RunnerError(
            f"{source}: holds {values.shape[1]} frames, {told.samples} samples need {needed}; "
            "encode it again"
        )
    rate, total, note = told.original_rate, told.original_samples, ""
    if rate != model.sample_rate and not _resamples():
        note = (
            f" (at the model's {model.sample_rate} Hz, not {rate}: that takes `pip install soxr`)"
        )
        rate, total = model.sample_rate, told.samples
    sound = Sound(told.samples, rate, total, 2 if stereo else told.channels)
    return _decode_into(target, model, values[None], sound, chunk_frames, output) + note


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 1 after printing one line about what went wrong."""
    here = Path(__file__).resolve().parent
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--model", type=Path, default=here, help="folder of the graphs (default: this file's)"
    )
    shared.add_argument("--threads", type=_at_least(1), help="default: one for each processor")
    shared.add_argument(
        "--provider", action="append", help="onnxruntime's (default: CPUExecutionProvider)"
    )
    shared.add_argument(
        "--chunk-seconds",
        type=_at_least(0.1),
        default=10.0,
        help="audio computed at a time (default: 10)",
    )
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(description="Music to latents and back, without PyTorch.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (
        ("reconstruct", "audio through the codec and back"),
        ("encode", "audio to latents (.safetensors)"),
        ("decode", "latents to audio"),
    ):
        command = verbs.add_parser(verb, help=what, parents=[shared])
        command.add_argument("source", metavar="IN", help="a file, or a folder")
        command.add_argument("target", metavar="OUT", help="a file, or a folder for a folder")
        if verb != "decode":
            command.add_argument("--downmix", action="store_true", help="fold surround to stereo")
        if verb != "encode":
            command.add_argument(
                "--stereo", action="store_true", help="write mono inputs as stereo"
            )
            command.add_argument("--subtype", choices=SUBTYPES, help="default: float")
            command.add_argument(
                "--clip",
                choices=("none", "clamp", "rescale"),
                help="what becomes of peaks beyond full scale where integers are written",
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
    failures = []
    try:
        for done in _done(given):
            if isinstance(done, Exception):
                failures.append(done)
            else:
                print(visible(done), flush=True)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if given.debug:
            raise
        about = given.model if given.verb == "info" else given.source
        print(f"error: {named(about, error)}", file=sys.stderr)
        return 1
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _done(given: argparse.Namespace) -> Iterator[str | Exception]:
    """What a command line asks for, and lines about it; failures of a folder's files go by."""
    model = Runner(given.model, given.threads, given.provider or ["CPUExecutionProvider"])
    if given.verb == "info":
        yield from (f"{name}: {value}" for name, value in sorted(model.metadata.items()))
    elif os.path.isdir(given.source):
        yield from _folder(given, model)
    else:
        yield _one(given, model, given.source, given.target)


def _folder(given: argparse.Namespace, model: Runner) -> Iterator[str | Exception]:
    """A folder's files, each below the folder ``target`` where it was below the other."""
    suffix = latent_file.SUFFIX if given.verb == "encode" else ".wav"
    wanted = frozenset([latent_file.SUFFIX]) if given.verb == "decode" else None
    music = find([given.source], given.target, suffixes=wanted)
    yield from music.left_out_lines()
    yield from map(RunnerError, music.problems)
    names = stems([file.name for file in music.files])
    for file, name in zip(music.files, names, strict=True):
        target = Path(given.target, name)
        target = target.parent / f"{fitting(target.name, suffix)}{suffix}"
        try:
            yield _one(given, model, file.path, str(target))
        except Exception as error:
            if given.debug:
                raise
            yield named(file.path, error)


def _one(given: argparse.Namespace, model: Runner, source: str, target: str) -> str:
    """A file by a verb; a line about it."""
    chunk = max(1, round(given.chunk_seconds * model.sample_rate / model.hop_length))
    if given.verb == "encode":
        return encode_file(model, source, target, chunk, given.downmix)
    output = output_format(Path(target).suffix, given.subtype, given.clip)
    if given.verb == "reconstruct":
        options = given.stereo, given.downmix
        return reconstruct_file(model, source, target, output, chunk, *options)
    statistics = None if given.denormalise is None else read_statistics(given.denormalise)
    options = given.stereo, given.force, statistics
    return decode_file(model, source, target, output, chunk, *options)


def _at_least(least: float) -> Callable[[str], float]:
    """Numbers of a command line, of the kind of ``least`` and not below it."""

    def number(text: str) -> float:
        if not least <= (value := type(least)(text)) <= LARGEST:
            raise ValueError
        return value

    number.__name__ = f"number from {least}"
    return number


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # names that a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    heed()
    sys.exit(main())
