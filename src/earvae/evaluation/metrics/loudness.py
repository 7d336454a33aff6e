"""Loudness after ITU-R BS.1770-4 and EBU R 128. Needs pyloudnorm (the eval extra)."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
from torch import Tensor

from earvae.evaluation.metrics.signal import Signal
from earvae.true_peak import true_peak_db

GATE_SECONDS = 0.4  # momentary loudness, of which the integrated one is made
SHORT_TERM_SECONDS = 3.0  # of which the range is made
STEP_SECONDS = 0.1  # of both


@dataclass(frozen=True)
class Loudness:
    """What a loudness meter reads; None where a reading has no meaning."""

    lufs: float | None = None
    """Integrated, gated; None for silence and for less than 0.4 s."""
    lra: float | None = None
    """Loudness range in LU; None for silence and for less than 3 s."""
    true_peak_db: float | None = None
    """Highest true peak of all channels in dB of full scale (dBTP); None for silence."""


def loudness(audio: Tensor, sample_rate: int) -> Loudness:
    """The loudness of ``[1 or 2 channels, samples]``, float32, full scale = 1.

    Beyond the signal it needs memory for some copies of it.
    """
    samples = audio.detach().cpu().numpy().T  # [samples, channels], a view
    return Loudness(
        lufs=_integrated(samples, sample_rate),
        lra=_range(samples, sample_rate),
        true_peak_db=_finite(true_peak_db(samples.T)),
    )


def loudness_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """``lufs_difference``, ``lra_difference`` (LU) and ``true_peak_difference`` (dB):
    reconstruction minus target; NaN where either has no such reading."""
    pairs = zip(*(astuple(x.once(loudness)) for x in (reconstruction, target)), strict=True)
    differences = [math.nan if None in pair else pair[0] - pair[1] for pair in pairs]
    names = ("lufs_difference", "lra_difference", "true_peak_difference")
    return dict(zip(names, differences, strict=True))


def _integrated(samples: np.ndarray, rate: int) -> float | None:
    return _finite(_blockwise(samples, rate, GATE_SECONDS)[0])


def _range(samples: np.ndarray, rate: int) -> float | None:
    """Loudness range in LU after EBU Tech 3342: from the 10th to the 95th percentile of the
    short-term loudness above -70 LUFS and above 20 LU below its mean power.

    pyloudnorm's own ``loudness_range`` adds silence to the end, which fades out the last values.
    """
    values = np.array(_blockwise(samples, rate, SHORT_TERM_SECONDS)[1])
    values = values[values >= -70]
    if not values.size:
        return None
    gate = 10 * np.log10(np.mean(10 ** (values / 10))) - 20
    low, high = np.percentile(values[values >= gate], (10, 95))
    return float(high - low)


def _blockwise(samples: np.ndarray, rate: int, seconds: float) -> tuple[float, list[float]]:
    """Gated loudness and the loudness of every whole block; -inf and none where there is none.

    The filter class "DeMan" is BS.1770's table at any rate; pyloudnorm's default is not.
    """
    import pyloudnorm

    step, block = round(STEP_SECONDS * rate), round(seconds * rate)
    if len(samples) < block:
        return -math.inf, []
    whole = (len(samples) - block) // step * step + block  # BS.1770: no block in part
    overlap = 1 - STEP_SECONDS / seconds
    meter = pyloudnorm.Meter(rate, filter_class="DeMan", block_size=seconds, overlap=overlap)
    integrated = meter.integrated_loudness(samples[:whole])
    return float(integrated), meter.blockwise_loudness


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
