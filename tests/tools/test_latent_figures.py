"""Figures of latents, on latents whose figures are known, and on a decoder that is a sum."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "latent_figures.py"
spec = importlib.util.spec_from_file_location("latent_figures", TOOL)
tool = sys.modules["latent_figures"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_statistics_are_those_of_known_laws():
    """A uniform law has an excess kurtosis of -1.2, an exponential one of both signs 3; a sequence
    that keeps 0.9 of its last value is correlated by that with the next."""
    torch.manual_seed(0)
    frames = 200_000
    uniform = 5 + 2 * torch.rand(2, frames)
    laplace = torch.distributions.Laplace(-1.0, 1.0).sample((2, frames))
    kept = torch.zeros(2, frames)
    steps = math.sqrt(1 - 0.9**2) * torch.randn(frames, 2)
    value = torch.zeros(2)
    for frame in range(0, frames):
        value = 0.9 * value + steps[frame]
        kept[:, frame] = value
    found = tool.statistics(torch.stack([uniform, laplace, kept], dim=1))
    assert found["mean"].tolist() == pytest.approx([6, -1, 0], abs=0.03)
    assert found["spread"].tolist() == pytest.approx([2 / math.sqrt(12), math.sqrt(2), 1], abs=0.02)
    assert found["kurtosis"].tolist() == pytest.approx([-1.2, 3, 0], abs=0.2)
    assert found["next frame"].tolist() == pytest.approx([0, 0, 0.9], abs=0.01)


class Summed:
    """Two latents: one is heard in both ears, the other as good as not."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        heard = latents[:, :1] + 1e-3 * latents[:, 1:]
        return torch.cat([heard, -heard], dim=1)


def test_noise_costs_where_it_is_heard():
    torch.manual_seed(1)
    latents = torch.randn(2, 50_000)
    audio = Summed().decode(latents[None])[0]
    audio = audio + 0.1 * torch.randn(2, 50_000)  # 20 dB below
    each, together = tool.costs(Summed(), audio, latents, 0.1 * torch.randn(2, 50_000))
    assert each.tolist() == pytest.approx([10 * math.log10(2), 0], abs=0.05)  # as much again
    assert together == pytest.approx(each[0].item(), abs=0.05)
