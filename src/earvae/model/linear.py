"""The optimal fixed linear code of music frames: PCA of transform frames, whitened.

With 64 components it is the baseline that every trained model is held against. The compact
model's protected core, ``AdaptiveCode``, chooses among several such bases.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

AUDIBLE = 1e-12  # mean square; digital silence has no shape to learn from


class LinearCode(nn.Module):
    """``channels`` whitened principal components of frames with ``features`` values.

    The buffers are statistics of training music, fitted once by :func:`fit_linear_code` and
    never trained: ``basis [features, channels]`` (orthonormal columns), ``std [channels]`` (of
    the components) and ``residual_std [features]`` (of what the code leaves of each feature).
    """

    basis: Tensor
    std: Tensor
    residual_std: Tensor

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("basis", torch.eye(features, channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("residual_std", torch.ones(features))

    def encode(self, frames: Tensor) -> Tensor:
        """``[batch, frames, features]`` to unit-variance latents ``[batch, frames, channels]``."""
        return frames @ (self.basis / self.std)

    def decode(self, latents: Tensor) -> Tensor:
        """``[batch, frames, channels]`` to the nearest ``[batch, frames, features]``."""
        return latents @ (self.basis * self.std).T

    def explained(self) -> Tensor:
        """Share of each feature's variance that the code keeps, ``[features]`` in 0…1."""
        kept = (self.basis * self.std).square().sum(dim=1)
        return kept / (kept + self.residual_std.square()).clamp_min(1e-20)


class FrameStatistics:
    """Running covariance of frames, each excerpt scaled to unit RMS so that none dominates."""

    def __init__(self, features: int) -> None:
        self.covariance = torch.zeros(features, features, dtype=torch.float64)
        self.energies: list[float] = []

    def update(self, frames: Tensor) -> None:
        """Add excerpts, ``[batch, frames, features]``."""
        energies = frames.square().mean(dim=(1, 2))
        audible = energies > AUDIBLE
        energies = energies[audible]
        self.energies += energies.tolist()
        unit = frames[audible] / (energies * frames.shape[1]).sqrt()[:, None, None]
        unit = unit.flatten(0, 1)  # [excerpts·frames, features]
        self.covariance += (unit.T @ unit).double()

    def finish(self) -> tuple[Tensor, float]:
        """Covariance per frame at the median excerpt's level, and that level (mean square)."""
        if not self.energies:
            raise ValueError("no audible excerpt to fit the linear code on")
        level = float(torch.tensor(self.energies).median())
        return self.covariance / len(self.energies) * level, level


def code_from_covariance(covariance: Tensor, channels: int) -> LinearCode:
    """The PCA code of a ``[features, features]`` covariance with ``channels`` components."""
    values, vectors = torch.linalg.eigh(covariance.double())
    keep = torch.argsort(values, descending=True)[:channels]
    basis, variance = vectors[:, keep], values[keep].clamp_min(1e-12)
    # A sign convention makes the fit repeatable: the largest entry of a component is positive.
    largest = basis.abs().argmax(dim=0, keepdim=True)
    basis = basis * basis.gather(0, largest).sign()
    residual = covariance.diagonal() - (basis.square() * variance).sum(dim=1)
    code = LinearCode(covariance.shape[0], channels)
    code.basis.copy_(basis.float())
    code.std.copy_(variance.sqrt().float())
    code.residual_std.copy_(residual.clamp_min(1e-12).sqrt().float())
    return code


def fit_linear_code(batches: Iterable[Tensor], features: int, channels: int) -> LinearCode:
    """Fit the code on batches of frames, each ``[batch, frames, features]``."""
    statistics = FrameStatistics(features)
    for frames in batches:
        statistics.update(frames)
    return code_from_covariance(statistics.finish()[0], channels)
