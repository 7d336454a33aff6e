"""A small model with context on both sides, and generated music."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from earvae.library.plan import Geometry
from earvae.library.settings import Settings
from earvae.model.vae import EarVAE
from tests.small import RATE, compact

HOP = 64


def small_model(seed: int = 0) -> EarVAE:
    """4 ms frames, 8 latents, a context of 5 frames, random weights."""
    vae = compact(seed, expansion=2, kernel=3, encoder_blocks=3)
    for parameter in vae.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return vae


def geometry_of(vae: EarVAE, **changes) -> Geometry:
    """Batches of about three files of a tenth of a second; windows of a third of a second."""
    context = vae.encoder.context_frames
    chosen = Geometry(budget=240, longest=220, context=context, padding=0.2)
    return replace(chosen, **changes)


def settings_of(vae: EarVAE, **changes) -> Settings:
    chosen = Settings(
        model=vae.identity,
        sample_rate=vae.sample_rate,
        hop_length=vae.hop_length,
        latent_channels=vae.latent_channels,
    )
    return replace(chosen, **changes)


def write_music(path: Path, samples: int, seed: int, rate: int = RATE, channels: int = 2) -> Path:
    """Noise that falls off with frequency; FLAC or WAV."""
    random = np.random.default_rng(seed)
    audio = np.cumsum(random.standard_normal((samples, channels)), axis=0)
    audio -= np.linspace(audio[0], audio[-1], samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * audio / np.abs(audio).max(), rate)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is a result, but for the summary (which tells times)."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name != "summary.json"
    }
