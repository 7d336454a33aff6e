"""The perceptual objective: named terms, each raw and weighted, and their sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earvae.config import ObjectiveConfig, ObjectiveWeights
from earvae.objective.spectral import SpectralTerms, Weights, check_stereo
from earvae.objective.spectrum import full_precision
from earvae.objective.terms import AUDIO, SPECTRAL
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
        self.spectral = SpectralTerms(config or ObjectiveConfig(), self.names)

    def forward(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The scalar sum for audio [batch, 2, samples], differentiable by the reconstruction."""
        weights = dict.fromkeys(self.names, 1.0)
        return self.spectral(reconstruction, target, weights, generator)[0]

    def terms(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The raw terms by name, plain values."""
        with torch.no_grad():
            return self.spectral(reconstruction, target, dict.fromkeys(self.names, 1.0))[1]


class MultiScaleMagnitude(_SumOfTerms):
    """L1 on linear plus L1 on log magnitude of M, S, L and R at several resolutions.

    See section 3 of the εar-VAE paper and EnCodec [Défossez et al., 2022].
    """

    names = ("magnitude_linear", "magnitude_log")


class CorrelationLoss(_SumOfTerms):
    """Phase coherence within L and R plus between them; 0 is perfect, a polarity flip gives 2."""

    names = ("correlation_intra", "correlation_inter")


class PhaseLoss(_SumOfTerms):
    """Instantaneous frequency plus group delay, wrapped differences in radians."""

    names = ("instantaneous_frequency", "group_delay")


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
        spectral = [name for name in SPECTRAL if name in self.weights]
        self.spectral = SpectralTerms(config, spectral, sample_rate) if spectral else None

    def forward(
        self,
        reconstruction: Tensor,
        target: Tensor,
        posterior_kl: Tensor | None = None,
        generator: torch.Generator | None = None,
        weights: Weights | None = None,
    ) -> LossTerms:
        """Compare two batches.

        Args:
            reconstruction, target: [batch, 2, samples].
            posterior_kl: KL of the posterior from the prior, a scalar or one per item; without
                it there is no ``kl`` term.
            generator: draws ``resolutions_per_step`` resolutions, in training mode only.
            weights: replace those of the config by name for this call, as numbers or 0-dim
                tensors, for instance a balancer's. A term that the config turns off stays off.
        Raises ValueError when shapes differ or are not stereo, or a weight's name is unknown.
        """
        check_stereo(reconstruction, target)
        factors = self._factors(weights)
        terms: dict[str, Tensor] = {}
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            total = target.new_zeros(())
            if self.spectral is not None:
                weighted = self._frequency_weighted(reconstruction, target)
                total, terms = self.spectral(*weighted, factors, generator)
            others = {
                name: term(reconstruction, target, self.config).mean()
                for name, term in AUDIO.items()
                if name in self.weights
            }
            if posterior_kl is not None and "kl" in self.weights:
                others["kl"] = full_precision(posterior_kl).mean()
            for name, value in others.items():
                total = total + factors[name] * value
                terms[name] = value.detach()
        return LossTerms(terms, {n: factors[n] * v for n, v in terms.items()}, total)

    def term_gradients(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The gradient of each raw term by the reconstruction, through the frequency weighting.

        The norm of a weight times its gradient is the term's share of what the decoder gets. It
        costs about one evaluation for each term. The KL is not among them: it does not pass
        through the audio.

        Args: as for ``forward``.
        Returns: [batch, 2, samples] by name, of the spectral terms and ``waveform`` that are on;
        plain values, of the mean over the batch.
        """
        check_stereo(reconstruction, target)
        gradients: dict[str, Tensor] = {}
        with torch.enable_grad(), torch.autocast(target.device.type, enabled=False):
            leaf = full_precision(reconstruction.detach()).requires_grad_()
            target = full_precision(target.detach())
            if self.spectral is not None:
                weighted, reference = self._frequency_weighted(leaf, target)
                found = self.spectral.term_gradients(weighted.detach(), reference, generator)
                for name, slope in found.items():
                    (gradients[name],) = torch.autograd.grad(
                        weighted, leaf, slope, retain_graph=True
                    )
            for name, term in AUDIO.items():
                if name in self.weights:
                    value = term(leaf, target, self.config).mean()
                    (gradients[name],) = torch.autograd.grad(value, leaf)
        return gradients

    def compile_terms(self, **options) -> None:
        """Compile the spectral terms for training steps, on an accelerator.

        Each resolution is compiled when it is first used. Evaluation mode is not compiled.
        ``options`` are those of ``torch.compile``.
        """
        if self.spectral is not None:
            self.spectral.compile_terms(**options)

    def _factors(self, weights: Weights | None) -> dict[str, float | Tensor]:
        unknown = set(weights or {}) - set(ObjectiveWeights.model_fields)
        if unknown:
            raise ValueError(
                f"weights: no term is called {', '.join(sorted(unknown))}; "
                f"there are {', '.join(ObjectiveWeights.model_fields)}"
            )
        return {name: (weights or {}).get(name, own) for name, own in self.weights.items()}

    def _frequency_weighted(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.weighting is None:
            return reconstruction, target
        with torch.no_grad():
            target = self.weighting(target)
        return self.weighting(reconstruction), target
