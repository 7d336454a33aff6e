"""Reconstruction metrics (SPEC 4). They take audio alone and know nothing of the model."""

from __future__ import annotations

import torch
from torch import Tensor

SI_SDR_FLOOR = 1e-8  # keeps silence finite, as in the published evaluation


def si_sdr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, higher is better (Le Roux et al. 2019).

    ``[..., channels, samples]`` each, to ``[...]``: per channel with its mean removed, then the
    mean over channels.
    """
    reconstruction = reconstruction - reconstruction.mean(dim=-1, keepdim=True)
    target = target - target.mean(dim=-1, keepdim=True)
    product = (reconstruction * target).sum(dim=-1, keepdim=True)
    scale = product / (target.square().sum(dim=-1, keepdim=True) + SI_SDR_FLOOR)
    signal = (scale * target).square().sum(dim=-1)
    error = (reconstruction - scale * target).square().sum(dim=-1)
    return (10 * torch.log10(signal / (error + SI_SDR_FLOOR) + SI_SDR_FLOOR)).mean(dim=-1)
