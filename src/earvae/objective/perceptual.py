"""The perceptual objective: named terms, each raw and weighted, and their sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earvae.config import ObjectiveConfig
from earvae.objective import correlation, phase
from earvae.objective.magnitude import magnitude_terms
from earvae.objective.spectrum import STFT, select_channels
from earvae.objective.waveform import waveform_distortion
from earvae.objective.weighting import AWeighting, KWeighting

MAGNITUDE = ("magnitude_linear", "magnitude_log")
CORRELATION = ("correlation_intra", "correlation_inter")
PHASE = ("instantaneous_frequency", "group_delay")


@dataclass(frozen=True)
class LossTerms:
    """What one evaluation of the objective gives; every tensor is a scalar.

    ``terms`` holds the raw terms by name, ``weighted`` the same times their weights, ``total``
    the sum of the latter, which is what training differentiates.
    """

    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]
    total: Tensor


class SpectralTerms(nn.Module):
    """Chosen spectral terms, averaged over resolutions; one STFT per signal and resolution.

    Args:
        config: resolutions, channels and floors.
        names: the terms to compute.

    Shapes: audio [batch, 2, samples] at any level, full scale = 1; Left and Right.
    """

    def __init__(self, config: ObjectiveConfig, names: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.names = names
        self.transforms = nn.ModuleList(STFT(length) for length in config.resolutions)

    def forward(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Raw terms by name. ``generator`` draws the resolutions of a training step."""
        _check(reconstruction, target)
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = _full_precision(reconstruction), _full_precision(target)
            found: dict[str, list[Tensor]] = {name: [] for name in self.names}
            for index in self._drawn(generator):
                transform = self.transforms[index]
                with torch.no_grad():
                    target_spectrum = transform(target)
                for name, value in self._terms(transform(reconstruction), target_spectrum).items():
                    found[name].append(value)
            return {name: torch.stack(values).mean() for name, values in found.items()}

    def _drawn(self, generator: torch.Generator | None) -> list[int]:
        total, wanted = len(self.transforms), self.config.resolutions_per_step
        if wanted is None or not self.training:
            return list(range(total))
        return sorted(torch.randperm(total, generator=generator)[:wanted].tolist())

    def _terms(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        config, names = self.config, self.names
        terms: dict[str, Tensor] = {}
        if any(name in names for name in MAGNITUDE):
            terms |= magnitude_terms(
                select_channels(reconstruction, config.magnitude_channels),
                select_channels(target, config.magnitude_channels),
                config.log_floor,
                config.level_floor,
            )
        if "correlation_inter" in names:
            terms["correlation_inter"] = correlation.correlation_inter(
                reconstruction, target, config.level_floor
            )
        per_channel: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
            "correlation_intra": correlation.correlation_intra,
            "instantaneous_frequency": phase.instantaneous_frequency,
            "group_delay": phase.group_delay,
        }
        if any(name in names for name in per_channel):
            reconstruction = select_channels(reconstruction, config.phase_channels)
            target = select_channels(target, config.phase_channels)
            for name, term in per_channel.items():
                if name in names:
                    terms[name] = term(reconstruction, target, config.level_floor)
        return {name: value for name, value in terms.items() if name in names}


class _SumOfTerms(SpectralTerms):
    """Named terms of the config's resolutions, summed without weights."""

    wanted: tuple[str, ...] = ()

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        super().__init__(config or ObjectiveConfig(), self.wanted)

    def forward(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The scalar sum for audio [batch, 2, samples]."""
        return torch.stack(list(self.terms(reconstruction, target, generator).values())).sum()

    def terms(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The scalars by name."""
        return super().forward(reconstruction, target, generator)


class MultiScaleMagnitude(_SumOfTerms):
    """L1 on linear plus L1 on log magnitude of M, S, L and R at several resolutions.

    See section 3 of the εar-VAE paper and EnCodec [Défossez et al., 2022].
    """

    wanted = MAGNITUDE


class CorrelationLoss(_SumOfTerms):
    """Phase coherence within L and R plus between them; 0 is perfect, a polarity flip gives 2."""

    wanted = CORRELATION


class PhaseLoss(_SumOfTerms):
    """Instantaneous frequency plus group delay, wrapped differences in radians."""

    wanted = PHASE


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
        spectral = MAGNITUDE + CORRELATION + PHASE
        self.spectral = SpectralTerms(config, tuple(n for n in spectral if n in self.weights))

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
        _check(reconstruction, target)
        terms: dict[str, Tensor] = {}
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = _full_precision(reconstruction), _full_precision(target)
            if self.spectral.names:
                terms |= self.spectral(*self._weighted(reconstruction, target), generator)
            if "waveform" in self.weights:
                terms["waveform"] = waveform_distortion(
                    reconstruction, target, self.config.level_floor
                )
            if posterior_kl is not None and "kl" in self.weights:
                terms["kl"] = _full_precision(posterior_kl).mean()
            weighted = {name: self.weights[name] * value for name, value in terms.items()}
            total = torch.stack(list(weighted.values())).sum() if weighted else target.new_zeros(())
        return LossTerms(terms, weighted, total)

    def _weighted(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.weighting is None:
            return reconstruction, target
        with torch.no_grad():
            target = self.weighting(target)
        return self.weighting(reconstruction), target


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check(reconstruction: Tensor, target: Tensor) -> None:
    if reconstruction.shape != target.shape or target.ndim != 3 or target.shape[1] != 2:
        raise ValueError(
            "reconstruction and target must both be [batch, 2, samples], not "
            f"{list(reconstruction.shape)} and {list(target.shape)}"
        )
