"""Curves over time of one version of a track, as SVG paths: Mid, Side, correlation, envelope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from earvae.evaluation.report.spectrograms import FLOOR_DB

POINTS = 400  # of a curve
ENVELOPE_POINTS = 900


@dataclass(frozen=True)
class Curves:
    """Over time, ``[points]`` each; NaN where there is nothing."""

    mid_db: np.ndarray
    side_db: np.ndarray
    correlation: np.ndarray
    """Of Left and Right, −1 to 1."""


def curves(audio: np.ndarray, rate: int) -> Curves:
    """The curves of ``[samples, 2]`` audio; each point spans its share of the time, or 50 ms if
    that is longer."""
    sums = _cumulated(audio)
    centres = (np.arange(POINTS) + 0.5) * len(audio) / POINTS
    half = max(len(audio) / POINTS, 0.05 * rate) / 2
    low = np.clip(centres - half, 0, len(audio)).astype(int)
    high = np.clip(centres + half, 0, len(audio)).astype(int)
    left, right, cross = ((sums[high] - sums[low]) / np.maximum(high - low, 1)[:, None]).T
    floor = 10 ** (FLOOR_DB / 10)
    with np.errstate(divide="ignore", invalid="ignore"):
        mid, side = ((left + right) / 2 + cross, (left + right) / 2 - cross)
        correlation = cross / np.sqrt(left * right)
    correlation[(left < floor) | (right < floor)] = np.nan
    return Curves(
        10 * np.log10(np.maximum(mid, floor)),
        10 * np.log10(np.maximum(side, floor)),
        np.clip(correlation, -1, 1),
    )


def level_range(curves: Curves) -> tuple[float, float]:
    """Ends of a level axis, in dB, on which nearly all of Mid and Side of these curves fits."""
    levels = np.concatenate([curves.mid_db, curves.side_db])
    levels = levels[levels > FLOOR_DB]
    if not levels.size:
        return -60.0, 0.0
    high = np.ceil(levels.max() / 10) * 10
    low = np.floor((np.percentile(levels, 3) - 3) / 10) * 10
    return float(np.clip(low, high - 80, high - 30)), float(high)


def _cumulated(audio: np.ndarray) -> np.ndarray:
    """``[samples + 1, 3]``: running sums of the squares of Left and Right and their product."""
    sums = np.zeros((len(audio) + 1, 3))
    left, right = audio.T
    for column, product in enumerate((left * left, right * right, left * right)):
        np.cumsum(product, dtype=np.float64, out=sums[1:, column])
    return sums


def path_data(values: np.ndarray, low: float, high: float, height: float = 100.0) -> str:
    """An SVG path of values over 0…1000 in x, from ``low`` at ``height`` up to ``high`` at 0.
    NaN leaves a gap; values beyond the ends are drawn at the ends."""
    y = (1 - np.clip((values - low) / (high - low), 0, 1)) * height
    x = (np.arange(len(values)) + 0.5) * 1000 / len(values)
    parts, drawing = [], False
    for across, down in zip(x, y, strict=True):
        if np.isnan(down):
            drawing = False
            continue
        parts.append(f"{'L' if drawing else 'M'}{across:g} {down:.1f}")
        drawing = True
    return "".join(parts)


def envelope(audio: np.ndarray) -> list[int]:
    """The highest samples over time, in per cent of the highest of all, for the seek bar."""
    edges = np.linspace(0, len(audio), min(ENVELOPE_POINTS, len(audio)), endpoint=False)
    peaks = np.maximum.reduceat(np.abs(audio).max(axis=1), edges.astype(int))
    return np.rint(100 * peaks / max(float(peaks.max()), 1e-9)).astype(int).tolist()
