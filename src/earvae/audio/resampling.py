"""Blocks ``[channels, n]`` at another sample rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """Samples at ``target_rate`` that span ``samples`` at ``source_rate``, rounded up."""
    return -(-samples * target_rate // source_rate)


def resample(
    blocks: Iterable[np.ndarray],
    source_rate: int,
    target_rate: int,
    samples: int | None = None,
) -> Iterator[np.ndarray]:
    """Blocks ``[channels, n]`` at another rate, through soxr's "HQ" filter, without delay.

    The total is exactly ``samples`` or, where that is None, :func:`resampled_length` of what
    came in; the filter's own rounding is evened out at the end. At equal rates the blocks pass
    unchanged.
    """
    if source_rate == target_rate:
        yield from blocks
        return
    import soxr  # here: the exported runner does without where nothing is resampled

    stream: soxr.ResampleStream | None = None
    arrived = produced = 0
    tail: np.ndarray | None = None  # the last output block waits for the exact total

    def emit(block: np.ndarray) -> Iterator[np.ndarray]:
        nonlocal produced, tail
        if block.shape[1]:
            if tail is not None:
                produced += tail.shape[1]
                yield tail
            tail = block

    channels = 0
    for block in blocks:
        if stream is None:
            channels = len(block)
            stream = soxr.ResampleStream(source_rate, target_rate, channels, quality="HQ")
        arrived += block.shape[1]
        yield from emit(stream.resample_chunk(np.ascontiguousarray(block.T)).T)
    if stream is None:
        return
    flushed = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T
    waiting = [block for block in (tail, flushed) if block is not None]
    rest = np.concatenate(waiting, axis=1)
    total = resampled_length(arrived, source_rate, target_rate) if samples is None else samples
    missing = max(0, total - produced - rest.shape[1])
    yield np.pad(rest, ((0, 0), (0, missing)))[:, : total - produced]
