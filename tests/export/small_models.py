"""Models to export, and noise to send through them."""

from __future__ import annotations

from pathlib import Path

import torch

from earvae import EarVAE
from earvae.config import CompactConfig, OobleckConfig

GOLDEN = Path(__file__).parents[1] / "golden"


def model(name: str) -> EarVAE:
    """The shipped model, a golden one, or one with random weights: of Stable Audio's layout, or of
    the compact architecture."""
    if name == "shipped":
        return EarVAE.from_pretrained()
    if name == "two_snakes":
        return two_snakes()
    if name == "compact":
        return EarVAE(CompactConfig(hop_length=64, mdct_length=32, latent_channels=8, width=8))
    return EarVAE.from_pretrained(GOLDEN / f"{name}_state_dict.safetensors")


def two_snakes(**changes) -> EarVAE:
    """Random weights in Stable Audio's layout, every activation different from the next."""
    torch.manual_seed(0)
    values = {
        "channels": 8,
        "latent_channels": 4,
        "multiples": (1, 2, 3),
        "strides": (2, 3, 4),
        "transformer": None,
        "shared_snake": False,
        "std_floor": 1e-4,
    }
    vae = EarVAE(OobleckConfig(**(values | changes))).eval()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.normal_(std=0.5)
    return vae


def noise(samples: int, batch: int = 1) -> torch.Tensor:
    """``[batch, 2, samples]``, the same for the same length."""
    generator = torch.Generator().manual_seed(samples)
    return 0.2 * torch.randn(batch, 2, samples, generator=generator)


def deviation(ours, expected) -> float:
    """Largest difference over the largest expected magnitude; shapes must agree."""
    ours, expected = (
        value.detach() if isinstance(value, torch.Tensor) else torch.from_numpy(value)
        for value in (ours, expected)
    )
    assert ours.shape == expected.shape
    return float((ours - expected).abs().max() / expected.abs().max())
