"""Reading back what a command wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def load(path: Path) -> tuple[np.ndarray, int]:
    """``[channels, samples]`` and the rate."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return audio.T, rate
