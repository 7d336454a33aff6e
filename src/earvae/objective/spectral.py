"""All spectral terms of one batch in one differentiable operation.

Every item is analysed, compared and differentiated before the next one is touched, so that its
spectra stay in the processor's cache and only the gradient of the audio is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from earvae.config import ObjectiveConfig
from earvae.objective import correlation, phase
from earvae.objective.magnitude import magnitude_terms, mel_term, widest_mel_filters
from earvae.objective.spectrum import (
    STFT,
    Planes,
    add_sum_difference,
    gradient,
    planes,
    sum_difference,
)

MAGNITUDE = ("magnitude_linear", "magnitude_log")
MEL = "magnitude_mel"
CORRELATION = ("correlation_intra", "correlation_inter")
PHASE = ("instantaneous_frequency", "group_delay")
SQRT2 = 2**0.5
SPECTRAL = MAGNITUDE + (MEL,) + CORRELATION + PHASE


class SpectralTerms(nn.Module):
    """Weighted sum of spectral terms, averaged over items and resolutions.

    Args:
        config: resolutions, channels and floors; its weights are not used.
        weights: factor of each term by name, of ``SPECTRAL``; terms not named are not computed.
        sample_rate: Hz, for the mel scale.

    Shapes: audio [batch, 2, samples], Left and Right, full scale = 1.
    """

    def __init__(
        self, config: ObjectiveConfig, weights: dict[str, float], sample_rate: float = 44_100
    ) -> None:
        super().__init__()
        unknown = set(weights) - set(SPECTRAL)
        if unknown:
            raise ValueError(f"unknown terms: {', '.join(sorted(unknown))}")
        self.config = config
        self.weights = weights
        self.transforms = nn.ModuleList(STFT(length) for length in config.resolutions)
        for transform in self.transforms if MEL in weights else ():
            filters = widest_mel_filters(sample_rate, transform.length)
            transform.register_buffer("mel_filters", filters, persistent=False)

    def forward(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, differentiable by the reconstruction once, and the raw terms as plain values.

        ``generator`` draws the resolutions of a step when the module is in training mode and
        the config asks for fewer than all. The target gets no gradient.
        """
        check_stereo(reconstruction, target)
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            total, values = _Compare.apply(reconstruction, target, self, self._drawn(generator))
        return total, dict(zip(self.weights, values.unbind(), strict=True))

    def _drawn(self, generator: torch.Generator | None) -> list[STFT]:
        total, wanted = len(self.transforms), self.config.resolutions_per_step
        if wanted is None or not self.training:
            return list(self.transforms)
        return [self.transforms[i] for i in torch.randperm(total, generator=generator)[:wanted]]

    def compare(
        self, transform: STFT, reconstruction: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Planes]:
        """Raw terms per item, [batch], at one resolution, and the sum's gradient by L and R."""
        config = self.config
        floor = config.log_floor
        ours, theirs = planes(transform(reconstruction), floor), planes(transform(target), floor)
        pairs = {"lr": _Pair(ours, theirs, theirs.power.sqrt(), 1.0)}
        if "ms" in config.magnitude_channels + config.phase_channels:
            ours, theirs = (sum_difference(pair, floor * SQRT2) for pair in (ours, theirs))
            pairs["ms"] = _Pair(ours, theirs, theirs.power.sqrt(), SQRT2)

        values = {name: reconstruction.new_zeros(reconstruction.shape[0]) for name in self.weights}
        radial = self._magnitude(pairs, values, transform)
        angular = self._phase(pairs, values)
        left_right = gradient(pairs["lr"].ours, radial.get("lr"), angular.get("lr"))
        if "ms" in radial or "ms" in angular:
            of_sums = gradient(pairs["ms"].ours, radial.get("ms"), angular.get("ms"))
            add_sum_difference(left_right, of_sums)
        return values, left_right

    def _magnitude(
        self, pairs: dict[str, _Pair], values: dict[str, Tensor], transform: STFT
    ) -> dict[str, Tensor]:
        """Adds the magnitude terms to ``values``; derivative by log magnitude of each pair."""
        linear, log, mel = (self.weights.get(name, 0.0) for name in (*MAGNITUDE, MEL))
        if not (linear or log or mel):
            return {}
        used = {name: p for name, p in pairs.items() if name in self.config.magnitude_channels}
        share = 1 / len(used)
        levels = [p.magnitude.mean(dim=(-3, -2, -1)) / p.scale for p in used.values()]
        level = (share * sum(levels)).clamp(min=self.config.level_floor)
        radial = {}
        for name, pair in used.items():
            terms = magnitude_terms(
                pair.ours, pair.magnitude, level * pair.scale, linear * share, log * share
            )
            radial[name] = terms.radial
            if mel:
                filters = transform.mel_filters.to(pair.magnitude.dtype)
                value, slope = mel_term(pair.ours, pair.magnitude, filters, mel * share)
                values[MEL] += share * value
                radial[name] += slope
            for term, value in zip(MAGNITUDE, (terms.linear, terms.log), strict=True):
                if term in values:
                    values[term] += share * value
        return radial

    def _phase(self, pairs: dict[str, _Pair], values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds correlation and phase terms to ``values``; derivative by phase of each pair."""
        weights, angular = self.weights, {}
        of_pair = {name for name in weights if name in ("correlation_intra", *PHASE)}
        used = [name for name in pairs if name in self.config.phase_channels and of_pair]
        share = 1 / max(1, len(used))
        for name, pair in pairs.items():
            terms = of_pair if name in used else set()
            if name == "lr" and "correlation_inter" in weights:
                terms = terms | {"correlation_inter"}
            if not terms:
                continue
            turn = correlation.rotation(pair.ours, pair.theirs)
            energy_floor = (self.config.level_floor * pair.scale) ** 2
            total = torch.zeros_like(turn.sine)
            if "correlation_intra" in terms:
                values["correlation_intra"] += share * correlation.intra(
                    turn, energy_floor, weights["correlation_intra"] * share, total
                )
            if "correlation_inter" in terms:
                values["correlation_inter"] += correlation.inter(
                    turn, energy_floor, weights["correlation_inter"], total
                )
            if terms & set(PHASE):
                angle = phase.angle(turn.cosine, turn.sine)
                for term, dim in zip(PHASE, (-2, -1), strict=True):
                    if term in terms:
                        values[term] += share * phase.derivative_difference(
                            angle, pair.magnitude, dim, energy_floor, weights[term] * share, total
                        )
            angular[name] = total
        return angular


class _Pair(NamedTuple):
    """Two channels of both signals; Mid and Side are held ``scale`` = sqrt 2 times too large."""

    ours: Planes
    theirs: Planes
    magnitude: Tensor
    scale: float


class _Compare(torch.autograd.Function):
    """(reconstruction, target) -> weighted sum and raw terms; the gradient is found at once."""

    @staticmethod
    def forward(
        ctx, reconstruction: Tensor, target: Tensor, terms: SpectralTerms, transforms: list[STFT]
    ) -> tuple[Tensor, Tensor]:
        batch, _, samples = reconstruction.shape
        differentiate = ctx.needs_input_grad[0]
        audio_gradient = torch.zeros_like(reconstruction) if differentiate else None
        share = 1 / (batch * len(transforms))

        @torch.no_grad()  # per thread, as is autocast, which is off in a new one
        def compare(items: slice) -> Tensor:
            values = reconstruction.new_zeros(len(terms.weights))
            for transform in transforms:
                found, left_right = terms.compare(transform, reconstruction[items], target[items])
                values += torch.stack([found[name].sum() for name in terms.weights])
                if differentiate:
                    spectrum = torch.complex(left_right.real, left_right.imag)
                    audio_gradient[items] += transform.adjoint(spectrum, samples)
            return values

        values = sum(_over_items(compare, batch, reconstruction.device))
        values *= share
        if differentiate:
            ctx.save_for_backward(audio_gradient.mul_(share))
        ctx.mark_non_differentiable(values)
        weights = values.new_tensor(list(terms.weights.values()))
        return weights @ values, values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor, grad_values: Tensor):
        (audio_gradient,) = ctx.saved_tensors
        return audio_gradient * grad_total, None, None, None


def _over_items(
    compare: Callable[[slice], Tensor], batch: int, device: torch.device
) -> list[Tensor]:
    """Results for a whole batch: at once on an accelerator, item by item on a CPU.

    A processor's cache holds one item, whose many short operations lose by being split among
    threads. So each thread takes whole items, and computes with itself alone.
    """
    if device.type != "cpu":
        return [compare(slice(0, batch))]
    items = [slice(index, index + 1) for index in range(batch)]
    threads = torch.get_num_threads()
    if min(threads, batch) == 1:
        return [compare(item) for item in items]
    try:
        with ThreadPoolExecutor(
            min(threads, batch), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(compare, items))
    finally:
        torch.set_num_threads(threads)  # a thread's own setting reaches the others


def check_stereo(reconstruction: Tensor, target: Tensor) -> None:
    """Raises ValueError unless both are [batch, 2, samples] with the same sizes."""
    if reconstruction.shape != target.shape or target.ndim != 3 or target.shape[1] != 2:
        raise ValueError(
            "reconstruction and target must both be [batch, 2, samples], not "
            f"{list(reconstruction.shape)} and {list(target.shape)}"
        )


def full_precision(tensor: Tensor) -> Tensor:
    """float64 stays, anything else becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
