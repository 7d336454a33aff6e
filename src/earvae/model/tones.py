"""Stored tones, for what has a pitch and whose phase is not known.

A partial that the latents do not hold as a waveform has a place in the spectrum all the same, and
noise there, however narrow, is no tone: its level wanders. So beside noise a decoder has stored
tones, evenly spaced, and says how strong each is from frame to frame. Like the noise
(``model/texture.py``) they follow from a frame's place in its file, and are the same in every
chunk, stream and engine: all come again after PERIOD frames.

Below the split they are made of the long blocks. Above it, as far as partials still stand apart,
they are half as dense and made of the short blocks, so that the noise beside them keeps its sharp
attacks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae.model.layers import Constants
from earvae.model.texture import uniform_noise
from earvae.model.transform import MDCT, TwoResolutions

PER_BIN = 4  # tones to a long bin; 5.4 Hz apart with a hop of 1024 at 44.1 kHz
HIGH_PER_BIN = 2  # above the split, to the width of a long bin
PERIOD = 4 * PER_BIN  # frames: a tone turns by π(bin + (2·i + 1) / (2·PER_BIN)) in each
REACH = 3  # bins above the highest tone's own in which it has coefficients
NOTHING = -1e4  # a logarithm of it, whose exponential is 0


class StoredTones(Constants):
    """Tones of the blocks of an MDCT, each of unit power in a frame, Side's a quarter of a turn
    behind Mid's, so that neither ear has more of both together than the other.

    From frame to frame a tone turns by an angle, which is all that changes. ``waves [2 · count,
    blocks · kept]``: coefficients of every tone in frame 0, then of every tone a quarter of a turn
    before. ``turns [PERIOD, 2, 2 · count]``: how much of each, for Mid and Side. Each bin shares
    its power with the tones whose frequency lies in it, its own.

    Args:
        mdct: of the blocks.
        blocks: how many of them a frame has.
        first: long bin from which on there are tones; a long bin is that of a block of a frame.
        end: long bin before which they end; none if it is ``first``.
        per_bin: tones to a long bin; PERIOD holds for PER_BIN and HIGH_PER_BIN.

    Attributes:
        count: tones, for Mid and for Side each.
        end: as given.
        frequencies: in long bins, low to high, ``[count]``.
        owner: of the bins that ``mdct`` keeps, the one that a tone lies in, ``[count]``.
        lowest, owners: the first bin that owns tones, and how many do.
        each: tones that a bin owns.
        missing: how many fewer the first and the last owner have.
        kept: how many bins, from the lowest, hold a tone's coefficients.
        above: how many are above them.
    """

    waves: Tensor
    turns: Tensor
    leaning: Tensor
    owner: Tensor

    def __init__(self, mdct: MDCT, blocks: int, first: int, end: int, per_bin: int) -> None:
        super().__init__()
        hop, self.blocks, self.each, self.end = mdct.block * blocks, blocks, per_bin * blocks, end
        tone = torch.arange(per_bin * first, per_bin * end)
        self.count, self.frequencies = len(tone), (tone + 0.5) / per_bin
        owner = tone // self.each - mdct.first
        self.lowest = int(per_bin * first) // self.each - mdct.first if self.count else 0
        last = (per_bin * end - 1) // self.each - mdct.first if self.count else -1
        self.owners = last + 1 - self.lowest
        before = per_bin * first - (self.lowest + mdct.first) * self.each if self.count else 0
        self.missing = before, self.owners * self.each - before - self.count
        self.kept = min(last + 1 + REACH, mdct.bins) if self.count else 0
        self.above = mdct.bins - self.kept
        turn = 2 * math.pi * self.frequencies.double() / (2 * hop)  # in a sample
        phase = math.pi * uniform_noise(per_bin * end)[per_bin * first :].double() / 3**0.5
        angle = turn[:, None] * torch.arange(-hop, 2 * hop) + phase[:, None]
        waves = torch.cat([angle.cos(), -angle.sin()]).float() * math.sqrt(2 / hop)
        waves = mdct(waves)[:, blocks : 2 * blocks, : self.kept].flatten(1)
        angle = turn * hop * torch.arange(PERIOD)[:, None]
        mid = torch.cat([angle.cos(), angle.sin()], dim=1)  # [PERIOD, 2 · count]
        side = torch.cat([angle.sin(), -angle.cos()], dim=1)
        leaning = waves.square().unflatten(0, (2, self.count)).mean(dim=0)
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("turns", torch.stack([mid, side], dim=1).float(), persistent=False)
        self.register_buffer("leaning", leaning, persistent=False)  # [count, blocks · kept]
        self.register_buffer("owner", owner, persistent=False)

    def forward(self, strength: Tensor, first_frame: int | Tensor) -> Tensor:
        """What a frame's blocks hold, ``[batch, frames, 2, blocks · bins]``, of tones of
        ``strength [batch, frames, 2, count]``, from ``first_frame`` on: one for all, or int64
        ``[batch]``."""
        first = torch.as_tensor(first_frame, device=self.turns.device).reshape(-1, 1)
        frames = torch.arange(strength.shape[1], device=self.turns.device)
        turns = self.turns[(first + frames) % PERIOD]
        return self._placed(torch.cat([strength, strength], dim=-1) * turns @ self.waves)

    def power(self, powers: Tensor) -> Tensor:
        """Variances ``[…, blocks · bins]`` of coefficients where tones have ``powers […, count]``
        and any phase."""
        return self._placed(powers @ self.leaning)

    def shares(self, noise: Tensor, pitch: Tensor) -> tuple[Tensor, Tensor]:
        """The power of each bin in a frame's blocks, shared among noise and its own tones.

        ``noise […, blocks · bins]``: log strengths if it had all. ``pitch […, count]``: logarithms
        of a tone's power over that of the noise. Gives the log strengths of both.
        """
        if not self.count:
            return noise, pitch
        noise = noise.unflatten(-1, (self.blocks, -1))
        own = slice(self.lowest, self.lowest + self.owners)
        whole = (2 * noise[..., own]).logsumexp(dim=-2)  # [..., owners]
        weights = F.pad(pitch, self.missing, value=NOTHING)
        weights = weights.unflatten(-1, (self.owners, self.each))
        shares = F.pad(weights, (1, 0)).log_softmax(dim=-1)  # noise first
        above = noise.shape[-1] - own.stop
        noise = noise + F.pad(shares[..., 0] / 2, (own.start, above)).unsqueeze(-2)
        tones = ((whole.unsqueeze(-1) + shares[..., 1:]) / 2).flatten(-2)
        first = self.missing[0]
        return noise.flatten(-2), tones[..., first : first + self.count]

    def by_bin(self, values: Tensor) -> Tensor:
        """Means of a frame's blocks where tones have coefficients, ``[…, kept]``, of ``values […,
        blocks · bins]``."""
        return values.unflatten(-1, (self.blocks, -1))[..., : self.kept].mean(dim=-2)

    def first_pitch(self, of_bin: float) -> Tensor:
        """``[count]``: what all tones of a bin have alike so that together they have the power
        ``exp(of_bin)`` over that of the noise."""
        owned = torch.full((self.owners,), float(self.each))
        if self.count:
            owned[0] -= self.missing[0]
            owned[-1] -= self.missing[1]
        return of_bin - owned[self.owner - self.lowest].log()

    def _placed(self, kept: Tensor) -> Tensor:
        """``[…, blocks · kept]`` among all bins, ``[…, blocks · bins]``."""
        return F.pad(kept.unflatten(-1, (self.blocks, self.kept)), (0, self.above)).flatten(-2)


def stored_tones(
    transform: TwoResolutions, tones_hz: float, sample_rate: int
) -> tuple[StoredTones, StoredTones]:
    """Those of the long blocks, and those of the short ones from the split to ``tones_hz``."""
    split, hop = transform.long.bins, transform.long.block
    end = max(split, min(round(tones_hz / (sample_rate / 2) * hop), hop))
    low = StoredTones(transform.long, 1, 0, split, PER_BIN)
    return low, StoredTones(transform.short, transform.blocks, split, end, HIGH_PER_BIN)
