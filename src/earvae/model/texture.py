"""Stored noise, for what a decoder cannot know: the fine structure of a treble without pitch.

The noise of a frame follows from the frame's place in its file and from nothing else. So every
chunk, stream, batch and engine adds the same, where noise drawn anew, or hashed from values that
engines round differently, would not be the same twice. It comes again after PERIOD frames, six
seconds at 44.1 kHz, which nobody hears.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earvae.model.layers import Constants

PERIOD = 256  # frames


class StoredNoise(Constants):
    """PERIOD frames of noise of magnitude 1 and random sign, ``[PERIOD, features]``, which is less
    uneven than uniform or normal noise and lies closer to music.

    It is no part of a model's files: integers that wrap make it, the same everywhere.
    """

    table: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("table", uniform_noise(PERIOD * features).sign(), persistent=False)
        self.table = self.table.view(PERIOD, features)

    def forward(self, first_frame: int | Tensor, frames: int) -> Tensor:
        """``[batch, frames, features]`` from ``first_frame`` on, which is the place of the first
        frame in its file: one for all (batch is then 1), or int64 ``[batch]``.
        """
        first = torch.as_tensor(first_frame, device=self.table.device).reshape(-1, 1)
        return self.table[(first + torch.arange(frames, device=self.table.device)) % PERIOD]


def uniform_noise(count: int) -> Tensor:
    """``[count]`` float32, evenly spread over ±√3: the finaliser of MurmurHash3 (Appleby 2008) of
    0, 1, 2, …, twice, of which the upper 24 bits count.
    """
    x = torch.arange(1, count + 1, dtype=torch.int64) * 0x9E3779B9 & 0xFFFFFFFF
    for _ in range(2):
        x = (x ^ (x >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
        x = (x ^ (x >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
        x = x ^ (x >> 16)
    unit = ((x >> 8).double() + 0.5) / 2**24  # between 0 and 1
    return ((2 * unit - 1) * 3**0.5).float()
