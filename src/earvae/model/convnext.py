"""ConvNeXt blocks (Liu et al. 2022) over latent frames, for the compact model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import CompactConfig

FIRST_LAYER_SCALE = 0.3


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution in time, then a pointwise MLP, with layer scale."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        # A 2-D convolution over [batch, width, frames, 1] in channels-last memory: the same
        # numbers as a 1-D one, several times faster on CPUs, and no transposition.
        self.depthwise = nn.Conv2d(
            width, width, (kernel, 1), padding=(kernel // 2, 0), groups=width
        )
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), FIRST_LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, frames, width]`` to the same shape."""
        y = self.depthwise(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        y = self.contract(F.gelu(self.expand(self.norm(y)), approximate="tanh"))
        return x + self.scale * y


def convnext_blocks(config: CompactConfig, count: int) -> nn.Sequential:
    """``count`` blocks of the configured width, one after another."""
    hidden = config.width * config.expansion
    return nn.Sequential(
        *(ConvNeXtBlock(config.width, hidden, config.kernel) for _ in range(count))
    )
