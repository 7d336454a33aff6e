"""The interfaces of other frameworks: same numbers as the model's own, in whole frames."""

import json
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from earvae import EarVAE
from earvae.adapters import stable_audio, whole_frames
from earvae.adapters.diffusers import DiffusersVAE
from tests.small import compact, earvae2, golden, noise

MODELS = {
    "compact": compact(),
    "48k": golden("tiny48k"),
    "earvae2": earvae2(),
}


@pytest.fixture(params=MODELS)
def vae(request):
    return MODELS[request.param]


def near(ours, expected):
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
def test_chunks_of_whole_frames_are_the_models_own_numbers(vae):
    """With odd strides too, where the codec takes a frame more."""
    audio = noise(40 * vae.hop_length - 5, 2)
    posterior = whole_frames.encode(vae, audio, 17)
    near(posterior.parameters, vae.encode(audio).parameters)
    near(whole_frames.decode(vae, posterior.mode(), 17), vae.decode(posterior.mode()))


def test_a_gradient_reaches_latents(vae):
    latents = torch.randn(1, vae.latent_channels, 3, requires_grad=True)
    whole_frames.decode(vae, latents).square().sum().backward()
    assert latents.grad.abs().max() > 0


@torch.no_grad()
def test_what_diffusers_pipelines_ask_for(vae):
    theirs = DiffusersVAE(vae)
    audio = noise(10 * vae.hop_length)
    assert theirs.sampling_rate == theirs.config.sampling_rate == vae.sample_rate
    assert torch.tensor(theirs.config["downsampling_ratios"]).prod() == theirs.hop_length
    assert theirs.config.get("scaling_factor") is None and theirs.config.audio_channels == 2
    latents = theirs.encode(audio).latent_dist.mode()
    assert latents.shape == (1, theirs.config.decoder_input_channels, 10)
    (again,) = theirs.encode(audio, return_dict=False)
    assert torch.equal(again.mode(), latents)
    assert torch.equal(theirs.decode(latents, return_dict=False)[0], theirs.decode(latents).sample)
    near(theirs(audio).sample, vae.decode(vae.encode(audio).mode()))
    first, second = (
        theirs(audio, sample_posterior=True, generator=torch.Generator().manual_seed(1)).sample
        for _ in range(2)
    )
    assert torch.equal(first, second) and not torch.equal(first, theirs(audio).sample)
    assert theirs.double().dtype == torch.float64 and theirs.float().device.type == "cpu"


@torch.no_grad()
def test_what_stable_audio_tools_asks_of_a_pretransform(vae):
    theirs = stable_audio.EarVAEPretransform(vae, sample=False)
    assert (theirs.io_channels, theirs.encoded_channels) == (2, vae.latent_channels)
    assert theirs.downsampling_ratio == vae.hop_length and theirs.scale == 1
    assert not theirs.is_discrete and not theirs.enable_grad
    audio = noise(10 * vae.hop_length, 2)
    latents = theirs.encode(audio)
    near(latents, vae.encode(audio).mode())
    near(theirs.decode(latents), vae.decode(latents))
    drawn = stable_audio.EarVAEPretransform(vae).encode(audio)
    assert drawn.shape == latents.shape and not torch.equal(drawn, latents)
    theirs.load_state_dict(vae.state_dict())


@torch.no_grad()
def test_normalised_latents_have_the_statistics_taken_off_and_put_back(tmp_path):
    compact().save_pretrained(tmp_path)
    vae = EarVAE.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="earvae stats LATENTS --write MODEL"):
        stable_audio.EarVAEPretransform(vae, normalise=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"latents_mean": [0.5] * 8, "latents_std": [2.0] * 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vae = EarVAE.from_pretrained(tmp_path)
    theirs, audio = stable_audio.EarVAEPretransform(vae, False, True), noise(640)
    near(theirs.encode(audio), (vae.encode(audio).mode() - 0.5) / 2)
    near(theirs.decode(theirs.encode(audio)), vae.decode(vae.encode(audio).mode()))
    assert DiffusersVAE(vae).config.latents_std == (2.0,) * 8


def test_their_configurations_can_name_it(tmp_path, monkeypatch):
    """With stand-ins of two of their modules, of which one has imported the other's function."""

    def original(config, sample_rate):
        return "theirs"

    factory, user = (ModuleType(f"stable_audio_tools.models.{n}") for n in ("factory", "diffusion"))
    for module in (factory, user):
        module.create_pretransform_from_config = original
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("stable_audio_tools", "stable_audio_tools.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    stable_audio.register()
    stable_audio.register()
    compact().save_pretrained(tmp_path)
    named = {"type": "earvae", "config": {"weights": str(tmp_path), "sample": False}}
    for module in (factory, user):
        assert module.create_pretransform_from_config({"type": "wavelet"}, 44_100) == "theirs"
        made = module.create_pretransform_from_config(named, 44_100)
        assert isinstance(made, nn.Module) and not made.sample
        assert made.vae.identity == compact().identity
    with pytest.raises(ValueError, match="is for 44100 Hz, the configuration says .*: 48000"):
        factory.create_pretransform_from_config(named, 48_000)
