"""The perceptual objective: named terms, each raw and weighted, and their sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earvae.config import ObjectiveConfig
from earvae.objective.spectral import (
    CORRELATION,
    MAGNITUDE,
    PHASE,
    SPECTRAL,
    SpectralTerms,
    check_stereo,
    full_precision,
)
from earvae.objective.waveform import waveform_distortion
from earvae.objective.weighting import AWeighting, KWeighting


@dataclass(frozen=True)
class LossTerms:
    """What one evaluation of the objective gives; every tensor is a scalar.

    ``terms`` holds the raw terms by name and ``weighted`` the same times their weights: plain
    values, for logs. ``total``, the sum of the latter, is what training differentiates.
    """

    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]
    total: Tensor


class _SumOfTerms(nn.Module):
    """Named terms of the config's resolutions, summed without weights."""

    names: tuple[str, ...] = ()

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        super().__init__()
        self.spectral = SpectralTerms(config or ObjectiveConfig(), dict.fromkeys(self.names, 1.0))

    def forward(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The scalar sum for audio [batch, 2, samples], differentiable by the reconstruction."""
        return self.spectral(reconstruction, target, generator)[0]

    def terms(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The raw terms by name, plain values."""
        with torch.no_grad():
            return self.spectral(reconstruction, target)[1]


class MultiScaleMagnitude(_SumOfTerms):
    """L1 on linear plus L1 on log magnitude of M, S, L and R at several resolutions.

    See section 3 of the εar-VAE paper and EnCodec [Défossez et al., 2022].
    """

    names = MAGNITUDE


class CorrelationLoss(_SumOfTerms):
    """Phase coherence within L and R plus between them; 0 is perfect, a polarity flip gives 2."""

    names = CORRELATION


class PhaseLoss(_SumOfTerms):
    """Instantaneous frequency plus group delay, wrapped differences in radians."""

    names = PHASE


class PerceptualLoss(nn.Module):
    """The εar-VAE objective without the discriminator (paper section 3).

    Both signals are frequency-weighted, then compared in spectra shared by all terms.

    Args:
        config: which terms, how they are weighted, on which resolutions and channels.
        sample_rate: Hz.

    Shapes: audio [batch, 2, samples]; every result is a scalar.
    """

    def __init__(self, config: ObjectiveConfig, sample_rate: float) -> None:
        super().__init__()
        self.config = config
        self.weights = {k: w for k, w in config.weights.model_dump().items() if w > 0}
        kinds = {"k": KWeighting, "a": AWeighting}
        self.weighting = kinds[config.weighting](sample_rate) if config.weighting in kinds else None
        spectral = {name: self.weights[name] for name in SPECTRAL if name in self.weights}
        self.spectral = SpectralTerms(config, spectral, sample_rate) if spectral else None

    def forward(
        self,
        reconstruction: Tensor,
        target: Tensor,
        posterior_kl: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LossTerms:
        """Compare two batches.

        Args:
            reconstruction, target: [batch, 2, samples].
            posterior_kl: KL of the posterior from the prior, a scalar or one per item; without
                it there is no ``kl`` term.
            generator: draws ``resolutions_per_step`` resolutions, in training mode only.
        Raises ValueError when shapes differ or are not stereo.
        """
        check_stereo(reconstruction, target)
        terms: dict[str, Tensor] = {}
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            total = target.new_zeros(())
            if self.spectral is not None:
                total, terms = self.spectral(*self._weighted(reconstruction, target), generator)
            others: dict[str, Tensor] = {}
            if "waveform" in self.weights:
                others["waveform"] = waveform_distortion(
                    reconstruction, target, self.config.level_floor
                )
            if posterior_kl is not None and "kl" in self.weights:
                others["kl"] = full_precision(posterior_kl).mean()
            for name, value in others.items():
                total = total + self.weights[name] * value
                terms[name] = value.detach()
        return LossTerms(terms, {n: self.weights[n] * v for n, v in terms.items()}, total)

    def _weighted(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.weighting is None:
            return reconstruction, target
        with torch.no_grad():
            target = self.weighting(target)
        return self.weighting(reconstruction), target
