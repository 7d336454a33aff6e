"""What distances of spectra do not hear: lines, SDR and level by octave, panning, repetition."""

from __future__ import annotations

import torch
from torch import Tensor

from earvae.evaluation.lines import find_lines, line_figures
from earvae.evaluation.metrics import checked_pair
from earvae.evaluation.octaves import mid_spectrum, sdr_and_level
from earvae.evaluation.panning import channel_levels, panning_figures
from earvae.evaluation.repetition import lags_of, repetition_figures, self_similarity

HOP = 1024  # samples, of a codec that does not tell: periods of 1024 and 2048 are looked for


class Hearing:
    """A target that reconstructions are compared with; what concerns it alone is computed once.

    Args:
        target: float32 ``[2, samples]``, full scale = 1.
        sample_rate: Hz.
    Raises:
        ValueError: the target is no stereo signal or shorter than 8192 samples.
    """

    def __init__(self, target: Tensor, sample_rate: float = 44_100) -> None:
        if target.ndim != 2 or target.shape[0] != 2:
            raise ValueError(f"a track is [2, samples], not {list(target.shape)}")
        self.target, self.sample_rate = target, sample_rate
        self._mid = mid_spectrum(target)
        self._lines = find_lines(self._mid, sample_rate)
        self._levels = channel_levels(target, sample_rate)
        self._similarity: dict[int, Tensor] = {}

    @torch.no_grad()
    def figures(self, reconstruction: Tensor, hop: int = HOP) -> dict[str, float]:
        """All measures of a reconstruction, by name and band (``octaves.BANDS_HZ``):
        ``lines_f1_``, ``kept_``, ``invented_`` (``lines``), ``sdr_``, ``level_`` (``octaves``),
        ``panning_`` (``panning``) and ``repetition_`` (``repetition``).

        Args:
            reconstruction: of the target's shape, aligned with it.
            hop: of the codec, samples at ``sample_rate``.
        Raises:
            ValueError: shapes differ, or a value is not finite.
        """
        checked_pair(reconstruction, self.target)
        rate = self.sample_rate
        mid = mid_spectrum(reconstruction)
        if hop not in self._similarity:
            self._similarity[hop] = self_similarity(self.target, lags_of(hop), rate)
        return {
            **line_figures(find_lines(mid, rate), self._lines, rate),
            **sdr_and_level(mid, self._mid, rate),
            **panning_figures(channel_levels(reconstruction, rate), self._levels, rate),
            **repetition_figures(
                self_similarity(reconstruction, lags_of(hop), rate), self._similarity[hop], rate
            ),
        }


def hearing_metrics(
    reconstruction: Tensor, target: Tensor, sample_rate: float = 44_100, hop: int = HOP
) -> dict[str, float]:
    """``Hearing.figures`` of one reconstruction ``[2, samples]`` of one target."""
    return Hearing(target, sample_rate).figures(reconstruction, hop)
