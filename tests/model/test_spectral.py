import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from earvae.config import SpectralConfig
from earvae.model.spectral import (
    PROTECTED_SHARE,
    fit_codes,
    local_level,
    match_loudness,
    scale_residual,
)
from earvae.model.vae import WEIGHTS_NAME, EarVAE
from tests.small import build, spectral_config

SMALL = spectral_config(
    hop_length=128, mdct_length=64, latent_channels=16, linear_channels=10, linear_classes=6,
    linear_subspace=40, width=16, expansion=2, encoder_blocks=2, decoder_blocks=2, level_frames=5,
)  # fmt: skip


def coloured_noise(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Stereo noise that falls off towards the treble, as music does."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 2, frames * 128 + 63, generator=generator)
    return torch.nn.functional.avg_pool1d(noise, 64, stride=1) * 0.5 + 0.01 * noise[..., 63:]


@pytest.fixture(scope="module")
def vae() -> EarVAE:
    vae = build(SMALL)
    fit_codes(vae.encoder, vae.decoder, [coloured_noise(16, 50)], top_hz=22_050)
    return vae


@torch.no_grad()
def test_the_linear_code_is_in_the_first_latents_untouched(vae):
    audio = coloured_noise(2, 20, seed=1)
    linear, chosen = vae.encoder.code.encode(vae.encoder.transform(audio))
    expected = torch.cat([linear, vae.encoder.code.tell(chosen)], dim=2).transpose(1, 2)
    torch.testing.assert_close(vae.encode(audio).mean[:, :12], expected)


@torch.no_grad()
def test_the_residual_never_touches_the_bins_the_linear_code_keeps(vae):
    audio = coloured_noise(2, 20, seed=1)
    latents = vae.encode(audio).mean
    latents[:, 12:] += 3  # whatever the learned latents say
    code = vae.encoder.code
    frames = vae.encoder.transform(vae.decode(latents))
    chosen = code.read(latents[:, 10:12].transpose(1, 2))
    linear = code.decode(latents[:, :10].transpose(1, 2), chosen)
    own = (chosen @ (code.explained >= PROTECTED_SHARE).float()) > 0  # [batch, frames, features]
    assert own.any() and not own.all()
    torch.testing.assert_close(frames[own], linear[own], atol=1e-4, rtol=0)
    assert (frames - linear)[~own].abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("gain", [0.01, 10.0])
def test_a_louder_input_is_the_same_music_louder(vae, gain):
    audio = coloured_noise(1, 30, seed=2)
    quiet, loud = vae.encode(audio).mean, vae.encode(audio * gain).mean
    torch.testing.assert_close(loud[:, :10], quiet[:, :10] * gain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(loud[:, 10:12], quiet[:, 10:12])
    torch.testing.assert_close(loud[:, 12:], quiet[:, 12:], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(
        vae.decode(loud) / gain, vae.decode(quiet), rtol=0, atol=1e-2 * float(audio.abs().max())
    )


@torch.no_grad()
def test_silence_gives_silence(vae):
    audio = torch.zeros(1, 2, 128 * 30)
    assert vae.decode(vae.encode(audio).mode()).abs().max() < 1e-4  # -80 dBFS


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_nothing_reaches_further_than_context_frames(vae, part):
    module, frame = getattr(vae, part), 20
    if part == "encoder":
        probe = coloured_noise(1, 41).requires_grad_()
        output = module(probe)[0, :, frame].square().sum()
        touched = torch.autograd.grad(output, probe)[0].reshape(2, 41, 128).abs().amax((0, 2))
        # A choice has no gradient: that of a class reaches further by what it looks at.
        further = SMALL.class_frames // 2
    else:
        probe = torch.randn(1, 16, 41, requires_grad=True)
        output = module(probe)[..., frame * 128 : (frame + 1) * 128].square().sum()
        touched = torch.autograd.grad(output, probe)[0][0].abs().amax(0)
        further = 0
    reached = touched.nonzero().flatten()
    assert reached.min() == frame - module.context_frames + further
    assert reached.max() == frame + module.context_frames - further


@torch.no_grad()
def test_a_class_reaches_no_further_than_context_frames(vae):
    """Frames of other music are put further and further away from one frame."""
    frame, changed = 20, []
    context = vae.encoder.context_frames
    for distance in range(1, context + 3):
        differences = []
        for seed in range(8):
            audio, other = coloured_noise(1, 41), coloured_noise(1, 41, seed=seed + 9).flip(1)
            audio[..., (frame + distance) * 128 :] = 30 * other[..., (frame + distance) * 128 :]
            ours = vae.encoder(audio)[..., frame]
            differences.append((ours - vae.encoder(coloured_noise(1, 41))[..., frame]).abs().max())
        changed.append(float(max(differences)) > 1e-4)
    assert changed[0] and not any(changed[context:])


def test_local_level_of_steady_latents_is_their_rms():
    latents = torch.full((1, 9, 4), 3.0)
    assert local_level(latents, 3)[0, 4, 0] == pytest.approx(3.0, rel=1e-6)


def test_the_default_stays_within_sixteen_million_parameters():
    with torch.device("meta"):
        vae = EarVAE(SpectralConfig())
    assert sum(p.numel() for p in vae.parameters()) <= 16_000_000


@torch.no_grad()
def test_loudness_is_matched_by_the_median_and_survives_a_file(vae, tmp_path):
    own = copy.deepcopy(vae)
    latents = own.encode(coloured_noise(1, 20, seed=3)).mean
    match_loudness(own.decoder, [-9.0, -6.02, 1.0])  # half the amplitude, in the middle
    torch.testing.assert_close(own.decode(latents), 2 * vae.decode(latents), rtol=1e-3, atol=1e-5)
    match_loudness(own.decoder, [6.02])  # what is measured with the factor in place adds to it
    torch.testing.assert_close(own.decode(latents), vae.decode(latents), rtol=2e-3, atol=1e-5)
    match_loudness(own.decoder, [-0.5])
    own.save_pretrained(tmp_path, dtype=torch.float16)
    assert EarVAE.from_pretrained(tmp_path).decoder.makeup == own.decoder.makeup != 1


def test_weights_from_before_the_loudness_factor_have_none(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS_NAME)
    del weights["decoder.makeup"]
    save_file(weights, tmp_path / WEIGHTS_NAME)
    assert EarVAE.from_pretrained(tmp_path).decoder.makeup == 1


@torch.no_grad()
def test_the_residual_alone_is_scaled_and_only_from_a_frequency_up():
    vae = build(SMALL)
    fit_codes(vae.encoder, vae.decoder, [coloured_noise(16, 50)], top_hz=5_000)
    transform = vae.encoder.transform
    above = transform.frequencies(44_100) >= 8_000
    latents = vae.encode(coloured_noise(1, 20, seed=4)).mean
    # Inner frames: at the ends, half of the transform's overlap is missing.
    before = transform(vae.decode(latents))[:, 2:-2]
    scale_residual(vae.decoder, -6.0206, from_hz=8_000)
    after = transform(vae.decode(latents))[:, 2:-2]
    torch.testing.assert_close(after[..., above], before[..., above] / 2, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after[..., ~above], before[..., ~above], rtol=1e-3, atol=1e-6)
    assert before[..., above].abs().max() > 1e-3
    with pytest.raises(ValueError, match="not zero above 3000 Hz"):
        scale_residual(vae.decoder, -6.0, from_hz=3_000)


@torch.no_grad()
def test_nothing_of_the_bass_is_heard_above_the_linear_codes_band():
    vae = build(SMALL)
    fit_codes(vae.encoder, vae.decoder, [coloured_noise(16, 50)], top_hz=5_000)
    vae.decoder.gain.bias.fill_(-100)  # no residual
    spectrum = vae.encoder.transform(vae.decode(vae.encode(coloured_noise(1, 20, seed=4)).mean))
    above = vae.encoder.transform.frequencies(44_100) >= 5_000
    assert spectrum[..., ~above].abs().max() > 0.1
    assert spectrum[..., above].abs().max() < 1e-5 * spectrum.abs().max()
