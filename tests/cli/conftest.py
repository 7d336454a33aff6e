"""A model whose result is known: it packs samples into latents and unpacks them again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from typer.testing import CliRunner

from earvae.cli import options
from earvae.cli.main import app


class _Pack(nn.Module):
    """Audio ``[b, 2, frames·hop]`` to ``[b, 4·hop, frames]``: the samples, and a tiny spread."""

    context_frames = 0

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.device = nn.Parameter(torch.zeros(1))

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        mean = audio.unfold(2, self.hop, self.hop).permute(0, 1, 3, 2).flatten(1, 2)
        return torch.cat([mean, torch.full_like(mean, -5.0)], dim=1)


class _Unpack(nn.Module):
    """The reverse, times ``gain``."""

    context_frames = 0
    tail_deficit = 0

    def __init__(self, hop: int, gain: float) -> None:
        super().__init__()
        self.hop = hop
        self.gain = gain

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.gain * latents.unflatten(1, (2, self.hop)).transpose(2, 3).flatten(2)


class PackingVAE(nn.Module):
    """A codec that is the identity times ``gain``, at 44.1 kHz: what goes in must come out."""

    sample_rate = 44_100
    engine, precision = "plain", "fp32"  # as of a model prepared for inference

    def __init__(self, hop: int = 16, gain: float = 1.0, identity: str = "packing") -> None:
        super().__init__()
        self.config = SimpleNamespace(audio_channels=2, std_floor=0.0)
        self.hop_length = hop
        self.latent_channels = 2 * hop
        self.identity = identity
        self.transformers = None
        self.encoder = _Pack(hop)
        self.decoder = _Unpack(hop, gain)

    def check_audio(self, audio: torch.Tensor) -> None:
        """Anything can be encoded."""

    def check_latents(self, latents: torch.Tensor) -> None:
        """Anything can be decoded."""


@pytest.fixture
def use_model(monkeypatch):
    """Call it to make every verb use a packing model."""

    def use(**how) -> PackingVAE:
        vae = PackingVAE(**how)
        monkeypatch.setattr(options, "inference_model", lambda *_: vae)
        return vae

    use()
    return use


@pytest.fixture
def earvae():
    """Run the command; its result, after checking that it met no fault of its own."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert "a fault in earvae" not in result.stderr, result.stderr
        return result

    return run


@pytest.fixture
def music():
    """Write a band-limited stereo, mono or multichannel file; its path."""

    def write(path: Path, rate: int = 44_100, channels: int = 2, samples: int = 30_001, **how):
        t = np.arange(samples) / rate
        tones = [0.3 * np.sin(2 * np.pi * (300 + 170 * c) * t + c) for c in range(channels)]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.array(tones).T, rate, **how)
        return path

    return write
