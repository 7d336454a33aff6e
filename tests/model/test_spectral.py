import pytest
import torch

from earvae.config import SpectralConfig
from earvae.model.spectral import PROTECTED_SHARE, fit_codes, local_level
from earvae.model.vae import EarVAE
from tests.small import CODED, build, coloured_noise


@pytest.fixture(scope="module")
def vae() -> EarVAE:
    vae = build(CODED)
    fit_codes(vae.encoder, vae.decoder, [coloured_noise(16, 50)], top_hz=22_050)
    return vae


@torch.no_grad()
def test_the_linear_code_is_in_the_first_latents_untouched(vae):
    audio = coloured_noise(2, 20, seed=1)
    linear, chosen = vae.encoder.code.encode(vae.encoder.transform(audio))
    expected = torch.cat([linear, vae.encoder.code.points_of(chosen)], dim=2).transpose(1, 2)
    torch.testing.assert_close(vae.encode(audio).mean[:, :12], expected)


@torch.no_grad()
def test_the_residual_never_touches_the_bins_the_linear_code_keeps(vae):
    audio = coloured_noise(2, 20, seed=1)
    latents = vae.encode(audio).mean
    latents[:, 12:] += 3  # whatever the learned latents say
    code = vae.encoder.code
    frames = vae.encoder.transform(vae.decode(latents))
    chosen = code.nearest(latents[:, 10:12].transpose(1, 2))
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
    else:
        probe = torch.randn(1, 16, 41, requires_grad=True)
        output = module(probe)[..., frame * 128 : (frame + 1) * 128].square().sum()
        touched = torch.autograd.grad(output, probe)[0][0].abs().amax(0)
    reached = touched.nonzero().flatten()
    assert reached.min() == frame - module.context_frames
    assert reached.max() == frame + module.context_frames


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
def test_nothing_of_the_bass_is_heard_above_the_linear_codes_band():
    vae = build(CODED)
    fit_codes(vae.encoder, vae.decoder, [coloured_noise(16, 50)], top_hz=5_000)
    vae.decoder.gain.bias.fill_(-100)  # no residual
    spectrum = vae.encoder.transform(vae.decode(vae.encode(coloured_noise(1, 20, seed=4)).mean))
    above = vae.encoder.transform.frequencies(44_100) >= 5_000
    assert spectrum[..., ~above].abs().max() > 0.1
    assert spectrum[..., above].abs().max() < 1e-5 * spectrum.abs().max()
