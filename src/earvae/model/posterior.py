"""The diagonal Gaussian posterior of the VAE (docs/paper.md)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VARIANCE_FLOOR = 1e-6  # the published model's: var = std² + 1e-6, where std has no floor itself


class Posterior:
    """What the encoder says of the latents: a mean and a standard deviation each.

    Args:
        parameters: ``[batch, 2·latent, frames]``; the first half of the channels is the mean,
            the second half the scale, with std = softplus(scale) + ``std_floor``.
        std_floor: the least std, from the model's configuration; 0 in the paper's.

    Attributes:
        parameters: as given.
        mean: ``[batch, latent, frames]``.
        std: ``[batch, latent, frames]``, positive.
    """

    def __init__(self, parameters: Tensor, std_floor: float = 0.0) -> None:
        if parameters.ndim != 3 or parameters.shape[1] % 2:
            raise ValueError(
                "posterior parameters must be [batch, 2·latent, frames], "
                f"got {list(parameters.shape)}"
            )
        self.parameters = parameters
        self.mean, scale = parameters.chunk(2, dim=1)
        self.std = F.softplus(scale) + std_floor
        self._variance_floor = 0.0 if std_floor else VARIANCE_FLOOR

    @property
    def var(self) -> Tensor:
        """Variance as the KL divergence uses it, ``[batch, latent, frames]``, float32 at least."""
        return _wide(self.std).square() + self._variance_floor

    @property
    def latent_dist(self) -> Posterior:
        """The posterior itself, under the name that it has in what diffusers' models return."""
        return self

    def mode(self) -> Tensor:
        """The most likely latents, ``[batch, latent, frames]``: the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Latents drawn as mean + std·ε, ``[batch, latent, frames]``.

        ``generator`` makes the draw repeatable; it must live on the parameters' device.
        """
        noise = torch.randn(
            self.mean.shape,
            generator=generator,
            device=self.mean.device,
            dtype=self.mean.dtype,
        )
        return self.at(noise)

    def at(self, noise: Tensor) -> Tensor:
        """Latents mean + std·ε for the given ε, ``[batch, latent, frames]``."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL divergence to the unit Gaussian, a scalar ≥ 0, float32 at least.

        Mean over batch and frames of Σ_channels (mean² + var − log var − 1). The published
        model leaves out the customary factor ½, and so do we: the KL weight refers to this.
        """
        return self.kl_per_channel().sum()

    def kl_per_channel(self) -> Tensor:
        """The summands of :meth:`kl`, averaged over batch and frames: ``[latent]``."""
        var = self.var
        return (_wide(self.mean).square() + var - var.log() - 1).mean(dim=(0, 2))


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: a square of eleven bits is soon zero, and its logarithm infinite."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
