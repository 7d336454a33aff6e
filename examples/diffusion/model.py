"""A transformer that learns the velocities of latents (flow matching), and samples from them.

Lipman et al., Flow Matching for Generative Modeling (2023); Peebles and Xie, Scalable Diffusion
Models with Transformers (2023), with one modulation for all blocks as in PixArt-α (2024).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss, rms_norm, scaled_dot_product_attention, silu

# Errors of who knows nothing but mean and spread: means of 1 / (t² + (1−t)²), for times as training
# draws them (most in the middle) and for even ones.
NOTHING_LEARNED = {"training": 1.7413, "validation": math.pi / 2}


@dataclass(frozen=True)
class Config:
    """The sizes of a model, and the names of what it was told to tell apart."""

    channels: int
    frames: int  # of a crop; samples are as long
    classes: tuple[str, ...]
    patch: int = 4  # frames of a token
    width: int = 256
    depth: int = 8
    heads: int = 4
    compand: float = 3.0  # how strongly large latents are made small


class Block(nn.Module):
    """Attention and a perceptron, each scaled, shifted and gated by time and class."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.offsets = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, modulation: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
        """``x`` [batch, tokens, width], ``modulation`` [batch, 6, width]; ``mask`` is True where
        a token may be looked at."""
        scales = (modulation + self.offsets).unsqueeze(2).unbind(1)
        y = self.qkv(normed(x) * (1 + scales[0]) + scales[1])
        q, k, v = y.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turned(normed(q), turns), turned(normed(k), turns)
        y = scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask)
        x = x + scales[2] * self.out(y.transpose(1, 2).flatten(2))
        y = silu(self.up(normed(x) * (1 + scales[3]) + scales[4]))
        return x + scales[5] * self.down(y)


class Transformer(nn.Module):
    """Velocities of noisy latents."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, token = config.width, config.channels * config.patch
        self.enter = nn.Linear(token, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(len(config.classes) + 1, width)  # the last one: any
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.leave = nn.Linear(width, token)
        for layer in (self.modulation, self.leave):  # at first all blocks pass, and it says 0
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("mean", torch.zeros(config.channels, 1))
        self.register_buffer("std", torch.ones(config.channels, 1))
        self.register_buffer("least", torch.full((config.channels, 1), -10.0))
        self.register_buffer("most", torch.full((config.channels, 1), 10.0))

    def companded(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[batch, channels, frames]`` with their rare large values made
        small: what flows to and from noise. Mean 0 and std 1 after :meth:`measure`."""
        return ((latents * self.config.compand).asinh() - self.mean) / self.std

    def expanded(self, x: Tensor) -> Tensor:
        """The reverse of :meth:`companded`, within the range that was measured: some latents are
        logarithms of levels, and a mistake would be loud."""
        x = x.clamp(self.least, self.most)
        return (x * self.std + self.mean).sinh() / self.config.compand

    def measure(self, latents: Tensor) -> None:
        """Take mean, std and range of companded latents from ``[n, channels, frames]``."""
        values = self.companded(latents).transpose(0, 1).flatten(1)
        self.mean.copy_(values.mean(1, keepdim=True))
        self.std.copy_(values.std(1, keepdim=True))
        values = (values - self.mean) / self.std
        self.least.copy_(values.amin(1, keepdim=True))
        self.most.copy_(values.amax(1, keepdim=True))

    def forward(self, x: Tensor, time: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        """Velocities of ``x`` [batch, channels, frames] at ``time`` [batch], 0 for noise and 1 for
        latents; ``label`` [batch] is a class's number, ``len(classes)`` for any; ``mask`` [batch,
        frames] is True where frames hold audio. ``frames`` is a multiple of ``patch``."""
        patch = self.config.patch
        # All that is known of white noise, so that the blocks need to learn the rest alone; what
        # they see and say has a variance near 1 at any time (Karras et al., 2022).
        spread = (time**2 + (1 - time) ** 2).sqrt()[:, None, None]
        known, x = (2 * time - 1)[:, None, None] / spread**2 * x, x / spread
        y = self.enter(x.unflatten(2, (-1, patch)).permute(0, 2, 1, 3).flatten(2))
        waves = torch.exp(torch.arange(128, device=x.device) * (-math.log(1e4) / 128))
        angles = 1000 * time[:, None] * waves
        told = self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.label(label)
        modulation = self.modulation(silu(told)).unflatten(1, (6, -1))
        turns = rotations(y.shape[1], self.config.width // self.config.heads, x.device)
        if mask is not None:
            mask = mask.unflatten(1, (-1, patch)).any(2)[:, None, None]
        for block in self.blocks:
            y = block(y, modulation, turns, mask)
        y = self.leave(normed(y))
        return known + y.unflatten(2, (-1, patch)).permute(0, 2, 1, 3).flatten(2) / spread

    def save(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        save_file(weights, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Transformer:
        """The model that :meth:`save` wrote."""
        values = json.loads((folder / "config.json").read_text())
        model = cls(Config(**values | {"classes": tuple(values["classes"])}))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


def normed(x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:])


def rotations(tokens: int, size: int, device: torch.device) -> Tensor:
    """Angles of rotary position embedding (Su et al., 2021), ``[tokens, size / 2]``."""
    rates = 1e4 ** (-torch.arange(0, size, 2, device=device) / size)
    return torch.arange(tokens, device=device)[:, None] * rates


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of numbers, turned by their angles; float32."""
    a, b = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def errors(
    model: Transformer, latents: Tensor, noise: Tensor, time: Tensor, label: Tensor, mask: Tensor
) -> Tensor:
    """Squared errors of the velocities, ``[batch, channels, frames]``, 0 where ``mask`` is False.

    ``latents`` are normalised, ``noise`` is as large, and ``time`` is [batch].
    """
    latents = model.companded(latents)
    at = time[:, None, None]
    seen = None if mask.all() else mask
    found = model((1 - at) * noise + at * latents, time, label, seen)
    return mse_loss(found.float(), latents - noise, reduction="none") * mask[:, None]


@torch.no_grad()
def sample(
    model: Transformer, noise: Tensor, label: Tensor, steps: int = 50, guidance: float = 1.0
) -> Tensor:
    """Normalised latents ``[batch, channels, frames]``, from ``noise`` of that shape.

    Midpoint steps, so the model is asked ``2 · steps`` times. ``guidance`` above 1 follows the
    class ``label`` [batch] more than the model would (Ho and Salimans, 2022), at twice the cost.
    """
    anything = torch.full_like(label, len(model.config.classes))

    def velocity(x: Tensor, time: float) -> Tensor:
        at = torch.full((len(x),), time, device=x.device)
        told = model(x, at, label).float()
        return told if guidance == 1 else torch.lerp(model(x, at, anything).float(), told, guidance)

    x, step = noise, 1 / steps
    for number in range(steps):
        middle = x + step / 2 * velocity(x, number * step)
        x = x + step * velocity(middle, (number + 0.5) * step)
    return model.expanded(x)
