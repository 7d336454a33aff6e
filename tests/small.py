"""Small models, signals and sound files: the one place where tests make them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from earvae import EarVAE
from earvae.config import (
    CompactConfig,
    EarVAE2Config,
    ModelConfig,
    OobleckConfig,
    RefinerConfig,
)

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
CLIPS = TESTS / "clips"
RATE = 44_100

# --------------------------------------------------------------------------- models

_FRAMES = {
    "latent_channels": 8,
    "hop_length": 64,
    "width": 8,
    "encoder_blocks": 1,
    "decoder_blocks": 1,
}
_CONVOLUTIONS = {"latent_channels": 4, "channels": 4, "multiples": (1, 2), "strides": (2, 3)}
TWO_SNAKES = {
    "channels": 8,
    "latent_channels": 4,
    "multiples": (1, 2, 3),
    "strides": (2, 3, 4),
    "transformer": None,
    "shared_snake": False,
    "std_floor": 1e-4,
}  # Stable Audio's layout, in small


def compact_config(**changes) -> CompactConfig:
    """The compact architecture, with a hop of 64 and eight latents."""
    return CompactConfig(
        **_FRAMES | {"short_length": 16, "split_hz": 4000.0, "tones_hz": 8000.0} | changes
    )


def oobleck_config(**changes) -> OobleckConfig:
    """The paper's architecture, with a hop of 6 and four latents, without its transformer."""
    return OobleckConfig(**_CONVOLUTIONS | {"transformer": None} | changes)


def earvae2_config(**changes) -> EarVAE2Config:
    """εar-VAE2 in the least width, with a small refiner; its rate and hop are what they are."""
    refiner = RefinerConfig(width=8, hidden=8, blocks=1)
    least = {"channels": 1, "latent_channels": 4, "refiner": refiner}
    return EarVAE2Config(**least | changes)


def build(config: ModelConfig, seed: int = 0) -> EarVAE:
    """A model with random weights, for inference; the same for the same seed."""
    torch.manual_seed(seed)
    return EarVAE(config).eval()


def compact(seed: int = 0, **changes) -> EarVAE:
    """A model of ``compact_config(**changes)``."""
    return build(compact_config(**changes), seed)


def oobleck(seed: int = 0, **changes) -> EarVAE:
    """A model of ``oobleck_config(**changes)``."""
    return build(oobleck_config(**changes), seed)


def earvae2(seed: int = 0, **changes) -> EarVAE:
    """A model of ``earvae2_config(**changes)`` whose refiner does something."""
    vae = build(earvae2_config(**changes), seed)
    if vae.decoder.refiner is not None:
        torch.nn.init.normal_(vae.decoder.refiner.out.weight, std=0.1)
    return vae


def two_snakes(**changes) -> EarVAE:
    """A model in Stable Audio's layout, every activation different from the next."""
    vae = build(OobleckConfig(**TWO_SNAKES | changes))
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.normal_(std=0.5)
    return vae


def golden(name: str) -> EarVAE:
    """One of the published layout's small models, such as ``tiny44k``."""
    return EarVAE.from_pretrained(GOLDEN / f"{name}_state_dict.safetensors")


def model(name: str) -> EarVAE:
    """``shipped``, ``two_snakes``, ``compact`` or the name of a golden one."""
    named = {"shipped": EarVAE.from_pretrained, "two_snakes": two_snakes, "compact": compact}
    return named[name]() if name in named else golden(name)


# --------------------------------------------------------------------------- signals


def noise(samples: int, batch: int = 1, seed: int | None = None) -> Tensor:
    """White noise of RMS 0.2, ``[batch, 2, samples]``, the same for the same length (or seed)."""
    generator = torch.Generator().manual_seed(samples if seed is None else seed)
    return 0.2 * torch.randn(batch, 2, samples, generator=generator)


def clip(name: str, samples: int = -1, start: int = 0) -> Tensor:
    """A stretch of one of the shipped clips, ``[2, samples]``; all of it without ``samples``."""
    audio, _ = soundfile.read(CLIPS / f"{name}.flac", samples, start, dtype="float32")
    return torch.from_numpy(audio.T.copy())


def white(seconds: float, channels: int = 2, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """White noise of RMS 0.1 within ±0.5, ``[samples, channels]`` as files have it."""
    random = np.random.default_rng(seed)
    audio = 0.1 * random.standard_normal((int(seconds * rate), channels)).clip(-5, 5)
    return audio.astype(np.float32)


def tones(seconds: float, channels: int = 2, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Five tones at random, alike in all channels, over some noise, ``[samples, channels]``."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    audio = sum(np.sin(2 * np.pi * f * time) for f in random.uniform(80, 4000, 5))[:, None] * 0.05
    return audio + 0.02 * random.standard_normal((len(time), channels))


def deviation(ours, expected) -> float:
    """The largest difference over the largest expected magnitude; shapes must agree."""
    ours, expected = (
        value.detach() if isinstance(value, Tensor) else torch.from_numpy(value)
        for value in (ours, expected)
    )
    assert ours.shape == expected.shape
    return float((ours - expected).abs().max() / expected.abs().max())


# --------------------------------------------------------------------------- files


def load(path: Path) -> tuple[np.ndarray, int]:
    """A sound file's audio ``[channels, samples]`` and rate."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return audio.T, rate
