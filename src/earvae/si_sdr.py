"""SI-SDR, the scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), once for all."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-8  # keeps silence finite, as in the published evaluation
BLOCK_SAMPLES = 1 << 16  # summed at a time, so that long signals need little memory


class StreamingSiSdr:
    """The SI-SDR of signals that arrive in blocks, without holding them.

    Channels are compared with their means removed. Sums are in double precision, and of the
    target and the difference, so that small differences keep their digits.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._sums: Tensor | int = 0  # Σ of x, d, xx, dd, xd: [5, ..., channels]

    def add(self, reconstruction: Tensor, target: Tensor) -> None:
        """Take the next blocks ``[..., channels, n]``, of equal shape."""
        for ours, theirs in zip(
            reconstruction.split(BLOCK_SAMPLES, -1), target.split(BLOCK_SAMPLES, -1), strict=True
        ):
            x, y = _double(theirs), _double(ours)
            d = y - x
            terms = [v.sum(-1) for v in (x, d)] + [(a * b).sum(-1) for a, b in
                                                   ((x, x), (d, d), (x, d))]  # fmt: skip
            self._sums = torch.stack(terms) + self._sums
            self._samples += x.shape[-1]

    def channels(self) -> tuple[Tensor, Tensor]:
        """The ratio in dB, higher is better, and the energy of the target, ``[..., channels]``
        float64 each. The ratio means nothing where the energy is not above ``FLOOR``."""
        x, d, xx, dd, xd = self._sums
        xx = (xx - x * x / self._samples).clamp_min(0)
        dd = (dd - d * d / self._samples).clamp_min(0)
        xd = xd - x * d / self._samples
        beyond = (xd - FLOOR) / (xx + FLOOR)  # of the best gain, what exceeds 1
        error = (dd - 2 * beyond * xd + beyond.square() * xx).clamp_min(0)
        ratio = (1 + beyond).square() * xx / (error + FLOOR)
        return 10 * torch.log10(ratio + FLOOR), xx

    def value(self) -> float | None:
        """The mean in dB over the channels that sound in the target; None where none does, and
        where nothing was added."""
        if not self._samples:
            return None
        ratio, energy = self.channels()
        sounding = energy > FLOOR
        return float(ratio[sounding].mean()) if sounding.any() else None


def si_sdr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """The SI-SDR in dB, higher is better: ``[..., channels, samples]`` each, to ``[...]``.

    The mean over all channels; a silent target gives a low but finite value. In the input's
    precision, from sums in double precision.
    """
    meter = StreamingSiSdr()
    meter.add(reconstruction, target)
    return meter.channels()[0].mean(-1).to(reconstruction)


def _double(signal: Tensor) -> Tensor:
    """Float64, on the CPU where the device (Apple's) has none."""
    return (signal.cpu() if signal.device.type == "mps" else signal).double()
