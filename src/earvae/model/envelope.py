"""The second analytic start of the compact model: a linear code of the spectral envelope.

Where a waveform cannot be kept, its level by band and block still can. The levels of
neighbouring bands and blocks go together, so a few principal components of their logarithms
tell most of what ~200 bands hold (docs/compact_model.md has the figures).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

POWER_FLOOR = 1e-6  # of the units that the envelope is taken in: 60 dB below ordinary music
NARROWEST, WIDEST = 150.0, 600.0  # Hz between centres of bands
RELATIVE = 0.12  # of its frequency, between these


class EnvelopeCode(nn.Module):
    """``channels`` whitened principal components of a frame's log band powers.

    Buffers, fitted once by :func:`fit_envelope_code` and never trained: ``mean [blocks·bands]``,
    ``basis [blocks·bands, channels]`` (orthonormal columns), ``std [channels]``.

    Args:
        bins: MDCT bins of a block, from 0 to half of ``sample_rate`` (Hz).
        blocks: of both channels, in a frame.
    """

    mean: Tensor
    basis: Tensor
    std: Tensor
    bands: Tensor

    def __init__(self, bins: int, blocks: int, sample_rate: int, channels: int) -> None:
        super().__init__()
        bands = band_weights(bins, sample_rate)
        self.register_buffer("bands", bands, persistent=False)
        self.blocks, levels = blocks, blocks * bands.shape[0]
        self.register_buffer("mean", torch.zeros(levels))
        self.register_buffer("basis", torch.eye(levels, channels))
        self.register_buffer("std", torch.ones(channels))

    @property
    def levels(self) -> int:
        """Bands of a whole frame."""
        return self.mean.shape[0]

    def measure(self, frames: Tensor) -> Tensor:
        """Natural log of the mean power in each band, ``[..., blocks·bins]`` to
        ``[..., blocks·bands]``, at least that of POWER_FLOOR."""
        power = frames.unflatten(-1, (self.blocks, -1)).square()
        mean = power @ (self.bands / self.bands.sum(dim=1, keepdim=True)).T
        return (mean + POWER_FLOOR).log().flatten(-2)

    def encode(self, levels: Tensor) -> Tensor:
        """Log powers ``[..., blocks·bands]`` to unit-variance latents ``[..., channels]``."""
        return (levels - self.mean) @ (self.basis / self.std)

    def decode(self, latents: Tensor) -> Tensor:
        """``[..., channels]`` to the nearest log powers ``[..., blocks·bands]``."""
        return self.mean + latents @ (self.basis * self.std).T

    def spread(self, levels: Tensor) -> Tensor:
        """Values of bands ``[..., blocks·bands]`` interpolated to ``[..., blocks·bins]``."""
        return (levels.unflatten(-1, (self.blocks, -1)) @ self.bands).flatten(-2)


def band_weights(bins: int, sample_rate: int) -> Tensor:
    """Triangular weights that interpolate between band centres, ``[bands, bins]``, columns
    summing to 1.

    Centres are 12 % of their frequency apart, but at least 150 and at most 600 Hz. The latter
    lets an envelope follow the steep edge where lossy coding has cut the treble off.
    """
    top = sample_rate / 2
    centres = [0.0]
    while centres[-1] < top:
        step = min(WIDEST, max(NARROWEST, RELATIVE * centres[-1]))
        centres.append(centres[-1] + max(step, 2 * top / bins))  # two bins at least
    frequency = (torch.arange(bins) + 0.5) * top / bins
    centre = torch.tensor(centres)
    right = torch.searchsorted(centre, frequency).clamp(1, len(centres) - 1)
    share = (frequency - centre[right - 1]) / (centre[right] - centre[right - 1])
    weights = torch.zeros(len(centres), bins)
    weights[right - 1, torch.arange(bins)] = 1 - share
    weights[right, torch.arange(bins)] = share
    return weights


def fit_envelope_code(code: EnvelopeCode, levels: Tensor) -> None:
    """Set ``code`` to the PCA of log powers, ``[frames, blocks·bands]``, of training music."""
    if levels.shape[0] < 2:
        raise ValueError("no audible frame to fit the envelope code on")
    levels = levels.double()
    mean = levels.mean(dim=0)
    values, vectors = torch.linalg.eigh((levels - mean).T @ (levels - mean) / levels.shape[0])
    keep = torch.argsort(values, descending=True)[: code.std.shape[0]]
    basis = vectors[:, keep]
    largest = basis.abs().argmax(dim=0, keepdim=True)  # positive, so that the fit is repeatable
    basis = basis * basis.gather(0, largest).sign()
    code.mean.copy_(mean)
    code.basis.copy_(basis)
    code.std.copy_(values[keep].clamp_min(1e-12).sqrt())
