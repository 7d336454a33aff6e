"""The transformer in front of the paper's decoder (docs/paper.md).

Two pre-norm blocks of global self-attention over the latent sequence. The attribute names are
those of published state dicts, below ``transformers.``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import OobleckConfig

ROTARY_BASE = 10_000.0
FEED_FORWARD_EXPANSION = 4  # hidden over latent channels: 64 to 256


class LatentTransformer(nn.Module):
    """Latents ``[batch, latent, frames]`` to the same shape, every frame seeing every other.

    Starts as the identity, since both branches of each block start at zero. Attention runs
    through ``scaled_dot_product_attention``, whose memory grows with the frames, not their
    square; its time does grow with the square.
    """

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        head_channels = config.transformer.head_channels
        self.rotary_pos_emb = RotaryEmbedding(head_channels)
        self.layers = nn.ModuleList(
            TransformerBlock(config.latent_channels, head_channels)
            for _ in range(config.transformer.depth)
        )

    def forward(self, latents: Tensor) -> Tensor:
        x = latents.transpose(1, 2).to(
            self.layers[0].pre_norm.gamma.dtype
        )  # [batch, frames, latent]
        rotation = self.rotary_pos_emb(x.shape[1])
        for layer in self.layers:
            x = layer(x, rotation)
        return x.transpose(1, 2)  # [batch, latent, frames]


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); ``[batch, frames, channels]``."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.pre_norm = LayerNorm(channels)
        self.self_attn = Attention(channels, head_channels)
        self.ff_norm = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.pre_norm(x), rotation)
        return x + self.ff(self.ff_norm(x))


class LayerNorm(nn.Module):
    """Layer normalisation with a learned gain and a constant offset of zero (a saved buffer)."""

    beta: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.register_buffer("beta", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta, eps=1e-5)


class Attention(nn.Module):
    """Full self-attention with rotary positions, ``[batch, frames, channels]`` to the same."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (-1, self.head_channels)).transpose(1, 2)
            for part in self.to_qkv(x).chunk(3, dim=-1)
        )  # each [batch, heads, frames, head channels]
        query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))  # [batch, frames, channels]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): a linear map of value · SiLU(gate)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = FEED_FORWARD_EXPANSION * channels
        # The published numbering leaves index 1 to a layer without parameters.
        self.ff = nn.Sequential(
            SwiGLU(channels, hidden), nn.Identity(), nn.Linear(hidden, channels)
        )
        nn.init.zeros_(self.ff[2].weight)
        nn.init.zeros_(self.ff[2].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class SwiGLU(nn.Module):
    """value · SiLU(gate), both linear maps of the input, value first."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, 2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.silu(gate)


class RotaryEmbedding(nn.Module):
    """Cosines and sines of every frame's rotation angles (Su et al. 2021).

    ``inv_freq`` is a buffer because published files hold it. The angles are computed anew, in
    float32, so that a model kept in half precision still rotates far frames exactly.
    """

    inv_freq: Tensor

    def __init__(self, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.register_buffer("inv_freq", inverse_frequencies(head_channels))

    def forward(self, frames: int) -> tuple[Tensor, Tensor]:
        """Two float32 tables ``[frames, head channels]``: cos, sin."""
        device = self.inv_freq.device
        position = torch.arange(frames, device=device, dtype=torch.float32)
        angles = position[:, None] * inverse_frequencies(self.head_channels).to(device)
        angles = torch.cat((angles, angles), dim=-1)  # [frames, head channels]
        return angles.cos(), angles.sin()


def inverse_frequencies(head_channels: int) -> Tensor:
    """Radians per frame of each rotated pair, ``[head_channels / 2]``: 1 down to nearly 1/base."""
    return ROTARY_BASE ** (-torch.arange(0, head_channels, 2, dtype=torch.float32) / head_channels)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate channel pairs (i, i + half) of ``[…, frames, head channels]`` by the given angles.

    Computed in float32 whatever the precision of ``x``, which is also the result's.
    """
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)
