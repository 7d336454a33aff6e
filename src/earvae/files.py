"""Whole files through the model: reconstruct, encode to latents, decode from latents.

All three stream: audio is held a chunk at a time, latents are held whole (40 MB an hour).
Encoded files are safetensors with one tensor ``latents`` ``[64, frames]`` and string metadata.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from earvae import audio, codec
from earvae.audio import AudioFileError, AudioSource, OutputFormat
from earvae.library.items import LibraryError
from earvae.library.statistics import Statistics, beside, read
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE
from earvae.si_sdr import StreamingSiSdr

FORMAT = "earvae-latents"
FORMAT_VERSION = "1"
SUFFIX = ".safetensors"

Progress = Callable[[float], None]
"""Called with the share of a file's work that is done, 0…1."""


@dataclass(frozen=True)
class Report:
    """What became of one file. Figures describe the model's output before any clip policy."""

    source: str
    output: str
    samples: int  # per channel, at `rate`
    rate: int  # Hz
    channels: int
    frames: int  # of latents
    seconds: float  # spent
    peak: float | None = None  # of the decoded audio; full scale 1
    gain: float = 1.0  # applied to the whole file
    clamped: int = 0  # values cut to ±1
    si_sdr: float | None = None  # dB, against the input
    seed: int | None = None  # of the draw; None = posterior mean

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return self.samples / self.rate

    @property
    def speed(self) -> float:
        """Seconds of audio per second spent."""
        return self.duration / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class EncodedInfo:
    """The metadata of an encoded file."""

    path: Path
    frames: int
    latent_channels: int
    dtype: str
    sample_rate: int  # Hz, of the model
    samples: int  # at the model's rate
    original_rate: int  # Hz
    original_samples: int
    channels: int  # of the original, 1 or 2
    hop_length: int
    model: str  # EarVAE.identity
    latents: str  # "mean" or "sample"
    seed: int | None
    normalised: str | None = None  # digest of the statistics they were normalised by
    segment: int | None = None  # of a track that was cut; None: a whole track


def reconstruct_file(
    vae: EarVAE,
    source: str | Path,
    target: str | Path,
    output: OutputFormat,
    downmix: bool = False,
    stereo: bool = False,
    seed: int | None = None,
    chunk_frames: int = codec.CHUNK_FRAMES,
    progress: Progress | None = None,
) -> Report:
    """``source`` through the model into ``target``: same rate, exactly as many samples.

    Mono is duplicated for the model and its two decoded channels are averaged, unless ``stereo``
    keeps them. With a ``seed`` the latents are drawn from the posterior, otherwise they are its
    mean. Raises AudioFileError.
    """
    started = time.perf_counter()
    progress = progress or _ignore
    original = AudioSource(source, downmix)
    posterior, samples = _encode(vae, original, chunk_frames, lambda share: progress(share / 2))
    total = original.samples
    channels = 2 if stereo else original.channels
    meter = StreamingSiSdr()
    reference = original.blocks()
    blocks = _compared(
        _decode(
            vae, _latents(posterior, seed), samples, original.rate, total, channels, chunk_frames
        ),
        audio.to_stereo(reference) if channels == 2 else reference,
        meter,
    )
    blocks = _counted(blocks, total, lambda share: progress(0.5 + share / 2))
    written = audio.write(target, blocks, original.rate, channels, total, output)
    return Report(
        source=str(source),
        output=str(target),
        samples=total,
        rate=original.rate,
        channels=channels,
        frames=posterior.mean.shape[2],
        seconds=time.perf_counter() - started,
        peak=written.peak,
        gain=written.gain,
        clamped=written.clamped,
        si_sdr=meter.value(),
        seed=seed,
    )


def encode_file(
    vae: EarVAE,
    source: str | Path,
    target: str | Path,
    identity: str,
    downmix: bool = False,
    seed: int | None = None,
    half: bool = False,
    chunk_frames: int = codec.CHUNK_FRAMES,
    progress: Progress | None = None,
) -> Report:
    """Encode ``source`` into a safetensors file.

    ``identity`` is ``vae.identity``, computed once by the caller. The tensor ``latents`` is
    ``[64, frames]``, float32 or with ``half`` float16. Raises AudioFileError.
    """
    started = time.perf_counter()
    original = AudioSource(source, downmix)
    posterior, samples = _encode(vae, original, chunk_frames, progress or _ignore)
    latents = _latents(posterior, seed)[0].to(torch.float16 if half else torch.float32)
    if not torch.isfinite(latents).all():
        raise AudioFileError(
            f"{source}: its latents are not finite" + (" in float16; leave out --half" * half)
        )
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sample_rate": vae.sample_rate,
        "samples": samples,
        "original_rate": original.rate,
        "original_samples": original.samples,
        "channels": original.channels,
        "hop_length": vae.hop_length,
        "model": identity,
        "latents": "mean" if seed is None else "sample",
        **({} if seed is None else {"seed": seed}),
    }
    target = Path(target)
    with audio.atomic(target) as temporary:
        try:
            save_file(
                {"latents": latents.contiguous()},
                temporary,
                {name: str(value) for name, value in metadata.items()},
            )
        except SafetensorError as error:
            raise AudioFileError(f"{target}: cannot be written: {error}") from None
    return Report(
        source=str(source),
        output=str(target),
        samples=original.samples,
        rate=original.rate,
        channels=original.channels,
        frames=latents.shape[1],
        seconds=time.perf_counter() - started,
        seed=seed,
    )


def decode_file(
    vae: EarVAE,
    source: str | Path,
    target: str | Path,
    output: OutputFormat,
    identity: str,
    stereo: bool = False,
    force: bool = False,
    chunk_frames: int = codec.CHUNK_FRAMES,
    progress: Progress | None = None,
    statistics: Statistics | None = None,
) -> Report:
    """Decode an encoded file into audio of the original rate, length and channels.

    Latents that say they are normalised are put back, by ``statistics`` or else by those found
    beside the file. Others are put back only if ``statistics`` are given. Raises AudioFileError,
    also, unless ``force``, for latents of another model (other than ``identity``) or statistics
    other than those that normalised.
    """
    started = time.perf_counter()
    info = inspect_encoded(source)
    if info.latent_channels != vae.latent_channels or info.hop_length != vae.hop_length:
        raise AudioFileError(
            f"{source}: holds {info.latent_channels} latents per {info.hop_length} samples, the "
            f"model has {vae.latent_channels} per {vae.hop_length}; give the model that made it "
            "with --weights"
        )
    if info.model != identity and not force:
        raise AudioFileError(
            f"{source}: was encoded by model {info.model}, this is model {identity}; give the "
            "right one with --weights, or decode anyway with --force"
        )
    needed = codec.frames_for(vae, info.samples)
    if info.segment is not None and info.frames == needed - 1:
        needed -= 1  # the last samples of a segment may lean on the next one's first frame
    if info.frames < needed:
        raise AudioFileError(
            f"{source}: holds {info.frames} frames, {info.samples} samples need {needed}; "
            "encode it again"
        )
    with safe_open(source, "pt") as file:
        latents = file.get_tensor("latents").float()
    if not torch.isfinite(latents).all():
        raise AudioFileError(f"{source}: holds NaN or infinity; encode it again")
    statistics = _statistics_for(info, statistics, force)
    if statistics is not None:
        latents = torch.from_numpy(statistics.denormalise(latents.numpy()))
    if needed < codec.frames_for(vae, info.samples):
        latents = torch.cat([latents, latents[:, -1:]], dim=1)
    channels = 2 if stereo else info.channels
    total, rate = info.original_samples, info.original_rate
    blocks = _decode(
        vae,
        latents.unsqueeze(0),
        info.samples,
        rate,
        total,
        channels,
        chunk_frames,
    )
    blocks = _counted(blocks, total, progress or _ignore)
    written = audio.write(target, blocks, rate, channels, total, output)
    return Report(
        source=str(source),
        output=str(target),
        samples=total,
        rate=rate,
        channels=channels,
        frames=info.frames,
        seconds=time.perf_counter() - started,
        peak=written.peak,
        gain=written.gain,
        clamped=written.clamped,
        seed=info.seed,
    )


def inspect_encoded(path: str | Path) -> EncodedInfo:
    """The metadata of an encoded file. Raises AudioFileError if it is none, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise AudioFileError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or "latents" not in file.keys():  # noqa: SIM118
                raise AudioFileError(f"{path}: not latents of `earvae encode` (no format={FORMAT})")
            tensor = file.get_slice("latents")
            shape, dtype = tensor.get_shape(), tensor.get_dtype()
    except (SafetensorError, OSError) as error:
        raise AudioFileError(
            f"{path}: damaged or not a safetensors file ({error}); encode it again"
        ) from None
    if metadata.get("format_version") != FORMAT_VERSION:
        raise AudioFileError(
            f"{path}: format version {metadata.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; update earvae"
        )
    try:
        numbers = {
            name: int(metadata[name])
            for name in (
                "sample_rate",
                "samples",
                "original_rate",
                "original_samples",
                "channels",
                "hop_length",
            )
        }
        info = EncodedInfo(
            path=path,
            latent_channels=shape[0],
            frames=shape[1],
            dtype=dtype,
            model=metadata["model"],
            latents=metadata["latents"],
            seed=int(metadata["seed"]) if "seed" in metadata else None,
            normalised=metadata.get("normalised"),
            segment=int(metadata["segment"]) if "segment" in metadata else None,
            **numbers,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise AudioFileError(
            f"{path}: its metadata is incomplete ({error}); encode it again"
        ) from None
    if min(numbers.values()) < 1 or info.channels > 2 or len(shape) != 2:
        raise AudioFileError(f"{path}: its metadata makes no sense; encode it again")
    return info


def _statistics_for(
    info: EncodedInfo, statistics: Statistics | None, force: bool
) -> Statistics | None:
    """What a file's latents are to be put back by. Raises AudioFileError."""
    if info.normalised is not None and statistics is None:
        found = beside(info.path)
        if found is None:
            raise AudioFileError(
                f"{info.path}: is normalised, and there is no latent_stats.json beside it; name "
                "that with --denormalise"
            )
        try:
            statistics = read(found)
        except LibraryError as error:
            raise AudioFileError(f"{info.path}: is normalised, and {error}") from None
    if statistics is None:
        return None
    if len(statistics.mean) != info.latent_channels:
        raise AudioFileError(
            f"{info.path}: holds {info.latent_channels} channels, the statistics "
            f"{len(statistics.mean)}; give the right ones with --denormalise"
        )
    if info.normalised not in (None, statistics.digest) and not force:
        raise AudioFileError(
            f"{info.path}: was normalised by statistics {info.normalised}, these are "
            f"{statistics.digest}; give the right ones with --denormalise, or use --force"
        )
    return statistics


def _encode(
    vae: EarVAE, source: AudioSource, chunk_frames: int, progress: Progress
) -> tuple[Posterior, int]:
    """Posterior of a file, and its samples at the model's rate."""
    blocks = _counted(source.blocks(), source.info.header_samples, progress)
    blocks = audio.resample(audio.to_stereo(blocks), source.rate, vae.sample_rate)
    return codec.encode_stream(vae, map(torch.from_numpy, blocks), chunk_frames)


def _latents(posterior: Posterior, seed: int | None) -> Tensor:
    """Mean, or a draw that depends on the seed and the file's length only."""
    if seed is None:
        return posterior.mode()
    return posterior.sample(torch.Generator().manual_seed(seed))


def _decode(
    vae: EarVAE,
    latents: Tensor,
    samples: int,
    rate: int,
    total: int,
    channels: int,
    chunk_frames: int,
) -> Iterator[np.ndarray]:
    """Audio ``[channels, n]`` at ``rate``, ``total`` samples in all, of latents that stand for
    ``samples`` samples at the model's rate."""
    decoded: Iterable[np.ndarray] = (
        block.numpy() for block in codec.decode_stream(vae, latents, samples, chunk_frames)
    )
    if channels == 1:
        decoded = audio.to_mono(decoded)
    return audio.resample(decoded, vae.sample_rate, rate, total)


def _compared(
    blocks: Iterable[np.ndarray], reference: Iterable[np.ndarray], meter: StreamingSiSdr
) -> Iterator[np.ndarray]:
    """Pass ``blocks`` through while ``meter`` compares them with ``reference``, cut otherwise."""
    reference = iter(reference)
    held = next(reference)
    for block in blocks:
        while held.shape[1] < block.shape[1]:
            held = np.concatenate([held, next(reference)], axis=1)
        target, held = np.split(held, [block.shape[1]], axis=1)
        meter.add(reconstruction=torch.from_numpy(block), target=torch.from_numpy(target))
        yield block


def _counted(
    blocks: Iterable[np.ndarray], total: int | None, progress: Progress
) -> Iterator[np.ndarray]:
    """Pass blocks through and report the share of ``total`` samples that has passed."""
    passed = 0
    for block in blocks:
        yield block
        passed += block.shape[1]
        progress(min(1.0, passed / total) if total else 0.0)


def _ignore(_share: float) -> None:
    """No progress wanted."""
