"""Stored tones, for what has a pitch and whose phase is not known.

A partial that the latents do not hold as a waveform has a place in the spectrum all the same, and
noise there, however narrow, is no tone: its level wanders. So beside noise a decoder has stored
tones, PER_BIN of them evenly spaced in every bin of the long blocks, and says how strong each is
from frame to frame. Like the noise (``model/texture.py``) they follow from a frame's place in its
file, and are the same in every chunk, stream and engine: all come again after PERIOD frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae.model.layers import Constants
from earvae.model.texture import uniform_noise
from earvae.model.transform import TwoResolutions

PER_BIN = 4  # tones; 5.4 Hz apart with a hop of 1024 at 44.1 kHz
PERIOD = 4 * PER_BIN  # frames: a tone turns by π(bin + (2·i + 1) / (2·PER_BIN)) in each
REACH = 3  # bins to both sides in which a tone has coefficients; the rest is 30 dB below it


class StoredTones(Constants):
    """A tone for every fraction of a long block's bin, each of unit power in a frame.

    Side's are a quarter of a turn behind Mid's, so that neither ear has more of both together than
    the other. ``table [PERIOD, 2, bins, PER_BIN, 2·REACH + 1]``: coefficients of Mid and Side in
    the bins around a tone's own.
    """

    table: Tensor
    leaning: Tensor

    def __init__(self, transform: TwoResolutions) -> None:
        super().__init__()
        hop, self.bins = transform.long.block, transform.long.bins
        self.count = PER_BIN * self.bins
        frequency = tone_frequencies(self.bins).double() / (2 * hop)  # of the sample rate
        phase = math.pi * uniform_noise(self.count).double() / 3**0.5
        time = torch.arange((PERIOD + 2) * hop, dtype=torch.float64)
        angle = 2 * math.pi * frequency[:, None] * time + phase[:, None]
        tones = torch.stack([angle.cos(), angle.sin()]).float()  # [2, tones, samples]
        # The first block has nothing to overlap with; the one a PERIOD later stands for it.
        frames = transform.long(tones)[:, :, 1 : PERIOD + 1].roll(1, dims=2)
        frames = F.pad(frames * math.sqrt(2 / hop), (REACH, REACH))
        around = frames.unfold(3, 2 * REACH + 1, 1)  # [2, tones, PERIOD, bins, around]
        tone = torch.arange(self.count)
        table = around[:, tone, :, tone // PER_BIN].transpose(0, 2)  # [PERIOD, 2, tones, around]
        table = table.unflatten(2, (self.bins, PER_BIN))
        self.register_buffer("table", table.contiguous(), persistent=False)
        self.register_buffer("leaning", table.square().mean(dim=(0, 1)), persistent=False)

    def forward(self, strength: Tensor, first_frame: int | Tensor) -> Tensor:
        """Coefficients ``[batch, frames, 2, bins]`` of tones of ``strength [batch, frames, 2,
        bins, PER_BIN]``, from ``first_frame`` on: one for all, or int64 ``[batch]``."""
        first = torch.as_tensor(first_frame, device=self.table.device).reshape(-1, 1)
        frames = torch.arange(strength.shape[1], device=self.table.device)
        return _gathered(strength, self.table[(first + frames) % PERIOD])

    def dense(self) -> Tensor:
        """Coefficients in all bins, ``[PERIOD, 2, bins · PER_BIN, bins]``: what ``forward``
        multiplies strengths with, for engines that have nothing but products of matrices."""
        each = torch.eye(self.count, device=self.table.device).unflatten(1, (self.bins, PER_BIN))
        tables = self.table.flatten(0, 1)
        return torch.stack([_gathered(each, one) for one in tables]).unflatten(0, (PERIOD, 2))

    def dense_power(self) -> Tensor:
        """The same of :meth:`power`, ``[bins · PER_BIN, bins]``."""
        each = torch.eye(self.count, device=self.table.device).unflatten(1, (self.bins, PER_BIN))
        return self.power(each)

    def power(self, powers: Tensor) -> Tensor:
        """Variances ``[…, bins]`` of coefficients where tones have ``powers […, bins, PER_BIN]``
        and any phase."""
        return _gathered(powers, self.leaning)


def tone_frequencies(bins: int) -> Tensor:
    """In bins, ``[bins · PER_BIN]``."""
    return (torch.arange(bins * PER_BIN) + 0.5) / PER_BIN


def _gathered(values: Tensor, table: Tensor) -> Tensor:
    """``[…, bins, PER_BIN]`` times ``[…, bins, PER_BIN, around]``, added up in each bin."""
    each = (values.unsqueeze(-2) @ table).squeeze(-2)  # [..., bins, around]
    bins = each.shape[-2]
    moved = (
        F.pad(each[..., i], (i, 2 * REACH - i))[..., REACH : REACH + bins]
        for i in range(2 * REACH + 1)
    )
    return sum(moved, torch.zeros((), dtype=each.dtype, device=each.device))
