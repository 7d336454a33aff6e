"""Total harmonic distortion and noise of a codec, after AES17-2015.

A stepped sine goes through the codec: at each level and frequency a tone with time to settle, of
which one second is analysed. Frequencies are whole hertz, so that second holds whole periods and
its Fourier transform shows the fundamental and each harmonic in one bin, with no window and no
leakage; a bin is then also the least-squares fit of that sine. The notch is applied to the
spectrum as the magnitude response of the standard's second-order filter (Q = 2, the standard
allows 1.2 to 3), which is what the filter does in the steady state, without its transient.

Two residuals are given. ``thdn_db`` is the standard's: what the notch leaves, relative to the
whole signal, both within 20 Hz to 20 kHz. The notch also takes what lies near the tone (at 8 kHz
everything from 6.2 to 10.2 kHz is at least halved), and that is where codecs put their noise. So
``residual_db`` takes away nothing but the sine itself.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from earvae import atomic
from earvae.evaluation.excerpts import SAMPLE_RATE
from earvae.evaluation.systems.system import System

LEVELS = (-1.0, -20.0)  # dB of full scale
FREQUENCIES = (
    *(20, 25, 32, 40, 50, 63, 80, 100, 125, 160, 200, 250, 315, 400, 500, 630, 800, 997),
    *(1250, 1600, 2000, 2500, 3150, 4000, 5000, 6300, 8000, 10_000, 12_500, 16_000),
)
"""Thirds of octaves in Hz (ISO 266); 997 for 1000, as AES17 does, so that a tone at a common
rate does not repeat the same few sample values."""
NOTCH_Q = 2.0
LOW_HZ, HIGH_HZ = 20.0, 20_000.0  # band of the measurement
HARMONICS = range(2, 11)
SETTLE = SAMPLE_RATE // 2  # samples of tone before the second that counts
RELEASE = SAMPLE_RATE // 4  # and after it
FADE = SAMPLE_RATE // 50


@dataclass(frozen=True)
class Reading:
    """One step. Ratios in dB, below 0; None where there is nothing to relate to."""

    level_dbfs: float
    """Of the tone that went in; a full-scale sine has 0."""
    frequency_hz: int
    output_dbfs: float | None
    """Of the fundamental that came out, the mean of both channels' powers."""
    thdn_db: float | None
    """What the notch leaves, over everything."""
    residual_db: float | None
    """Everything but the fundamental, over everything."""
    thd_db: float | None
    """Harmonics 2 to 10 within 20 kHz together, over the fundamental."""
    harmonics_db: dict[int, float | None]
    """Each of them, over the fundamental."""


def percent(decibels: float | None) -> float | None:
    """A ratio of amplitudes in percent: -40 dB is 1 %."""
    return None if decibels is None else 100 * 10 ** (decibels / 20)


def tone(level_dbfs: float, frequency_hz: int) -> np.ndarray:
    """One step of the test signal, float64 ``[samples]``, faded in and out."""
    time = np.arange(SETTLE + SAMPLE_RATE + RELEASE) / SAMPLE_RATE
    signal = 10 ** (level_dbfs / 20) * np.sin(2 * math.pi * frequency_hz * time)
    ramp = np.sin(0.5 * math.pi * np.arange(FADE) / FADE) ** 2
    signal[:FADE] *= ramp
    signal[-FADE:] *= ramp[::-1]
    return signal


def analyse(second: np.ndarray, level_dbfs: float, frequency_hz: int) -> Reading:
    """The reading of ``[channels, SAMPLE_RATE]`` samples in which the tone is steady.

    Powers are summed over channels.
    """
    channels = second.shape[0]
    spectrum = np.fft.rfft(second.astype(np.float64)) / (SAMPLE_RATE / 2)  # a sine: its amplitude
    power = np.square(np.abs(spectrum)).sum(axis=0)  # bin k is k Hz
    hertz = np.arange(len(power))
    power[(hertz < LOW_HZ) | (hertz > HIGH_HZ)] = 0
    ratio = hertz / frequency_hz
    passed = (1 - ratio**2) ** 2 / ((1 - ratio**2) ** 2 + (ratio / NOTCH_Q) ** 2)
    fundamental, total = power[frequency_hz], power.sum()
    rest = power[:frequency_hz].sum() + power[frequency_hz + 1 :].sum()
    orders = [order for order in HARMONICS if order * frequency_hz <= HIGH_HZ]
    harmonics = {order: power[order * frequency_hz] for order in orders}
    return Reading(
        level_dbfs,
        frequency_hz,
        output_dbfs=_decibels(fundamental, channels),
        thdn_db=_decibels((power * passed).sum(), total),
        residual_db=_decibels(rest, total),
        thd_db=_decibels(sum(harmonics.values()), fundamental) if orders else None,
        harmonics_db={order: _decibels(value, fundamental) for order, value in harmonics.items()},
    )


def measure_thdn(
    system: System,
    levels: tuple[float, ...] = LEVELS,
    frequencies: tuple[int, ...] = FREQUENCIES,
) -> list[Reading]:
    """A system's readings at every level and frequency, the same tone in both channels.

    Raises ValueError for a frequency that is no whole number of hertz from 20 to 20 000 or a level
    above full scale, UnusableSystem as the system does.
    """
    for frequency in frequencies:
        if frequency != int(frequency) or not LOW_HZ <= frequency <= HIGH_HZ:
            raise ValueError(f"{frequency} Hz: give whole hertz from 20 to 20000")
    if not all(-120 <= level <= 0 for level in levels):
        raise ValueError("levels are in dB of full scale, from -120 to 0")
    steps = [(level, int(frequency)) for level in levels for frequency in frequencies]
    signal = np.concatenate([tone(*step) for step in steps])
    given = torch.from_numpy(np.stack([signal, signal]).astype(np.float32))
    returned = system.round_trip(given).numpy()
    returned = np.pad(returned, ((0, 0), (0, max(0, given.shape[1] - returned.shape[1]))))
    length = SETTLE + SAMPLE_RATE + RELEASE
    readings = []
    for number, step in enumerate(steps):
        start = number * length + SETTLE
        readings.append(analyse(returned[:, start : start + SAMPLE_RATE], *step))
    return readings


def write_csv(readings: dict[str, list[Reading]], path: Path) -> None:
    """One line a codec, level and frequency. Raises WriteError."""
    header = "codec level_dbfs frequency_hz output_dbfs thdn_db thdn_percent residual_db thd_db"
    columns = [*header.split(), "thd_percent", *(f"h{order}_db" for order in HARMONICS)]
    with atomic.file(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for name, steps in readings.items():
            for step in steps:
                row = [name, step.level_dbfs, step.frequency_hz, step.output_dbfs, step.thdn_db]
                row += [percent(step.thdn_db), step.residual_db, step.thd_db, percent(step.thd_db)]
                table.writerow([*row, *(step.harmonics_db.get(order) for order in HARMONICS)])


def plot(name: str, readings: list[Reading], path: Path) -> None:
    """Ratios over frequency by level, and the harmonics of the highest level. Needs matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), sharey=True)
    levels = list(dict.fromkeys(step.level_dbfs for step in readings))
    for colour, level in enumerate(levels):
        steps = [step for step in readings if step.level_dbfs == level]
        hertz = [step.frequency_hz for step in steps]
        style = {"color": f"C{colour}", "marker": "."}
        title = f"{level:g} dBFS"
        left.plot(hertz, [step.thdn_db for step in steps], label=f"THD+N, {title}", **style)
        faint = {**style, "linestyle": ":", "marker": ""}
        left.plot(
            hertz, [step.residual_db for step in steps], label=f"all but the tone, {title}", **faint
        )
    loudest = [step for step in readings if step.level_dbfs == max(levels)]
    for order in (2, 3, 4, 5):
        hertz = [step.frequency_hz for step in loudest]
        values = [step.harmonics_db.get(order) for step in loudest]
        right.plot(hertz, values, marker=".", label=f"harmonic {order}, {max(levels):g} dBFS")
    left.set_title(f"{name}: distortion and noise (AES17)")
    right.set_title("harmonics over the fundamental")
    left.set_ylabel("dB")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks((20, 100, 1000, 10_000), ("20", "100", "1000", "10000"))
        axes.set_xlabel("Hz")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with atomic.file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def _decibels(power: float, reference: float) -> float | None:
    """10 log10 of a ratio; None where either is nothing."""
    return 10 * math.log10(power / reference) if power > 0 and reference > 0 else None
