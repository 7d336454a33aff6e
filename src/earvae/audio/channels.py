"""Mono, stereo and surround: blocks ``[channels, n]`` with other channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def to_stereo(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks ``[1 or 2, n]`` as ``[2, n]``: mono is duplicated."""
    for block in blocks:
        yield block if len(block) == 2 else np.repeat(block, 2, axis=0)


def to_mono(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks ``[2, n]`` as ``[1, n]``, the mean of both channels."""
    for block in blocks:
        yield block.mean(axis=0, keepdims=True)


def downmix_matrix(
    channels: int, vorbis_order: bool = False, speakers: Sequence[str] | None = None
) -> np.ndarray:
    """ITU-R BS.775 coefficients from ``channels`` to stereo, ``[2, channels]``.

    Left and right count 1, centre and surrounds 1/√2 (a single rear centre 1/2 on each side), the
    low-frequency channel 0. The sum is not attenuated, so it may exceed full scale. Channels are
    taken in WAVE order (3 L R C, 4 quad, 5 L R C Ls Rs, 6 = 5.1, 7 = 6.1, 8 = 7.1), with
    ``vorbis_order`` in the order of Ogg files, or as ``speakers`` names them (L, R, C, LFE, Ls, Rs,
    Cs). Raises ValueError for counts that have no such order.
    """
    wave = {
        3: "L R C",
        4: "L R Ls Rs",
        5: "L R C Ls Rs",
        6: "L R C LFE Ls Rs",
        7: "L R C LFE Cs Ls Rs",
        8: "L R C LFE Ls Rs Ls Rs",
    }
    vorbis = {
        3: "L C R",
        4: "L R Ls Rs",
        5: "L C R Ls Rs",
        6: "L C R Ls Rs LFE",
        7: "L C R Ls Rs Cs LFE",
        8: "L C R Ls Rs Ls Rs LFE",
    }
    order = (vorbis if vorbis_order else wave).get(channels, "").split()
    if speakers is not None and channels in wave:
        order = list(speakers)
    if not order:
        raise ValueError(f"has {channels} channels, of which no standard says how to fold them")
    half_power = 0.5**0.5
    gains = {
        "L": (1.0, 0.0),
        "R": (0.0, 1.0),
        "C": (half_power, half_power),
        "Ls": (half_power, 0.0),
        "Rs": (0.0, half_power),
        "Cs": (0.5, 0.5),
        "LFE": (0.0, 0.0),
    }
    return np.array([gains[name] for name in order], np.float32).T
