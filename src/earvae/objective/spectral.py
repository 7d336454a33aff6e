"""All spectral terms of one batch in one differentiable operation.

``compare`` takes two spectra to the values of the terms and the slope of their weighted sum. On a
CPU every item is analysed, compared and differentiated before the next one is touched, so that its
spectra stay in the processor's cache and only the gradient of the audio is kept. On an accelerator
the whole batch is compared at once, and ``compare`` may be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from earvae.config import ObjectiveConfig
from earvae.objective import terms
from earvae.objective.comparison import Magnitudes, Phases
from earvae.objective.magnitude import widest_mel_filters
from earvae.objective.spectrum import STFT, gradient, mid_side, planes, rotated


def compare(
    ours: Tensor,
    target: Tensor,
    filters: Tensor | None,
    weights: dict[str, Tensor],
    config: ObjectiveConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the spectra of reconstruction and target at one resolution.

    Args:
        ours, target: of Left and Right, [batch, 2, frames, bins, 2]: real views of complex spectra,
            which a compiler can fuse.
        filters: mel filters [bins, bands]; needed for the mel term only.
        weights: a 0-dim tensor for each term that is wanted, of ``terms.SPECTRAL``.
        config: its weights are not used.
    Returns: raw terms [terms, batch], in the order of ``weights``, and the gradient of their
    weighted sum by ``ours``: its real and imaginary planes, [batch, 2, frames, bins].
    """
    pairs = {"lr": [planes(x, config.log_floor) for x in (ours, target)]}
    if "ms" in config.magnitude_channels + config.phase_channels:
        pairs["ms"] = [mid_side(x, config.log_floor) for x in pairs["lr"]]
    by_magnitude = [pair for pair in pairs if pair in config.magnitude_channels]
    by_phase = [pair for pair in pairs if pair in config.phase_channels]
    magnitudes = {pair: theirs.power.sqrt() for pair, (_, theirs) in pairs.items()}  # the target's
    level = sum(magnitudes[pair].mean(dim=(1, 2, 3)) for pair in by_magnitude) / len(by_magnitude)
    level.clamp_(min=config.level_floor)
    values = {name: target.new_zeros(len(target)) for name in weights}

    def add(
        slope: Tensor | None, group: Mapping[str, Callable], seen, share: float
    ) -> Tensor | None:
        """``slope`` plus the weighted slopes of a group's terms; adds to ``values`` as well."""
        for name, term in group.items():
            if name in weights:
                found = term(seen)
                values[name] += share * found.value
                slope = found.add_to(slope, share * weights[name])
                del found  # its memory is at hand for the next
        return slope

    gradients = []
    for pair, (mine, theirs) in pairs.items():
        radial = angular = None
        if pair in by_magnitude:
            seen = Magnitudes(mine.power.sqrt(), magnitudes[pair], level, filters)
            radial = add(None, terms.MAGNITUDE, seen, 1 / len(by_magnitude))
            del seen
        if pair == "lr" or pair in by_phase:
            seen = Phases(mine, theirs, magnitudes[pair], config)
            if pair == "lr":  # first: what it needs is less than what phase terms keep
                angular = add(None, terms.STEREO, seen, 1)
            if pair in by_phase:
                angular = add(angular, terms.PHASE, seen, 1 / len(by_phase))
        gradients.append(gradient(mine, radial, angular))
    (real, imag), *of_mid_side = gradients
    for part_real, part_imag in of_mid_side:  # the rotation is its own transpose
        real += rotated(part_real)
        imag += rotated(part_imag)
    for name, term in terms.SPECTRA.items():
        if name in weights:
            values[name], by_view = _by_autograd(term, ours, target, config)
            real += weights[name] * by_view[..., 0]
            imag += weights[name] * by_view[..., 1]
    return torch.stack(list(values.values())), real, imag


def _compare_fused(*arguments) -> tuple[Tensor, Tensor]:
    """``compare`` with the gradient as a real view [..., 2], which a compiler writes at once."""
    values, real, imag = compare(*arguments)
    return values, torch.stack((real, imag), dim=-1)


@torch.compiler.disable
def _by_autograd(
    term: Callable, ours: Tensor, target: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, Tensor]:
    """The values of a term of ``terms.SPECTRA``, [batch], and its gradient by ``ours``."""
    with torch.enable_grad():
        leaf = ours.detach().requires_grad_()
        value = term(torch.view_as_complex(leaf), torch.view_as_complex(target), config)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


class SpectralTerms(nn.Module):
    """Weighted sum of spectral terms, averaged over items and resolutions.

    Args:
        config: resolutions, channels, phase options and floors; its weights are not used.
        names: the terms to compute, of ``terms.SPECTRAL``.
        sample_rate: Hz, for the mel scale.

    Shapes: audio [batch, 2, samples], Left and Right, full scale = 1, float32 or float64.
    Raises ValueError when a term is unknown.
    """

    def __init__(
        self, config: ObjectiveConfig, names: Iterable[str], sample_rate: float = 44_100
    ) -> None:
        super().__init__()
        self.config = config
        self.names = tuple(names)
        if unknown := set(self.names) - set(terms.SPECTRAL):
            raise ValueError(f"unknown terms: {', '.join(sorted(unknown))}")
        self.transforms = nn.ModuleList(STFT(length) for length in config.resolutions)
        for transform in self.transforms:
            mel = "magnitude_mel" in self.names
            filters = widest_mel_filters(sample_rate, transform.length) if mel else None
            transform.register_buffer("mel_filters", filters, persistent=False)
        self.compiled: Callable | None = None

    def compile_terms(self, **options) -> None:
        """Compile the comparison, with one graph for each resolution and shape of batch.

        Used in training mode only, whose batches all have one shape. ``options`` are those of
        ``torch.compile``.
        """
        limits = torch._dynamo.config  # above the default when a config has many resolutions
        limits.recompile_limit = max(limits.recompile_limit, 2 * len(self.transforms))
        self.compiled = torch.compile(_compare_fused, dynamic=False, **options)

    def forward(
        self,
        reconstruction: Tensor,
        target: Tensor,
        weights: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, differentiable by the reconstruction once, and the raw terms as plain values.

        ``weights`` has a 0-dim tensor for each of ``names``. The target gets no gradient.
        """
        weights = {name: weights[name] for name in self.names}
        total, values = _Compare.apply(reconstruction, target, self, weights, self.draw(generator))
        return total, dict(zip(self.names, values.unbind(), strict=True))

    def draw(self, generator: torch.Generator | None) -> list[STFT]:
        """The resolutions of a step: all, or in training mode as many as the config asks for."""
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
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        """Raw terms [terms], means over items and ``transforms``, and the sum's audio gradient.

        ``compiled``: use what ``compile_terms`` made.
        """
        batch, _, samples = reconstruction.shape
        audio_gradient = torch.zeros_like(reconstruction)

        @torch.no_grad()  # per thread, as is autocast, which is off in a new one
        def of_items(items: slice) -> Tensor:
            values = reconstruction.new_zeros(len(weights))
            for transform in transforms:
                spectra = [transform(audio[items]) for audio in (reconstruction, target)]
                seen = (
                    *map(torch.view_as_real, spectra),
                    transform.mel_filters,
                    weights,
                    self.config,
                )
                if compiled:
                    found, slope = self.compiled(*seen)
                    slope = torch.view_as_complex(slope)
                else:
                    found, real, imag = compare(*seen)
                    slope = torch.complex(real, imag)
                values += found.sum(dim=1)
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
        compiled = module.training and module.compiled is not None
        values, gradient = module.sums(reconstruction, target, weights, transforms, compiled)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values)
        return (torch.stack(list(weights.values())) * values).sum(), values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor, grad_values: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total, None, None, None, None


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
