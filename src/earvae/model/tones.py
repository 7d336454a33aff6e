"""Stored tones, for what has a pitch and whose phase is not known.

A partial that the latents do not hold as a waveform has a place in the spectrum all the same, and
noise there, however narrow, is no tone: its level wanders. So beside noise a decoder has stored
tones, PER_BIN of them evenly spaced in every bin of the long blocks, and says how strong each is
from frame to frame. Like the noise (``model/texture.py``) they follow from a frame's place in its
file, and are the same in every chunk, stream and engine: all come again after PERIOD frames.

Above the split, as far as partials still stand apart, tones are made of the short blocks, so that
the noise beside them keeps its sharp attacks. They are half as dense there.
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
NOTHING = -1e4  # a logarithm of it, whose exponential is 0
HIGH_PER_BIN = 2  # above the split, to the width of a long bin; PERIOD holds for these too
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


class HighTones(Constants):
    """Tones above the split up to ``tones_hz``, HIGH_PER_BIN for the width of every long bin, in
    the short blocks: each of unit power in a frame, Side's a quarter of a turn behind Mid's.

    From frame to frame a tone turns by an angle, which is all that changes. ``waves [2 · count,
    blocks · kept]``: coefficients of every tone in the short blocks of frame 0, then of every tone
    a quarter of a turn before. ``turns [PERIOD, 2, 2 · count]``: how much of each, for Mid and
    Side. Each short bin shares its power with the tones whose frequency lies in it, its own.

    Attributes:
        first, end: long bins whose widths they fill, from and to before.
        count: tones, for Mid and for Side each; 0 if ``tones_hz`` is not above the split.
        blocks: short ones in a frame.
        kept: how many of the transform's short bins, from the lowest, hold a tone's coefficients.
        lowest: the first of the short bins that own tones.
        owners: how many own tones.
        each: tones that a short bin owns.
        missing: how many fewer the first and the last owner have.
    """

    waves: Tensor
    turns: Tensor
    leaning: Tensor
    owner: Tensor

    def __init__(self, transform: TwoResolutions, tones_hz: float, sample_rate: int) -> None:
        super().__init__()
        hop, short = transform.long.block, transform.short
        self.blocks, self.each = transform.blocks, HIGH_PER_BIN * transform.blocks
        self.first = transform.long.bins  # in long bins, as is the end
        self.end = max(self.first, min(round(tones_hz / (sample_rate / 2) * hop), hop))
        first, self.count = HIGH_PER_BIN * self.first, HIGH_PER_BIN * (self.end - self.first)
        below = short.block - short.bins  # short bins that the transform does not keep
        owners = [tone // self.each - below for tone in range(first, first + self.count)]
        self.lowest, self.owners, self.kept, self.missing = 0, 0, 0, (0, 0)
        if self.count:
            self.lowest, self.owners = owners[0], owners[-1] + 1 - owners[0]
            self.kept = min(owners[-1] + 1 + REACH, short.bins)
            before = first % self.each
            self.missing = before, self.owners * self.each - before - self.count
        self.above = short.bins - self.kept
        frequency = tone_frequencies(self.end, self.first, HIGH_PER_BIN).double() / (2 * hop)
        phase = math.pi * uniform_noise(first + self.count)[first:].double() / 3**0.5
        time = torch.arange(-hop, 2 * hop, dtype=torch.float64)
        angle = 2 * math.pi * frequency[:, None] * time + phase[:, None]
        waves = torch.cat([angle.cos(), -angle.sin()]).float() * math.sqrt(2 / hop)
        waves = short(waves)[:, self.blocks : 2 * self.blocks, : self.kept].flatten(1)
        turn = 2 * math.pi * frequency * hop * torch.arange(PERIOD)[:, None]
        mid = torch.cat([turn.cos(), turn.sin()], dim=1)  # [PERIOD, 2 · count]
        side = torch.cat([turn.sin(), -turn.cos()], dim=1)
        leaning = waves.square().unflatten(0, (2, self.count)).mean(dim=0)
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("turns", torch.stack([mid, side], dim=1).float(), persistent=False)
        self.register_buffer("leaning", leaning, persistent=False)  # [count, blocks · kept]
        owner = torch.tensor(owners, dtype=torch.int64)
        self.register_buffer("owner", owner, persistent=False)  # [count], of the short bins kept

    def forward(self, strength: Tensor, first_frame: int | Tensor) -> Tensor:
        """What a frame's short blocks hold, ``[batch, frames, 2, blocks · bins]``, of tones of
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
        """The power of each short bin in a frame's blocks, shared among noise and its own tones.

        ``noise […, blocks, bins]``: log strengths if it had all. ``pitch […, count]``: logarithms
        of a tone's power over that of the noise. Gives the log strengths of both.
        """
        own = slice(self.lowest, self.lowest + self.owners)
        whole = (2 * noise[..., own]).logsumexp(dim=-2)  # [..., owners]
        weights = F.pad(pitch, self.missing, value=NOTHING)
        weights = weights.unflatten(-1, (self.owners, self.each))
        shares = F.pad(weights, (1, 0)).log_softmax(dim=-1)  # noise first
        above = noise.shape[-1] - own.stop
        noise = noise + F.pad(shares[..., 0] / 2, (own.start, above)).unsqueeze(-2)
        tones = ((whole.unsqueeze(-1) + shares[..., 1:]) / 2).flatten(-2)
        return noise, tones[..., self.missing[0] : self.missing[0] + self.count]

    def by_bin(self, values: Tensor) -> Tensor:
        """Means of a frame's blocks where tones have coefficients, ``[…, kept]``, of ``values […,
        blocks · bins]``."""
        return values.unflatten(-1, (self.blocks, -1))[..., : self.kept].mean(dim=-2)

    def first_pitch(self, of_bin: float) -> Tensor:
        """``[count]``: what all tones of a short bin have alike so that together they have the
        power ``exp(of_bin)`` over that of the noise."""
        own = torch.full((self.owners,), float(self.each))
        own[0] -= self.missing[0]
        own[-1] -= self.missing[1]
        return of_bin - own[self.owner - self.lowest].log()

    def _placed(self, kept: Tensor) -> Tensor:
        """``[…, blocks · kept]`` among all short bins, ``[…, blocks · bins]``."""
        return F.pad(kept.unflatten(-1, (self.blocks, self.kept)), (0, self.above)).flatten(-2)


def tone_frequencies(end: int, first: int = 0, per_bin: int = PER_BIN) -> Tensor:
    """In long bins, of the tones of those from ``first`` to before ``end``: ``[bins · per_bin]``,
    low to high."""
    return (torch.arange(first * per_bin, end * per_bin) + 0.5) / per_bin


def _gathered(values: Tensor, table: Tensor) -> Tensor:
    """``[…, bins, PER_BIN]`` times ``[…, bins, PER_BIN, around]``, added up in each bin."""
    each = (values.unsqueeze(-2) @ table).squeeze(-2)  # [..., bins, around]
    bins = each.shape[-2]
    moved = (
        F.pad(each[..., i], (i, 2 * REACH - i))[..., REACH : REACH + bins]
        for i in range(2 * REACH + 1)
    )
    return sum(moved, torch.zeros((), dtype=each.dtype, device=each.device))
