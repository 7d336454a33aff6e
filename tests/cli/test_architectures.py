"""The verbs with a model of each architecture of ours, from its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from earvae import EarVAE, codec
from tests.small import build, compact_config, earvae2_config, load


@pytest.fixture(params=[compact_config(), earvae2_config()], ids=lambda made: made.architecture)
def vae(request, tmp_path) -> EarVAE:
    """A small model of the architecture, saved as the folder ``model``."""
    build(request.param).save_pretrained(tmp_path / "model")
    return EarVAE.from_pretrained(tmp_path / "model")


def test_encode_and_decode_and_reconstruct_give_what_the_codec_gives(tmp_path, earvae, music, vae):
    source = music(tmp_path / "a.wav", vae.sample_rate, subtype="FLOAT")
    model = ("--weights", tmp_path / "model")
    latents = tmp_path / "a.safetensors"
    for command in (
        ("encode", source, "-o", latents),
        ("decode", latents, "-o", tmp_path / "d.wav"),
        ("reconstruct", source, "-o", tmp_path / "r.wav"),
    ):
        result = earvae(*command, *model)
        assert result.exit_code == 0, result.output
    audio, _ = load(source)
    expected = codec.reconstruct(vae, torch.from_numpy(audio).float()[None])[0].numpy()
    for name in ("d.wav", "r.wav"):
        found, rate = load(tmp_path / name)
        assert rate == vae.sample_rate and found.shape == expected.shape
        assert np.abs(found - expected).max() < 2e-4  # 16 bits and their dither


def test_info_names_the_architecture_and_the_model(tmp_path, earvae, vae):
    found = json.loads(earvae("info", tmp_path / "model", "--json").stdout)
    assert (found["architecture"], found["identity"]) == (vae.config.architecture, vae.identity)
    assert ("refiner_millions" in found) == (vae.config.architecture == "earvae2")
    assert (found["hop_length"], found["latent_channels"]) == (vae.hop_length, vae.latent_channels)
