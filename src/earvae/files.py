"""Whole files through the model: reconstruct, encode to latents, decode from latents.

All three stream: audio is held a chunk at a time, latents are held whole (40 MB an hour).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earvae import audio, codec, former
from earvae.audio import AudioSource, OutputFormat
from earvae.latents import bare, file
from earvae.latents.file import Latents, LatentsError, Metadata, Place
from earvae.latents.metadata import NOT_FINITE
from earvae.latents.statistics import Statistics, denormalised
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE
from earvae.si_sdr import StreamingSiSdr

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

    def values(self) -> dict:
        """The figures for JSON."""
        own = asdict(self)
        return own | {"duration": round(self.duration, 6), "speed": round(self.speed, 3)}


@torch.inference_mode()
def warm_up(vae: EarVAE) -> None:
    """Send a few frames of silence there and back, so that what a process sets up once (threads,
    plans of transforms, a GPU's kernels) is not counted as time of the first file."""
    codec.reconstruct(vae, torch.zeros(1, vae.config.audio_channels, 8 * vae.hop_length))


def reconstruct_file(
    vae: EarVAE,
    source: str | Path,
    target: str | Path,
    output: OutputFormat,
    downmix: bool = False,
    stereo: bool = False,
    seed: int | None = None,
    chunk_frames: int | None = None,
    progress: Progress = lambda share: None,
) -> Report:
    """``source`` through the model into ``target``: same rate, exactly as many samples.

    Mono is duplicated for the model and its two decoded channels are averaged, unless ``stereo``
    keeps them. With a ``seed`` the latents are drawn from the posterior, otherwise they are its
    mean. Raises AudioFileError.
    """
    started = time.perf_counter()
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
        **asdict(written),
        si_sdr=meter.value(),
        seed=seed,
    )


def encode_file(
    vae: EarVAE,
    source: str | Path,
    target: str | Path,
    downmix: bool = False,
    seed: int | None = None,
    half: bool = False,
    chunk_frames: int | None = None,
    progress: Progress = lambda share: None,
) -> Report:
    """Encode ``source`` into a safetensors file (:mod:`earvae.latents.file`).

    The latents are ``[latent, frames]``, float32 or with ``half`` float16. Raises AudioFileError,
    WriteError, and LatentsError where they are not finite.
    """
    started = time.perf_counter()
    original = AudioSource(source, downmix)
    posterior, samples = _encode(vae, original, chunk_frames, progress)
    try:
        values = file.rounded(_latents(posterior, seed)[0].numpy(), half)
    except LatentsError as error:
        raise LatentsError(f"{source}: {error}") from None
    assert original.samples is not None
    metadata = Metadata(
        sample_rate=vae.sample_rate,
        original_rate=original.rate,
        channels=original.channels,
        hop_length=vae.hop_length,
        model=vae.identity,
        latents="mean" if seed is None else "sample",
        seed=seed,
        samples=samples,
        original_samples=original.samples,
    )
    file.write(target, Latents(metadata, values))
    return Report(
        source=str(source),
        output=str(target),
        samples=original.samples,
        rate=original.rate,
        channels=original.channels,
        frames=values.shape[1],
        seconds=time.perf_counter() - started,
        seed=seed,
    )


def decode_file(
    vae: EarVAE,
    source: str | Path,
    target: str | Path,
    output: OutputFormat,
    stereo: bool = False,
    force: bool = False,
    chunk_frames: int | None = None,
    progress: Progress = lambda share: None,
    statistics: Statistics | None = None,
    part: Place | int | None = None,
    rate: int | None = None,
    samples: int | None = None,
) -> Report:
    """Decode a file of latents into audio of the original rate, length and channels.

    ``part`` is the place of an entry in a shard (:func:`earvae.latents.file.places`), or a number
    in a bare batch. Bare arrays and tensors (:mod:`earvae.latents.bare`) are decoded at ``rate``
    Hz, ``samples`` of it; by default at the model's rate, as far as they reach.

    Latents that say they are normalised are put back, by ``statistics`` or else by those found
    beside the file. Others are put back only if ``statistics`` are given. Raises LatentsError
    (also, unless ``force``, for latents of another model or statistics other than those that
    normalised), WeightsError for a ``.pt`` file that is none, AudioFileError, WriteError.
    """
    started = time.perf_counter()
    path = Path(source)
    if isinstance(part, Place):
        latents = file.read(path, part)
    elif bare.is_bare(path):
        latents = _bare(vae, path, part, rate, samples)
    else:
        latents = file.read(path)
    metadata = latents.metadata
    channels, frames = latents.values.shape
    own = (channels, metadata.hop_length, metadata.sample_rate)
    if own != (vae.latent_channels, vae.hop_length, vae.sample_rate):
        raise LatentsError(
            f"{source}: holds {channels} latents per {metadata.hop_length} samples at "
            f"{metadata.sample_rate} Hz, the model has {vae.latent_channels} per {vae.hop_length} "
            f"at {vae.sample_rate} Hz; give the model that made it with --weights"
        )
    if metadata.model != vae.identity and not force:
        if metadata.model == former.SHIPPED:
            raise LatentsError(f"{source}: was encoded by the former shipped model: {former.GONE}")
        raise LatentsError(
            f"{source}: was encoded by model {metadata.model}, this is model {vae.identity}; give "
            "the right one with --weights, or decode anyway with --force"
        )
    values = torch.from_numpy(denormalised(path, latents, statistics, force))
    needed = codec.frames_for(vae, metadata.samples)
    if metadata.segment is not None and frames == needed - 1:
        # The last samples of a segment may lean on the next one's first frame.
        values = torch.cat([values, values[:, -1:]], dim=1)
    elif frames < needed:
        raise LatentsError(
            f"{source}: holds {frames} frames, {metadata.samples} samples need {needed}; "
            "encode it again"
        )
    total, rate = metadata.original_samples, metadata.original_rate
    channels = 2 if stereo else metadata.channels
    blocks = _decode(vae, values[None], metadata.samples, rate, total, channels, chunk_frames)
    blocks = _counted(blocks, total, progress)
    written = audio.write(target, blocks, rate, channels, total, output)
    return Report(
        source=str(source),
        output=str(target),
        samples=total,
        rate=rate,
        channels=channels,
        frames=frames,
        seconds=time.perf_counter() - started,
        **asdict(written),
        seed=metadata.seed,
    )


def _bare(
    vae: EarVAE, path: Path, number: int | None, rate: int | None, samples: int | None
) -> Latents:
    """Latents that say nothing of themselves, as ``decode_file`` takes them."""
    batch, channels, frames = bare.shape(path)
    if batch > 1 and number is None:
        raise LatentsError(f"{path}: holds a batch of {batch}; decode it into a folder: end -o "
                           "with a slash")  # fmt: skip
    if channels != vae.latent_channels:
        hint = "; its axes are the other way round" if frames == vae.latent_channels else ""
        raise LatentsError(
            f"{path}: holds {channels} channels of {frames} frames, the model has "
            f"{vae.latent_channels} channels{hint or '; name the right model with --weights'}"
        )
    rate = vae.sample_rate if rate is None else rate
    if rate not in audio.RATES:
        raise LatentsError(f"{path}: --rate {rate}: rates are {audio.RATES[0]} to "
                           f"{audio.RATES[-1]} Hz")  # fmt: skip
    most = frames * vae.hop_length - vae.decoder.tail_deficit
    total = most * rate // vae.sample_rate if samples is None else samples
    own = -(-total * vae.sample_rate // rate)
    if not 0 < own <= most:
        raise LatentsError(
            f"{path}: its {frames} frames hold {most * rate // vae.sample_rate} samples at {rate} "
            f"Hz, not {total}"
        )
    metadata = Metadata(
        sample_rate=vae.sample_rate,
        original_rate=rate,
        channels=2,
        hop_length=vae.hop_length,
        model=vae.identity,
        latents="sample",
        samples=own,
        original_samples=total,
    )
    return Latents(metadata, bare.read(path, number or 0))


def _encode(
    vae: EarVAE, source: AudioSource, chunk_frames: int | None, progress: Progress
) -> tuple[Posterior, int]:
    """Posterior of a file, and its samples at the model's rate. Raises LatentsError where the
    model gives no finite numbers for it."""
    blocks = _counted(source.blocks(), source.info.header_samples, progress)
    blocks = audio.resample(audio.to_stereo(blocks), source.rate, vae.sample_rate)
    posterior, samples = codec.encode_stream(vae, map(torch.from_numpy, blocks), chunk_frames)
    if not (posterior.mean.isfinite() & posterior.std.isfinite()).all():
        raise LatentsError(f"{source.path}: {NOT_FINITE}")
    return posterior, samples


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
    chunk_frames: int | None,
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
