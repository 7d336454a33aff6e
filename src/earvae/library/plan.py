"""Which files are computed together, and how long ones are cut. Pure arithmetic.

A latent frame depends on audio within ``context`` frames of it. Next to the ends of a file the
encoder sees its own zeros in place of audio, layer by layer, which silence cannot stand in for.
So that no latent depends on the company it was computed in:

- Files of equally many frames form a batch as they are.
- Files of different lengths form a batch padded to the longest. The ends of shorter ones are
  computed a second time (``codec.as_alone``).
- Long files are cut into windows of one length that overlap by 2·``context`` frames; the last
  window ends where the file ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """How work is cut. Changes results by float rounding only.

    Attributes:
        budget: frames of audio in a batch, at most (one file or window may exceed it).
        longest: frames of a window; longer files are cut.
        context: frames on each side that a latent depends on.
        padding: how much longer than its shortest file a batch may be, 0 = equal lengths only.
    """

    budget: int
    longest: int
    context: int
    padding: float = 0.0

    @property
    def windows(self) -> int:
        """Windows of a long file that are computed together."""
        return max(1, self.budget // self.longest)


@dataclass(frozen=True)
class Batch:
    """Files computed together, ``items`` counting from 0 in what was planned.

    ``lengths`` are theirs in frames, at most ``frames`` (to which audio is padded).
    """

    items: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Length of the batch."""
        return max(self.lengths)


@dataclass(frozen=True)
class Solo:
    """A file by itself, read as a stream: a long one, or one whose length is not known."""

    item: int


def plan(lengths: Sequence[int | None], geometry: Geometry) -> list[Batch | Solo]:
    """Group files by their lengths in frames (None: unknown), ordered by their first file."""
    solos = [
        Solo(item)
        for item, frames in enumerate(lengths)
        if frames is None or frames > geometry.longest
    ]
    known = sorted(
        (frames, item)
        for item, frames in enumerate(lengths)
        if frames is not None and frames <= geometry.longest
    )
    batches: list[Batch] = []
    loose: list[tuple[int, int]] = []  # too few of their length for a batch
    for _, equal in groupby(known, itemgetter(0)):
        group = list(equal)
        size = max(1, geometry.budget // group[0][0])
        for start in range(0, len(group), size):
            part = group[start : start + size]
            if len(part) < size and geometry.padding > 0:
                loose += part
            else:
                batches.append(_batch(part))
    batches += [_batch(part) for part in _similar(loose, geometry)]
    return sorted(
        [*batches, *solos], key=lambda part: part.item if isinstance(part, Solo) else part.items[0]
    )


def windows(
    blocks: Iterable[np.ndarray],
    hop: int,
    geometry: Geometry,
    frames_of: Callable[[int], int],
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Cut streamed audio ``[channels, n]`` into windows, a few of which are held.

    ``frames_of`` turns the number of samples into frames, at least as many as hold them; audio is
    padded to those. Yields ``[channels, window·hop]`` and the frames, counted in the window, of
    which the latents are to be kept: one after the other, these are the file's. All windows are
    ``geometry.longest`` frames long, unless the file is shorter. Raises ValueError if nothing
    arrives.
    """
    length, context = geometry.longest, geometry.context
    step = length - 2 * context
    held: list[np.ndarray] = []
    base = start = kept = samples = 0  # frames: first one held, of the next window, already kept

    def advance() -> tuple[np.ndarray, int, int]:
        """The window at ``start``, which is not the last."""
        nonlocal base, start, kept, held
        audio = _joined(held)
        window = audio[:, (start - base) * hop : (start - base + length) * hop]
        first, last = kept - start, length - context
        held = [audio[:, (start - base) * hop :]]
        base, kept, start = start, start + last, start + step
        return window, first, last

    for block in blocks:
        held.append(block)
        samples += block.shape[1]
        while samples > (start + length) * hop:
            yield advance()
    if samples == 0:
        raise ValueError("audio holds no samples")
    frames = frames_of(samples)
    held.append(np.zeros((held[0].shape[0], frames * hop - samples), held[0].dtype))
    while frames > start + length:
        yield advance()
    start = max(0, frames - length)
    yield _joined(held)[:, (start - base) * hop :], kept - start, frames - start


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _batch(part: Sequence[tuple[int, int]]) -> Batch:
    ordered = sorted((item, frames) for frames, item in part)
    return Batch(*zip(*ordered, strict=True))


def _similar(
    loose: Sequence[tuple[int, int]], geometry: Geometry
) -> Iterator[list[tuple[int, int]]]:
    """Runs of files of rising lengths that may share a batch.

    A file shorter than eight contexts is not padded: the second pass would cost too much of what
    the batch saves.
    """
    group: list[tuple[int, int]] = []
    for pair in loose:
        frames = pair[0]
        if group:
            shortest = group[0][0]
            fits = frames == shortest or (
                shortest >= 8 * geometry.context and frames <= (1 + geometry.padding) * shortest
            )
            if not fits or (len(group) + 1) * frames > geometry.budget:
                yield group
                group = []
        group.append(pair)
    if group:
        yield group
