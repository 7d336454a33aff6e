"""The perceptual objective: named terms, each raw and weighted, and their sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earvae.config import ObjectiveConfig, ObjectiveWeights
from earvae.objective.spectral import SpectralTerms
from earvae.objective.spectrum import full_precision
from earvae.objective.terms import AUDIO, SPECTRAL
from earvae.objective.weighting import AWeighting, KWeighting

Weights = Mapping[str, "float | Tensor"]


@dataclass(frozen=True)
class LossTerms:
    """What one evaluation of the objective gives; every tensor is a scalar.

    ``terms`` holds the raw terms by name and ``weighted`` the same times their weights: plain
    values, for logs. ``total``, the sum of the latter, is what training differentiates.
    """

    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]
    total: Tensor

    def plus(self, values: Mapping[str, Tensor], weights: Weights) -> LossTerms:
        """With further raw terms, of which those that have a weight join the sum."""
        weighted = {name: weights[name] * values[name] for name in values if name in weights}
        total = sum(weighted.values(), start=self.total)
        return LossTerms(
            self.terms | {name: value.detach() for name, value in values.items()},
            self.weighted | {name: value.detach() for name, value in weighted.items()},
            total,
        )


class PerceptualLoss(nn.Module):
    """The εar-VAE objective without the discriminator (paper section 3).

    Both signals are frequency-weighted, then compared in spectra shared by all spectral terms.

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
        self.spectral = SpectralTerms(config, spectral, sample_rate)
        self.audio_terms = {name: term for name, term in AUDIO.items() if name in self.weights}

    def forward(
        self,
        reconstruction: Tensor,
        target: Tensor,
        posterior_kl: Tensor | None = None,
        nll: Tensor | None = None,
        generator: torch.Generator | None = None,
        weights: Weights | None = None,
    ) -> LossTerms:
        """Compare two batches.

        Args:
            reconstruction, target: [batch, 2, samples].
            posterior_kl: KL of the posterior from the prior, a scalar or one per item; without
                it there is no ``kl`` term.
            nll: the decoder's negative log likelihood of the target, a scalar; without it there is
                no ``nll`` term.
            generator: draws ``resolutions_per_step`` resolutions, in training mode only.
            weights: replace those of the config by name for this call, as numbers or 0-dim
                tensors, for instance a balancer's. A term that the config turns off stays off.
        Raises ValueError when shapes differ or are not stereo, or a weight's name is unknown.
        """
        _check_stereo(reconstruction, target)
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            factors = self._factors(weights, target)
            terms = LossTerms({}, {}, target.new_zeros(()))
            if self.spectral.names:
                filtered = self._filtered(reconstruction, target)
                total, raw = self.spectral(*filtered, factors, generator)
                terms = LossTerms(raw, {name: factors[name] * raw[name] for name in raw}, total)
            others = {
                name: term(reconstruction, target, self.config).mean()
                for name, term in self.audio_terms.items()
            }
            if posterior_kl is not None and "kl" in self.weights:
                others["kl"] = full_precision(posterior_kl).mean()
            if nll is not None and "nll" in self.weights:
                others["nll"] = nll
            return terms.plus(others, factors)

    def term_gradients(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The gradient of each raw term by the reconstruction, through the frequency weighting.

        The norm of a weight times its gradient is the term's share of what the decoder gets. It
        costs about one evaluation for each term. The KL is not among them: it does not pass
        through the audio. Nothing is compiled here: each term alone would be a graph of its own,
        for a call that is made now and then.

        Args: as for ``forward``. All terms see the same resolutions.
        Returns: [batch, 2, samples] by name, of the terms of audio that are on; plain values, of
        the mean over the batch.
        """
        _check_stereo(reconstruction, target)
        gradients: dict[str, Tensor] = {}
        with torch.enable_grad(), torch.autocast(target.device.type, enabled=False):
            leaf = full_precision(reconstruction.detach()).requires_grad_()
            target = full_precision(target.detach())
            filtered, reference = self._filtered(leaf, target)
            drawn = self.spectral.draw(generator)
            for name in self.spectral.names:
                alone = {name: target.new_ones(())}
                _, slope = self.spectral.sums(filtered, reference, alone, drawn, compiled=False)
                (gradients[name],) = torch.autograd.grad(filtered, leaf, slope, retain_graph=True)
            for name, term in self.audio_terms.items():
                value = term(leaf, target, self.config).mean()
                (gradients[name],) = torch.autograd.grad(value, leaf)
        return gradients

    def compile_terms(self, **options) -> None:
        """Compile the spectral terms for training steps, on an accelerator.

        Each resolution is compiled when it is first used. Evaluation mode is not compiled.
        ``options`` are those of ``torch.compile``.
        """
        self.spectral.compile_terms(**options)

    def _factors(self, weights: Weights | None, like: Tensor) -> dict[str, Tensor]:
        """The weight of every term that is on, a 0-dim tensor beside ``like``."""
        weights = weights or {}
        unknown = set(weights) - set(ObjectiveWeights.model_fields)
        if unknown:
            raise ValueError(
                f"weights: no term is called {', '.join(sorted(unknown))}; "
                f"there are {', '.join(ObjectiveWeights.model_fields)}"
            )
        factors = {}
        for name, own in self.weights.items():
            weight = weights.get(name, own)
            if isinstance(weight, Tensor):
                factors[name] = weight.detach().to(like)
            else:
                factors[name] = like.new_full((), weight)  # a fill: no host waits for a device
        return factors

    def _filtered(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Both signals as the spectral terms see them; the target without a gradient."""
        if self.weighting is None:
            return reconstruction, target
        with torch.no_grad():
            target = self.weighting(target)
        return self.weighting(reconstruction), target


class _SumOfTerms(nn.Module):
    """Named terms of the config's resolutions, summed without weights, of audio as it is."""

    names: tuple[str, ...] = ()

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        super().__init__()
        weights = {name: float(name in self.names) for name in ObjectiveWeights.model_fields}
        changes = {"weighting": "none", "weights": ObjectiveWeights(**weights)}
        config = (config or ObjectiveConfig()).model_copy(update=changes)
        self.loss = PerceptualLoss(config, sample_rate=44_100)  # which no term of these heeds

    def forward(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The scalar sum for audio [batch, 2, samples], differentiable by the reconstruction."""
        return self.loss(reconstruction, target, generator=generator).total

    def terms(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The raw terms by name, plain values."""
        with torch.no_grad():
            return self.loss(reconstruction, target).terms


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


def _check_stereo(reconstruction: Tensor, target: Tensor) -> None:
    """Raises ValueError unless both are [batch, 2, samples] with the same sizes."""
    if reconstruction.shape != target.shape or target.ndim != 3 or target.shape[1] != 2:
        raise ValueError(
            "reconstruction and target must both be [batch, 2, samples], not "
            f"{list(reconstruction.shape)} and {list(target.shape)}"
        )
