"""Spectrograms of one version of a track, and how they differ from the reference's.

They are bare images: the page draws the axes in its own colours. Memory stays flat in the track's
length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

WINDOW = 4096
COLUMNS, ROWS = 1000, 208
RANGE_DB = 90.0
FLOOR_DB = -120.0
DIFFERENCE_DB = 20.0  # full colour
KNEE_HZ = 700.0  # the frequency axis is linear below and logarithmic above, as the mel scale
TICKS_HZ = (200, 1000, 2000, 4000, 8000, 16000)
QUIETER, LOUDER = (45, 125, 210), (225, 105, 20)  # of the reconstruction, against the reference
HANN_BINS = 1.5  # over which the window spreads the power of a sine


def mid_side(audio: np.ndarray) -> dict[str, np.ndarray]:
    """Mid and Side of ``[samples, 2]`` audio, of the same power together as Left and Right."""
    left, right = audio[:, 0], audio[:, 1]
    return {"mid": (left + right) / np.sqrt(2), "side": (left - right) / np.sqrt(2)}


def spectrogram(signal: np.ndarray, rate: int) -> np.ndarray:
    """Level in dB, ``[ROWS, COLUMNS]`` with the lowest frequency first; a full-scale sine reads
    about 0. A column is the mean power of the time that it spans, a row the power in its band."""
    hop = len(signal) / COLUMNS
    frames = max(1, round(2 * hop / WINDOW))  # per column
    starts = ((np.arange(COLUMNS * frames) + 0.5) * hop / frames).astype(int)
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    offsets = np.arange(WINDOW)
    padded = np.pad(signal.astype(np.float32), WINDOW // 2)
    filters = _filters(rate)
    power = np.empty((ROWS, COLUMNS), np.float32)
    step = max(1, 200 // frames)
    for first in range(0, COLUMNS, step):
        columns = slice(first, min(COLUMNS, first + step))
        chosen = starts[columns.start * frames : columns.stop * frames]
        spectrum = np.fft.rfft(padded[chosen[:, None] + offsets] * window)
        levels = (np.abs(spectrum) * (2 / window.sum())) ** 2
        power[:, columns] = filters @ levels.reshape(-1, frames, levels.shape[1]).mean(axis=1).T
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))


@lru_cache(maxsize=4)
def _filters(rate: int) -> np.ndarray:
    """``[ROWS, bins]``: overlapping triangles that sum up the power around each row's frequency,
    at least two bins wide."""
    bins = np.arange(WINDOW // 2 + 1) * rate / WINDOW
    centres = _hertz(np.arange(ROWS) / (ROWS - 1), rate)
    width = np.maximum(np.gradient(centres), rate / WINDOW)
    filters = np.maximum(0, 1 - np.abs(bins - centres[:, None]) / width[:, None])
    return (filters / HANN_BINS).astype(np.float32)


def _hertz(height: np.ndarray, rate: int) -> np.ndarray:
    return KNEE_HZ * np.expm1(height * np.log1p(rate / 2 / KNEE_HZ))


def ticks(rate: int) -> list[tuple[str, float]]:
    """Labels of the frequency axis and their heights, 0 to 1."""
    heights = np.log1p(np.array(TICKS_HZ) / KNEE_HZ) / np.log1p(rate / 2 / KNEE_HZ)
    labels = [f"{hz // 1000} k" if hz >= 1000 else str(hz) for hz in TICKS_HZ]
    return [(label, float(h)) for label, h in zip(labels, heights, strict=True) if h < 0.97]


def top_of_scale(levels: Sequence[np.ndarray]) -> float:
    """The upper end of the colour scale for spectrograms that are shown together, in dB."""
    return float(np.ceil(max(float(np.percentile(level, 99.9)) for level in levels) / 5) * 5)


def write_spectrogram(levels: np.ndarray, top: float, path: Path) -> None:
    """Levels as colours from ``top`` down to ``top - RANGE_DB``."""
    from matplotlib import colormaps

    shares = np.clip((levels - top) / RANGE_DB + 1, 0, 1)
    _write(colormaps["magma"](shares, bytes=True), path, quality=72)


def write_difference(levels: np.ndarray, reference: np.ndarray, top: float, path: Path) -> None:
    """Where the level is above (orange) or below (blue) the reference's, see-through where it is
    equal. What is below the colour scale of the spectrograms counts as its lower end, so that
    nothing that cannot be heard shows."""
    floor = top - RANGE_DB
    difference = np.maximum(levels, floor) - np.maximum(reference, floor)
    image = np.empty((*difference.shape, 4), np.uint8)
    image[..., :3] = np.where(difference[..., None] > 0, LOUDER, QUIETER)
    image[..., 3] = np.rint(255 * np.clip(np.abs(difference) / DIFFERENCE_DB, 0, 1))
    image[..., 3] &= 0xF0  # steps of 1.3 dB: noise of less compresses badly and tells nothing
    _write(image, path, quality=60)


def colour_stops(stops: int = 9) -> list[str]:
    """The colours of the spectrograms' scale, lowest level first, for CSS."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["magma"](share)) for share in np.linspace(0, 1, stops)]


def _write(image: np.ndarray, path: Path, quality: int) -> None:
    from matplotlib.image import imsave

    image = np.ascontiguousarray(image[::-1])
    imsave(path, image, format="webp", pil_kwargs={"quality": quality, "method": 4})
