"""Do the judges prefer right tones to noise of the same level?

    python judged_tones.py

A harmonic sound of ten notes, whose partials from 2 to 4 kHz are replaced: by noise of their level
in blocks of 6 ms; by the same in other phases; on a grid of 10.8 Hz; and with levels that are off.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import butter, sosfilt

from earvae.evaluation.metrics.judges import visqol_figure, zimtohrli_figure
from earvae.evaluation.metrics.lines import line_figures
from earvae.evaluation.metrics.signal import Signal

RATE, LOW, HIGH, BLOCK = 44_100, 2000, 4000, 256
NOTES = (110, 164.8, 220, 146.8, 196, 130.8, 174.6, 98, 123.5, 82.4)  # Hz, half a second each


def sound(random=None, grid: float = 0, off_db: float = 0, noise: bool = False) -> torch.Tensor:
    """Stereo, ``[2, samples]``; ``random`` draws phases and errors of level from LOW to HIGH."""
    half = RATE // 2
    kept, replaced = np.zeros((2, len(NOTES) * half))
    time = np.arange(half) / RATE
    envelope = np.exp(-3 * time) * (1 - np.exp(-400 * time))
    for number, note in enumerate(NOTES):
        here = slice(number * half, (number + 1) * half)
        for partial in range(1, int(8000 / note) + 1):
            frequency, gain, phase = note * partial, partial**-1.2, 1.7 * partial**2
            inside = LOW <= frequency < HIGH
            if inside and random is not None:
                phase = random.uniform(0, 2 * np.pi)
                frequency = (frequency // grid + 0.5) * grid if grid else frequency
                gain *= 10 ** (random.normal(0, off_db) / 20)
            wave = gain * envelope * np.sin(2 * np.pi * frequency * time + phase)
            (replaced if inside else kept)[here] += wave
    if noise:
        band = butter(8, [LOW, HIGH], "bandpass", fs=RATE, output="sos")
        drawn = sosfilt(band, np.random.default_rng(0).standard_normal(len(replaced)))
        blocks = len(drawn) // BLOCK * BLOCK
        level = np.sqrt(np.square(replaced[:blocks].reshape(-1, BLOCK)).mean(1))
        replaced = np.zeros_like(drawn)
        replaced[:blocks] = drawn[:blocks] / drawn.std() * np.repeat(level, BLOCK)
    return torch.tensor(np.stack([kept + replaced] * 2) * 0.1, dtype=torch.float32)


def main() -> None:
    music = Signal(sound())
    for name, how in (
        ("noise of the same level", {"noise": True}),
        ("the same tones in other phases", {}),
        ("on a grid of 10.8 Hz", {"grid": 10.77}),
        ("and 3 dB off each", {"grid": 10.77, "off_db": 3}),
        ("and 6 dB off each", {"grid": 10.77, "off_db": 6}),
    ):
        other = Signal(sound(np.random.default_rng(1), **how))
        judges = zimtohrli_figure(other, music), visqol_figure(other, music)
        lines = line_figures(other, music)["lines_f1_2-4"]
        print(f"{name}: Zimtohrli {judges[0]:.2f}, ViSQOL {judges[1]:.2f}, F1 {lines:.2f}")


if __name__ == "__main__":
    main()
