"""Phase coherence of channels and between channels (docs/paper.md: ICPC and CCPC)."""

from __future__ import annotations

import torch
from torch import Tensor

from earvae.evaluation.metrics.blocks import Pair, blocks

WEIGHT_FLOOR = 1e-6  # bins of less weight than this do not count
TINY = 1e-30  # a product of the target's channels that has no phase


class CoherenceSums:
    """The sums over blocks that a coherence at one resolution is made of.

    Per frame the coherence is |sum w e^(j dphi)| / sum w over bins, and frames are averaged
    with the weights sum w. So the average is the sum of the numerators over that of w.
    """

    def __init__(self) -> None:
        self.aligned: Tensor | float = 0.0
        self.weight: Tensor | float = 0.0
        self.peak: Tensor | float = 0.0  # of the weights that a perfect reconstruction has

    def _add(self, phasors: Tensor, weights: Tensor, ideal: Tensor) -> None:
        """Weighted phasors and weights ``[..., frames, bins]``; ideal weights, any last axes."""
        counted = weights > WEIGHT_FLOOR
        self.aligned += (phasors * counted).sum(-1).abs().sum(-1).double()
        self.weight += (weights * counted).sum((-2, -1)).double()
        self.peak = torch.maximum(torch.as_tensor(self.peak), ideal.flatten(-2).amax(-1))

    def add_channels(self, reconstruction: Tensor, target: Tensor) -> None:
        """Spectra ``[..., channels, frames, bins]``: each channel against itself."""
        product = reconstruction * target.conj()
        parts = torch.view_as_real(target).square().flatten(-2)
        self._add(product, product.abs(), parts)

    def add_pair(self, reconstruction: Tensor, target: Tensor) -> None:
        """Spectra ``[..., 2, frames, bins]``: Left against Right."""
        ours = reconstruction.select(-3, 0) * reconstruction.select(-3, 1).conj()
        theirs = target.select(-3, 0) * target.select(-3, 1).conj()
        level = theirs.abs()
        phase = torch.where(level > TINY, theirs / level, 1)
        self._add(ours * phase.conj(), ours.abs(), level)

    def value(self) -> Tensor:
        """float64, 0 to 1; 0 where the reconstruction has nothing to compare, NaN where the
        target has nothing."""
        value = torch.where(self.weight > 0, self.aligned / self.weight, 0.0)
        return torch.where(self.peak > WEIGHT_FLOOR, value, torch.nan)


@torch.no_grad()
def coherences(
    pair: Pair, lengths: tuple[int, ...], channels: bool, across: bool
) -> tuple[Tensor | None, Tensor | None]:
    """ICPC (if ``channels``) and CCPC (if ``across``), float64 ``[...]``, from one pass.

    ``pair`` is ``[..., channels, samples]`` each, ``lengths`` are those of the windows.
    """
    of_channels = {length: CoherenceSums() for length in lengths}
    of_pairs = {length: CoherenceSums() for length in lengths}
    across_two = across and pair[0].shape[-2] == 2
    for block in blocks(pair, max(lengths)):
        for length in lengths:
            spectra = block.spectrum(length)  # [2, ..., channels, frames, bins]
            if channels:
                of_channels[length].add_channels(*spectra)
            if across_two:
                of_pairs[length].add_pair(*spectra)
    undefined = pair[0].new_full(pair[0].shape[:-2], torch.nan, dtype=torch.float64)
    within = torch.stack([s.value() for s in of_channels.values()]) if channels else None
    between = torch.stack([s.value() for s in of_pairs.values()]) if across_two else undefined
    return (
        within.nanmean(dim=(0, -1)) if channels else None,
        (between.nanmean(dim=0) if across_two else undefined) if across else None,
    )
