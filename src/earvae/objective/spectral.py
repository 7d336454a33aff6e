"""All spectral terms of one batch in one differentiable operation.

``compare`` is the mathematics: two spectra in, values and the slope of their weighted sum out.
On a CPU every item is analysed, compared and differentiated before the next one is touched, so
that its spectra stay in the processor's cache and only the gradient of the audio is kept. On an
accelerator the whole batch is compared at once, and ``compare`` may be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from earvae.config import ObjectiveConfig
from earvae.objective import terms
from earvae.objective.comparison import Comparison
from earvae.objective.magnitude import widest_mel_filters
from earvae.objective.spectrum import STFT, Planes, full_precision, of_left_right, planes

Weights = Mapping[str, "float | Tensor"]


def compare(
    ours: Tensor,
    target: Tensor,
    filters: Tensor | None,
    weights: dict[str, Tensor],
    config: ObjectiveConfig,
) -> tuple[Tensor, Tensor]:
    """Compare the spectra of reconstruction and target at one resolution.

    Args:
        ours, target: of Left and Right, [batch, 2, frames, bins, 2]: real views of complex spectra,
            which a compiler can fuse.
        filters: mel filters [bins, bands]; needed for the mel term only.
        weights: a 0-dim tensor for each term that is wanted, of ``terms.SPECTRAL``.
        config: its weights are not used.
    Returns: raw terms [terms, batch], in the order of ``weights``, and the gradient of their
    weighted sum by ``ours``, as a real view.
    """
    values, seen, slopes = {}, {}, {}
    spectra = ours, target
    mid_side = "ms" in config.magnitude_channels + config.phase_channels
    ours, target = (planes(x, config.log_floor, mid_side) for x in spectra)
    gradient = Planes(torch.zeros_like(ours.real), torch.zeros_like(ours.imag), ours.power)
    for group, channels, add in (
        (terms.MAGNITUDE, config.magnitude_channels, _add_by_log_magnitude),
        (terms.PHASE, config.phase_channels, _add_by_phase),
        (terms.STEREO, "lr", _add_by_phase),
    ):
        for name in group:
            if name not in weights:
                continue
            if channels not in seen:
                both = ours.channels(channels), target.channels(channels)
                seen[channels] = Comparison(*both, config, filters)
            term = group[name](seen[channels])
            values[name], scale = term.value, term.slope_scale(weights[name])
            if (channels, add) in slopes:
                slopes[channels, add].addcmul_(term.plane, scale)
            else:
                slopes[channels, add] = term.plane * scale
    for (channels, add), slope in slopes.items():
        add(gradient.channels(channels), ours.channels(channels), slope)
    slope = torch.stack((of_left_right(gradient.real), of_left_right(gradient.imag)), dim=-1)
    for name in terms.SPECTRA:
        if name in weights:
            values[name], of_term = _by_autograd(terms.SPECTRA[name], *spectra, config)
            slope += weights[name] * of_term
    return torch.stack([values[name] for name in weights]), slope


@torch.compiler.disable
def _by_autograd(
    term: Callable, ours: Tensor, target: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, Tensor]:
    """The values of a term of ``terms.SPECTRA``, [batch], and its gradient by ``ours``."""
    with torch.enable_grad():
        leaf = ours.detach().requires_grad_()
        value = term(torch.view_as_complex(leaf), torch.view_as_complex(target), config)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


# d log X = d log|X| + j d phi, so a slope by log|X| or phi times X / |X|^2, or j X / |X|^2, is one
# by X. Bins below the floor in |X|^2 get less, down to none at X = 0.


def _add_by_log_magnitude(gradient: Planes, ours: Planes, slope: Tensor) -> None:
    slope.div_(ours.power)
    gradient.real.addcmul_(slope, ours.real)
    gradient.imag.addcmul_(slope, ours.imag)


def _add_by_phase(gradient: Planes, ours: Planes, slope: Tensor) -> None:
    slope.div_(ours.power)
    gradient.real.addcmul_(slope, ours.imag, value=-1)
    gradient.imag.addcmul_(slope, ours.real)


class SpectralTerms(nn.Module):
    """Weighted sum of spectral terms, averaged over items and resolutions.

    Args:
        config: resolutions, channels, phase options and floors; its weights are not used.
        names: the terms to compute, of ``terms.SPECTRAL``.
        sample_rate: Hz, for the mel scale.

    Shapes: audio [batch, 2, samples], Left and Right, full scale = 1.
    Raises ValueError when a term is unknown.
    """

    def __init__(
        self, config: ObjectiveConfig, names: Iterable[str], sample_rate: float = 44_100
    ) -> None:
        super().__init__()
        self.config = config
        self.names = tuple(names)
        unknown = set(self.names) - set(terms.SPECTRAL)
        if unknown:
            raise ValueError(f"unknown terms: {', '.join(sorted(unknown))}")
        self.transforms = nn.ModuleList(STFT(length) for length in config.resolutions)
        for transform in self.transforms:
            filters = None
            if "magnitude_mel" in self.names:
                filters = widest_mel_filters(sample_rate, transform.length)
            transform.register_buffer("mel_filters", filters, persistent=False)
        self.compiled: Callable | None = None

    def compile_terms(self, **options) -> None:
        """Compile the comparison, with one graph for each resolution and shape of batch.

        Used in training mode only, whose batches all have one shape. ``options`` are those of
        ``torch.compile``.
        """
        limits = torch._dynamo.config  # above the default when a config has many resolutions
        limits.recompile_limit = max(limits.recompile_limit, 2 * len(self.transforms))
        self.compiled = torch.compile(compare, dynamic=False, **options)

    def forward(
        self,
        reconstruction: Tensor,
        target: Tensor,
        weights: Weights,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, differentiable by the reconstruction once, and the raw terms as plain values.

        ``weights`` holds a factor for each of ``names``. ``generator`` draws the resolutions of a
        step when the module is in training mode and the config asks for fewer than all. The
        target gets no gradient.
        """
        check_stereo(reconstruction, target)
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            factors = {name: _scalar(weights[name], target) for name in self.names}
            total, values = _Compare.apply(
                reconstruction, target, self, factors, self._drawn(generator)
            )
        return total, dict(zip(self.names, values.unbind(), strict=True))

    def term_gradients(
        self, reconstruction: Tensor, target: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The gradient of each raw term by the reconstruction, [batch, 2, samples] each.

        All terms see the same resolutions. Nothing is compiled here: each term alone would be
        a graph of its own, for a call that is made now and then.
        """
        check_stereo(reconstruction, target)
        transforms, gradients = self._drawn(generator), {}
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = full_precision(reconstruction), full_precision(target)
            for name in self.names:
                alone = {name: target.new_ones(())}
                gradients[name] = self.sums(reconstruction, target, alone, transforms, compare)[1]
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
        comparison: Callable,
    ) -> tuple[Tensor, Tensor]:
        """Raw terms [terms], means over items and ``transforms``, and the sum's audio gradient.

        ``comparison`` is ``compare``, as it is or compiled.
        """
        batch, _, samples = reconstruction.shape
        audio_gradient = torch.zeros_like(reconstruction)

        @torch.no_grad()  # per thread, as is autocast, which is off in a new one
        def of_items(items: slice) -> Tensor:
            values = reconstruction.new_zeros(len(weights))
            for transform in transforms:
                spectra = [transform(audio[items]) for audio in (reconstruction, target)]
                views = (torch.view_as_real(spectrum) for spectrum in spectra)
                found, slope = comparison(*views, transform.mel_filters, weights, self.config)
                values += found.sum(dim=1)
                slope = torch.view_as_complex(slope)
                audio_gradient[items] += transform.adjoint(slope, samples)
            return values

        share = 1 / (batch * len(transforms))
        values = sum(_over_items(of_items, batch, reconstruction.device))
        return values.mul_(share), audio_gradient.mul_(share)


class _Compare(torch.autograd.Function):
    """(reconstruction, target) -> weighted sum and raw terms; the gradient is found at once."""

    @staticmethod
    def forward(
        ctx,
        reconstruction: Tensor,
        target: Tensor,
        module: SpectralTerms,
        weights: dict[str, Tensor],
        transforms: list[STFT],
    ) -> tuple[Tensor, Tensor]:
        comparison = module.compiled if module.training and module.compiled else compare
        values, gradient = module.sums(reconstruction, target, weights, transforms, comparison)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values)
        return torch.stack(list(weights.values())) @ values, values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor, grad_values: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total, None, None, None, None


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
