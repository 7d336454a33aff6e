"""The mel filters that the Mel distance and the objective's mel term share."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def mel_filters(sample_rate: float, length: int, bands: int) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of unit area in Hz (Auditory Toolbox, 1998).

    float32 ``[bands, length / 2 + 1]``, from 0 Hz to half the sample rate; linear up to 1 kHz,
    27 bands for a factor of 6.4 above. Raises ValueError where a band holds no bin.
    """

    def hz_of(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))

    top = sample_rate / 2
    top = 15 + 27 * math.log(top / 1000) / math.log(6.4) if top >= 1000 else top * 3 / 200
    corners = hz_of(np.linspace(0, top, bands + 2))
    low, centre, high = (corners[i : i + bands, None] for i in range(3))
    bins = np.arange(length // 2 + 1) * (sample_rate / length)
    rise, fall = (bins - low) / (centre - low), (high - bins) / (high - centre)
    filters = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
    if not filters.any(axis=1).all():
        raise ValueError(f"{bands} mel bands are too many for windows of {length} samples at "
                         f"{sample_rate:g} Hz")  # fmt: skip
    return torch.from_numpy(filters.astype(np.float32))
