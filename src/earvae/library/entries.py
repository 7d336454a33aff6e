"""Entries: what is stored of a track or of one segment of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from earvae.latents.file import Latents, Metadata, rounded
from earvae.latents.statistics import Statistics
from earvae.library.items import Item
from earvae.library.reader import Facts
from earvae.library.settings import Settings
from earvae.model.posterior import Posterior
from earvae.tracks import printable


def entries_of(
    item: Item,
    facts: Facts,
    posterior: Posterior,
    settings: Settings,
    statistics: Statistics | None = None,
) -> list[Latents]:
    """What is stored of a file whose posterior is ``[1, latent, frames]``: one entry, or one for
    each segment.

    A sample's noise depends on the seed and the item's name. Raises LatentsError where latents are
    not finite.
    """
    values, std = _values(item, posterior, settings, statistics)
    frames = values.shape[1]
    length = settings.segment_frames or frames
    entries = []
    for number, start in enumerate(range(0, frames, length)):
        metadata = _metadata(item, facts, settings, start, length)
        if settings.segment_frames is not None:
            metadata = replace(metadata, segment=number, segments=frames // length)
        cut = slice(start, start + length)
        entries.append(Latents(metadata, values[:, cut], None if std is None else std[:, cut]))
    return entries


def _values(
    item: Item, posterior: Posterior, settings: Settings, statistics: Statistics | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Latents ``[latent, frames]`` as they are stored, and std where it is."""
    if settings.store == "sample":
        values = posterior.at(_noise(item, settings.seed or 0, posterior.mean.shape))[0].numpy()
    else:
        values = posterior.mode()[0].numpy()
    std = posterior.std[0].numpy() if settings.store == "mean+std" else None
    if statistics is not None:
        values = statistics.normalise(values)
        std = None if std is None else (std / statistics.scale[:, None]).astype(np.float32)
    half = settings.half
    return rounded(values, half), None if std is None else rounded(std, half)


def _noise(item: Item, seed: int, shape: torch.Size) -> Tensor:
    digest = hashlib.sha256(f"{seed}\n{printable(item.name)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)


def _metadata(item: Item, facts: Facts, settings: Settings, start: int, frames: int) -> Metadata:
    """Metadata of the entry of ``frames`` from ``start``: where it lies in its track, and how much
    of it is true."""
    hop, rate = settings.hop_length, settings.sample_rate
    first = start * hop
    samples = min(frames * hop, facts.samples - first)
    whole = first + samples == facts.samples
    original_first = first * facts.rate // rate
    original_last = facts.original_samples if whole else (first + samples) * facts.rate // rate
    return Metadata(
        sample_rate=rate,
        original_rate=facts.rate,
        channels=facts.channels,
        hop_length=hop,
        model=settings.model,
        latents="sample" if settings.store == "sample" else "mean",
        seed=settings.seed,
        normalised=settings.normalised,
        settings=settings.digest,
        source=printable(item.name),
        source_sha256=facts.sha256,
        track_samples=facts.samples,
        samples=samples,
        sample_offset=first,
        original_samples=original_last - original_first,
        original_offset=original_first,
        frames=frames,
        frames_valid=-(-samples // hop),
    )
