"""The factors that tools/match_loudness.py sets."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from earvae.model.spectral import fit_codes
from earvae.model.vae import EarVAE
from tests.small import CODED, build, coloured_noise

TOOL = Path(__file__).parents[2] / "tools" / "match_loudness.py"
spec = importlib.util.spec_from_file_location("match_loudness", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture(scope="module")
def vae() -> EarVAE:
    vae = build(CODED)
    fit_codes(vae.encoder, vae.decoder, [coloured_noise(16, 50)], top_hz=22_050)
    return vae


@torch.no_grad()
def test_loudness_is_matched_by_the_median_and_survives_a_file(vae, tmp_path):
    own = copy.deepcopy(vae)
    latents = own.encode(coloured_noise(1, 20, seed=3)).mean
    tool.match_loudness(own.decoder, [-9.0, -6.02, 1.0])  # half the amplitude, in the middle
    torch.testing.assert_close(own.decode(latents), 2 * vae.decode(latents), rtol=1e-3, atol=1e-5)
    tool.match_loudness(own.decoder, [6.02])  # what is measured with the factor in place adds to it
    torch.testing.assert_close(own.decode(latents), vae.decode(latents), rtol=2e-3, atol=1e-5)
    tool.match_loudness(own.decoder, [-0.5])
    own.save_pretrained(tmp_path, dtype=torch.float16)
    assert EarVAE.from_pretrained(tmp_path).decoder.makeup == own.decoder.makeup != 1


@torch.no_grad()
def test_the_residual_alone_is_scaled_and_only_from_a_frequency_up():
    vae = build(CODED)
    fit_codes(vae.encoder, vae.decoder, [coloured_noise(16, 50)], top_hz=5_000)
    transform = vae.encoder.transform
    above = transform.frequencies(44_100) >= 8_000
    latents = vae.encode(coloured_noise(1, 20, seed=4)).mean
    # Inner frames: at the ends, half of the transform's overlap is missing.
    before = transform(vae.decode(latents))[:, 2:-2]
    tool.scale_residual(vae.decoder, -6.0206, from_hz=8_000)
    after = transform(vae.decode(latents))[:, 2:-2]
    torch.testing.assert_close(after[..., above], before[..., above] / 2, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after[..., ~above], before[..., ~above], rtol=1e-3, atol=1e-6)
    assert before[..., above].abs().max() > 1e-3
    with pytest.raises(ValueError, match="not zero above 3000 Hz"):
        tool.scale_residual(vae.decoder, -6.0, from_hz=3_000)
