"""Waveform term: a signal-to-distortion ratio that saturates where it is good enough."""

from __future__ import annotations

import torch
from torch import Tensor

from earvae.config import ObjectiveConfig

CEILING_DB = 30.0
"""Above this ratio the gradient fades: what is left is inaudible beside the spectral terms."""


def waveform(reconstruction: Tensor, target: Tensor, config: ObjectiveConfig) -> Tensor:
    """log10(1 + error energy / (0.001 target energy)) per item.

    The ratio is taken over both channels together, on audio that is not weighted. With the SDR
    in dB well below the 30 dB ceiling this is 3 - SDR/10; it is 0 for equal signals. (The
    soft threshold is that of Wisdom et al., "Unsupervised sound separation using mixture
    invariant training", 2020.)

    Args:
        reconstruction, target: [batch, channels, samples].
        config: its ``level_floor`` is the RMS level whose energy is added to the target's.
    Returns: [batch] >= 0; about 3 for silence, 0 for the target.
    """
    error = (reconstruction - target).square().mean(dim=(1, 2))
    energy = target.square().mean(dim=(1, 2)) + config.level_floor**2
    return torch.log10(1 + error / (energy * 10 ** (-CEILING_DB / 10)))
