"""All spectral terms of one batch in one differentiable operation.

``compare`` is the mathematics: two spectra in, values and the slope of their weighted sum out.
On a CPU every item is analysed, compared and differentiated before the next one is touched, so
that its spectra stay in the processor's cache and only the gradient of the audio is kept. On an
accelerator the whole batch is compared at once, and ``compare`` may be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from earvae.config import ObjectiveConfig
from earvae.objective import correlation, magnitude, phase
from earvae.objective.spectrum import (
    STFT,
    Planes,
    Term,
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

Weights = Mapping[str, "float | Tensor"]


class Method(NamedTuple):
    """How spectra are compared: the config's choices, fixed for a resolution."""

    magnitude_channels: str
    phase_channels: str
    phase_weighting: Literal["none", "amplitude", "energy"]
    phase_wrap: bool
    log_floor: float
    level_floor: float
    epsilon: float
    """``correlation.EPSILON`` for the resolution's window of unit energy."""


class _Pair(NamedTuple):
    """Two channels of both signals; Mid and Side are held ``scale`` = sqrt 2 times too large."""

    ours: Planes
    theirs: Planes
    magnitude: Tensor
    """The target's, sqrt(power)."""
    scale: float


def compare(
    ours: Planes, theirs: Planes, filters: Tensor | None, weights: dict[str, Tensor], method: Method
) -> tuple[Tensor, Planes]:
    """Compare the Left and Right spectra of reconstruction and target at one resolution.

    Args:
        filters: mel filters [bins, bands]; needed for the mel term only.
        weights: a 0-dim tensor for each term that is wanted, of ``SPECTRAL``.
    Returns: raw terms [terms, batch], in the order of ``weights``, and the gradient of their
    weighted sum by the reconstruction's spectrum.
    """
    pairs = {"lr": _Pair(ours, theirs, theirs.power.sqrt(), 1.0)}
    if "ms" in method.magnitude_channels + method.phase_channels:
        ours, theirs = (sum_difference(x, method.log_floor * SQRT2) for x in (ours, theirs))
        pairs["ms"] = _Pair(ours, theirs, theirs.power.sqrt(), SQRT2)

    values = {name: theirs.real.new_zeros(theirs.real.shape[0]) for name in weights}
    radial = _magnitude(pairs, values, filters, weights, method)
    angular = _phase(pairs, values, weights, method)
    left_right = gradient(pairs["lr"].ours, radial.get("lr"), angular.get("lr"))
    if "ms" in radial or "ms" in angular:
        of_sums = gradient(pairs["ms"].ours, radial.get("ms"), angular.get("ms"))
        add_sum_difference(left_right, of_sums)
    return torch.stack(list(values.values())), left_right


def _magnitude(
    pairs: dict[str, _Pair],
    values: dict[str, Tensor],
    filters: Tensor | None,
    weights: dict[str, Tensor],
    method: Method,
) -> dict[str, Tensor]:
    """Adds the magnitude terms to ``values``; slope by log magnitude of each pair."""
    wanted = [name for name in (*MAGNITUDE, MEL) if name in weights]
    if not wanted:
        return {}
    used = {name: p for name, p in pairs.items() if name in method.magnitude_channels}
    share = 1 / len(used)
    levels = [p.magnitude.mean(dim=(-3, -2, -1)) / p.scale for p in used.values()]
    level = (share * sum(levels)).clamp(min=method.level_floor)
    radial = {}
    for name, pair in used.items():
        terms = _magnitude_terms(wanted, pair, filters, level * pair.scale)
        for term in wanted:
            value, plane, _ = terms[term]
            values[term] += share * value
            scale = terms[term].slope_scale(share * weights[term])
            # the first plane becomes the sum: nobody else needs it
            radial[name] = (
                radial[name].addcmul_(plane, scale) if name in radial else plane.mul_(scale)
            )
        del terms, plane  # their memory is at hand for the next pair
    return radial


def _magnitude_terms(
    wanted: list[str], pair: _Pair, filters: Tensor | None, level: Tensor
) -> dict[str, Term]:
    ours = pair.ours.power.sqrt()
    terms = {}
    if MEL in wanted:
        terms[MEL] = magnitude.mel(ours, pair.magnitude, filters)
    if wanted != [MEL]:  # last, as it overwrites the magnitude
        found = magnitude.linear_and_log(ours, pair.magnitude, level)
        terms.update(zip(MAGNITUDE, found, strict=True))
    return terms


def _phase(
    pairs: dict[str, _Pair],
    values: dict[str, Tensor],
    weights: dict[str, Tensor],
    method: Method,
) -> dict[str, Tensor]:
    """Adds correlation and phase terms to ``values``; slope by phase of each pair."""
    angular = {}
    of_pair = [name for name in ("correlation_intra", *PHASE) if name in weights]
    used = [name for name in pairs if name in method.phase_channels and of_pair]
    share = 1 / max(1, len(used))
    for name, pair in pairs.items():
        names = of_pair if name in used else []
        inter = name == "lr" and "correlation_inter" in weights
        if not names and not inter:
            continue
        turn = correlation.rotation(pair.ours, pair.theirs)
        total = torch.zeros_like(turn.sine)
        floor = _floor(method, pair.scale)
        if "correlation_intra" in names:
            term = correlation.incoherence(_weighted(turn, method, pair.scale), floor)
            values["correlation_intra"] += share * term.value
            total.addcmul_(term.plane, term.slope_scale(share * weights["correlation_intra"]))
        if inter:
            term = correlation.incoherence(
                _weighted(correlation.between(turn), method, pair.scale), floor
            )
            values["correlation_inter"] += term.value
            scale = term.slope_scale(weights["correlation_inter"])
            total[:, :1].addcmul_(term.plane, scale)  # it rises with Left's phase
            total[:, 1:].addcmul_(term.plane, scale, value=-1)  # and falls with Right's
        term = None  # its memory is at hand for the next
        if names and names != ["correlation_intra"]:
            if method.phase_wrap:
                difference = phase.wrapped_difference(turn)
            else:
                difference = phase.difference_of_wrapped(pair.ours, pair.theirs)
            strength = {"energy": pair.magnitude, "none": None}.get(method.phase_weighting)
            if method.phase_weighting == "amplitude":
                strength = pair.magnitude.sqrt()
            for term_name, dim in zip(PHASE, (-2, -1), strict=True):
                if term_name in names:
                    term = phase.derivative_difference(
                        difference, strength, dim, method.phase_wrap, floor
                    )
                    values[term_name] += share * term.value
                    scale = term.slope_scale(share * weights[term_name])
                    phase.add_steps(total, term.plane, dim, scale)
                    term = None
        angular[name] = total
    return angular


def _weighted(turn: correlation.Rotation, method: Method, scale: float) -> correlation.Rotation:
    return correlation.weighted(turn, method.phase_weighting, method.epsilon, scale)


def _floor(method: Method, scale: float) -> float:
    """``level_floor`` in the units of the weights: an energy, an amplitude, or a mere count."""
    level = method.level_floor * scale
    return {"energy": level**2, "amplitude": level, "none": 1e-12}[method.phase_weighting]


def _compare_views(
    ours: Tensor,
    theirs: Tensor,
    filters: Tensor | None,
    weights: dict[str, Tensor],
    method: Method,
) -> tuple[Tensor, Tensor]:
    """``compare`` for real views [..., 2] of complex spectra, which a compiler can fuse."""
    found, slope = compare(
        planes(ours, method.log_floor), planes(theirs, method.log_floor), filters, weights, method
    )
    return found, torch.stack((slope.real, slope.imag), dim=-1)


class SpectralTerms(nn.Module):
    """Weighted sum of spectral terms, averaged over items and resolutions.

    Args:
        config: resolutions, channels, phase options and floors; its weights are not used.
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
            filters = magnitude.widest_mel_filters(sample_rate, transform.length)
            transform.register_buffer("mel_filters", filters, persistent=False)
        self._compiled: Callable | None = None

    def compile_terms(self, **options) -> None:
        """Compile the comparison, with one graph for each resolution and shape of batch.

        Used in training mode only, whose batches all have one shape. ``options`` are those of
        ``torch.compile``.
        """
        limits = torch._dynamo.config  # above the default when a config has many resolutions
        limits.recompile_limit = max(limits.recompile_limit, 2 * len(self.transforms))
        self._compiled = torch.compile(_compare_views, dynamic=False, **options)

    def forward(
        self,
        reconstruction: Tensor,
        target: Tensor,
        generator: torch.Generator | None = None,
        weights: Weights | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, differentiable by the reconstruction once, and the raw terms as plain values.

        ``generator`` draws the resolutions of a step when the module is in training mode and
        the config asks for fewer than all. ``weights`` replaces those of the module by name, for
        terms that it computes. The target gets no gradient.
        """
        check_stereo(reconstruction, target)
        factors = {name: (weights or {}).get(name, own) for name, own in self.weights.items()}
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            factors = {name: _scalar(factor, target) for name, factor in factors.items()}
            total, values = _Compare.apply(
                reconstruction, target, self, factors, self._drawn(generator)
            )
        return total, dict(zip(self.weights, values.unbind(), strict=True))

    def term_gradients(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The gradient of each raw term by the reconstruction, [batch, 2, samples] each.

        All terms see the same resolutions. Nothing is compiled here: each term alone would be
        a graph of its own, for a call that is made now and then.
        """
        check_stereo(reconstruction, target)
        transforms, gradients = self._drawn(generator), {}
        with torch.no_grad(), torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            for name in self.weights:
                factors = {name: target.new_ones(())}
                _, gradients[name] = self.sums(
                    reconstruction, target, factors, transforms, compiled=False
                )
        return gradients

    def _drawn(self, generator: torch.Generator | None) -> list[STFT]:
        total, wanted = len(self.transforms), self.config.resolutions_per_step
        if wanted is None or not self.training:
            return list(self.transforms)
        return [self.transforms[i] for i in torch.randperm(total, generator=generator)[:wanted]]

    @torch.no_grad()
    def sums(
        self,
        reconstruction: Tensor,
        target: Tensor,
        weights: dict[str, Tensor],
        transforms: Sequence[STFT],
        differentiate: bool = True,
        compiled: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Raw terms [terms], means over items and ``transforms``, and the sum's audio gradient."""
        batch, _, samples = reconstruction.shape
        audio_gradient = torch.zeros_like(reconstruction) if differentiate else None
        share = 1 / (batch * len(transforms))
        compiled = compiled and self.training and self._compiled is not None

        @torch.no_grad()  # per thread, as is autocast, which is off in a new one
        def of_items(items: slice) -> Tensor:
            values = reconstruction.new_zeros(len(weights))
            for transform in transforms:
                spectra = [transform(audio[items]) for audio in (reconstruction, target)]
                found, slope = self._compare(transform, *spectra, weights, compiled)
                values += found.sum(dim=1)
                if differentiate:
                    audio_gradient[items] += transform.adjoint(slope, samples)
            return values

        values = sum(_over_items(of_items, batch, reconstruction.device))
        if differentiate:
            audio_gradient.mul_(share)
        return values.mul_(share), audio_gradient

    def _compare(
        self,
        transform: STFT,
        ours: Tensor,
        theirs: Tensor,
        weights: dict[str, Tensor],
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        """``compare`` for complex spectra: raw terms [terms, batch], and their complex slope."""
        filters = transform.mel_filters.to(ours.real.dtype) if MEL in weights else None
        config = self.config
        method = Method(
            config.magnitude_channels, config.phase_channels, config.phase_weighting,
            config.phase_wrap, config.log_floor, config.level_floor,
            correlation.EPSILON * transform.gain**2,
        )  # fmt: skip
        if compiled:
            views = (torch.view_as_real(x) for x in (ours, theirs))
            found, slope = self._compiled(*views, filters, weights, method)
            return found, torch.view_as_complex(slope)
        floor = config.log_floor
        found, slope = compare(planes(ours, floor), planes(theirs, floor), filters, weights, method)
        return found, torch.complex(slope.real, slope.imag)


class _Compare(torch.autograd.Function):
    """(reconstruction, target) -> weighted sum and raw terms; the gradient is found at once."""

    @staticmethod
    def forward(
        ctx,
        reconstruction: Tensor,
        target: Tensor,
        terms: SpectralTerms,
        weights: dict[str, Tensor],
        transforms: list[STFT],
    ) -> tuple[Tensor, Tensor]:
        differentiate = ctx.needs_input_grad[0]
        values, audio_gradient = terms.sums(
            reconstruction, target, weights, transforms, differentiate
        )
        if differentiate:
            ctx.save_for_backward(audio_gradient)
        ctx.mark_non_differentiable(values)
        return torch.stack(list(weights.values())) @ values, values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor, grad_values: Tensor):
        (audio_gradient,) = ctx.saved_tensors
        return audio_gradient * grad_total, None, None, None, None


def _scalar(factor: float | Tensor, like: Tensor) -> Tensor:
    """A 0-dim tensor beside ``like``; a fill, so that no host waits for a device."""
    if isinstance(factor, Tensor):
        return factor.detach().to(like)
    return like.new_full((), factor)


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
