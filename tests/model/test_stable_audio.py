"""Stable Audio's layout: checkpoints of stable-audio-tools, and folders of diffusers.

Parity is against diffusers' own AutoencoderOobleck with random weights.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from earvae import codec
from earvae.config import ModelConfig, OobleckConfig, parse
from earvae.errors import WeightsError
from earvae.model.diffusers import WEIGHTS_NAME, layer_names
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE
from tests.small import TWO_SNAKES, noise, two_snakes

SMALL = {
    "encoder_hidden_size": 8,
    "downsampling_ratios": [2, 3, 4],
    "channel_multiples": [1, 2, 3],
    "decoder_channels": 8,
    "decoder_input_channels": 4,
    "audio_channels": 2,
    "sampling_rate": 32_000,
}
LAYOUT = TWO_SNAKES | {"sample_rate": 32_000}


def different_snakes(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.normal_(std=0.5)
    return module.eval()


def ours() -> EarVAE:
    return two_snakes(sample_rate=32_000)


def audio(samples: int) -> torch.Tensor:
    return noise(samples, batch=2, seed=1)


def tools_config(**autoencoder) -> dict:
    """The form of stable-audio-tools' config of an autoencoder."""
    shared = {"channels": 8, "c_mults": [1, 2, 3], "strides": [2, 3, 4], "use_snake": True}
    return {
        "model_type": "autoencoder",
        "sample_size": 65_536,
        "sample_rate": 32_000,
        "audio_channels": 2,
        "model": {
            "encoder": {
                "type": "oobleck",
                "requires_grad": False,
                "config": {**shared, "in_channels": 2, "latent_dim": 8},
            },
            "decoder": {
                "type": "oobleck",
                "config": {**shared, "out_channels": 2, "latent_dim": 4, "final_tanh": False},
            },
            "bottleneck": {"type": "vae"},
            "latent_dim": 4,
            "downsampling_ratio": 24,
            "io_channels": 2,
            **autoencoder,
        },
        "training": {"learning_rate": 1e-4},
    }


def saved(folder: Path, state: dict, config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": state}, folder / "model.ckpt")
    if config is not None:
        (folder / "model_config.json").write_text(json.dumps(config))
    return folder


# --------------------------------------------------------------------------- conventions


def test_files_and_identities_of_the_papers_layout_are_what_they_were():
    config = OobleckConfig()
    assert not {"shared_snake", "std_floor"} & json.loads(config.model_dump_json()).keys()
    other = OobleckConfig(**LAYOUT)
    values = json.loads(other.model_dump_json())
    assert (values["shared_snake"], values["std_floor"]) == (False, 1e-4)
    assert parse(ModelConfig, values, "here") == other


def test_two_activations_double_their_parameters_and_keep_their_names():
    one, two = (OobleckConfig(**LAYOUT | {"shared_snake": shared}) for shared in (True, False))
    one_names, two_names = (EarVAE(config).state_dict() for config in (one, two))
    assert {n: t.shape for n, t in one_names.items()} == {n: t.shape for n, t in two_names.items()}
    count = {shared: sum(p.numel() for p in EarVAE(c).parameters())
             for shared, c in ((True, one), (False, two))}  # fmt: skip
    units = 2 * 3 * (8 + 8 + 16)  # encoder and decoder, three units at each of three widths
    assert count[False] - count[True] == 2 * units  # α and β


def test_a_floor_of_the_std_takes_the_place_of_that_of_the_variance():
    posterior = Posterior(torch.full((1, 2, 1), -30.0), std_floor=1e-4)
    assert posterior.std.item() == pytest.approx(1e-4)
    assert posterior.var.item() == pytest.approx(1e-8)
    assert posterior.kl().item() == pytest.approx(900 + 1e-8 - math.log(1e-8) - 1)


def test_saved_and_loaded_again_it_is_the_same(tmp_path):
    vae = ours()
    vae.save_pretrained(tmp_path)
    again = EarVAE.from_pretrained(tmp_path)
    assert again.config == vae.config
    assert again.identity == vae.identity


def test_chunked_equals_whole():
    vae = ours()
    sound = audio(2000)[:1]
    whole, chunked = (codec.encode(vae, sound, frames) for frames in (1000, 7))
    torch.testing.assert_close(chunked.std, whole.std, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        codec.decode(vae, whole.mean, 2000, 7),
        codec.decode(vae, whole.mean, 2000),
        rtol=0,
        atol=1e-5,
    )


# --------------------------------------------------------------------------- stable-audio-tools


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("prefix", ["", "autoencoder.", "pretransform.model."])
def test_checkpoints_of_stable_audio_tools_load(tmp_path, prefix, with_config):
    vae = ours()
    state = {prefix + name: tensor for name, tensor in vae.state_dict().items()}
    if prefix:
        state |= {"discriminator.layers.0.weight": torch.zeros(3), "model.model.x": torch.ones(2)}
    config = tools_config()
    if prefix == "pretransform.model.":
        pretransform = {"type": "autoencoder", "config": config["model"]}
        config |= {"model_type": "diffusion_cond", "model": {"pretransform": pretransform}}
    folder = saved(tmp_path / "model", state, config if with_config else None)
    found = EarVAE.from_pretrained(folder, sample_rate=None if with_config else 32_000)
    assert found.config == vae.config
    assert found.identity == vae.identity


def test_averaged_weights_of_a_training_checkpoint_are_preferred(tmp_path):
    vae = ours()
    averaged = {f"autoencoder_ema.ema_model.{n}": t for n, t in vae.state_dict().items()}
    last = {f"autoencoder.{n}": torch.zeros_like(t) for n, t in vae.state_dict().items()}
    folder = saved(tmp_path / "run", {**last, **averaged, "autoencoder_ema.step": torch.ones(1)})
    assert EarVAE.from_pretrained(folder, sample_rate=32_000).identity == vae.identity


def test_stable_audio_opens_rate_is_known_by_its_stride(tmp_path):
    vae = two_snakes(sample_rate=32_000, strides=(2, 4, 4, 8, 8), multiples=(1, 1, 1, 1, 1))
    folder = saved(tmp_path / "open", vae.state_dict())
    found = EarVAE.from_pretrained(folder)
    assert (found.sample_rate, found.hop_length) == (44_100, 2048)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bottleneck": {"type": "rvq"}}, r"bottleneck\.type"),
        ({"soft_clip": True}, "soft_clip"),
        ({"pretransform": {"type": "patched"}}, "pretransform"),
        ({"encoder": {"type": "dac", "config": {}}}, r"encoder\.type"),
        ({"downsampling_ratio": 2048}, "says downsampling_ratio = 2048, but .* holds 24"),
    ],
)
def test_other_kinds_of_autoencoders_are_refused_by_key(tmp_path, change, complaint):
    folder = saved(tmp_path / "other", ours().state_dict(), tools_config(**change))
    with pytest.raises(WeightsError, match=complaint):
        EarVAE.from_pretrained(folder)


# --------------------------------------------------------------------------- diffusers


@pytest.fixture(scope="module")
def oobleck():
    diffusers = pytest.importorskip("diffusers", reason="parity needs the package diffusers")
    return diffusers.AutoencoderOobleck


@pytest.fixture
def theirs(oobleck, tmp_path):
    """A random AutoencoderOobleck and the folder it is saved in."""
    torch.manual_seed(0)
    model = different_snakes(oobleck(**SMALL))
    model.save_pretrained(tmp_path / "vae")
    return model, tmp_path / "vae"


def assert_same_model(vae: EarVAE, model) -> None:
    """Posterior, its KL divergence, and decoded audio agree to float rounding."""
    sound = audio(240)
    with torch.no_grad():
        expected = model.encode(sound).latent_dist
        posterior = vae.encode(sound)
        latents = expected.mode()
        decoded = model.decode(latents).sample
        ours = vae.decode(latents)[..., : decoded.shape[2]]
    for one, other in (
        (posterior.mean, expected.mean),
        (posterior.std, expected.std),
        (posterior.kl(), expected.kl()),
        (ours, decoded),
    ):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_a_folder_of_diffusers_loads_and_computes_the_same(theirs):
    model, folder = theirs
    vae = EarVAE.from_pretrained(folder)
    assert vae.config == OobleckConfig(**LAYOUT)
    assert_same_model(vae, model)


def test_a_pipeline_folder_gives_its_vae(theirs):
    _, folder = theirs
    assert EarVAE.from_pretrained(folder.parent).identity == EarVAE.from_pretrained(folder).identity


def test_equal_activations_are_taken_as_one(oobleck, tmp_path):
    torch.manual_seed(0)
    model = different_snakes(oobleck(**SMALL))
    state = model.state_dict()
    for name in state:
        if ".snake2." in name:
            state[name].copy_(state[name.replace(".snake2.", ".snake1.")])
    model.save_pretrained(tmp_path)
    vae = EarVAE.from_pretrained(tmp_path)
    assert vae.config.shared_snake
    assert_same_model(vae, model)


def test_other_weight_norm_namings_load(theirs):
    _, folder = theirs
    expected = EarVAE.from_pretrained(folder)
    path = folder / WEIGHTS_NAME
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(renamed, path, {"format": "pt"})
    assert EarVAE.from_pretrained(folder).identity == expected.identity


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.layers.0", "encoder.conv1"),
        ("encoder.layers.3.layers.2.layers.2", "encoder.block.2.res_unit3.snake2"),
        ("encoder.layers.1.layers.3", "encoder.block.0.snake1"),
        ("encoder.layers.5.layers.4", "encoder.block.4.conv1"),
        ("encoder.layers.6", "encoder.snake1"),
        ("encoder.layers.7", "encoder.conv2"),
        ("decoder.layers.1.layers.1", "decoder.block.0.conv_t1"),
        ("decoder.layers.2.layers.2.layers.3", "decoder.block.1.res_unit1.conv2"),
        ("decoder.layers.7", "decoder.conv2"),
    ],
)
def test_names_in_diffusers_words(name, expected):
    assert layer_names(blocks=5)[name] == expected


def stated(folder: Path, **changes) -> None:
    """Change the ``config.json`` of a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"decoder_channels": 16}, "encoder_hidden_size and decoder_channels differ"),
        ({"decoder_input_channels": 5}, "is not twice decoder_input_channels"),
        ({"act_fn": "silu"}, r"config\.json: act_fn"),
        ({"downsampling_ratios": [1, 3, 4]}, r"config\.json: .*strides must be at least 2"),
        ({"downsampling_ratios": [2, 3, 5]}, r"is \[\d.*\] instead of \["),
    ],
)
def test_folders_that_cannot_be_ours_are_refused_by_key(theirs, changes, complaint):
    _, folder = theirs
    stated(folder, **changes)
    with pytest.raises(WeightsError, match=complaint):
        EarVAE.from_pretrained(folder)


def test_partial_weights_and_other_rates_are_refused(theirs):
    _, folder = theirs
    with pytest.raises(WeightsError, match="says 32000 Hz, but 44100"):
        EarVAE.from_pretrained(folder, sample_rate=44_100)
    state = load_file(folder / WEIGHTS_NAME)
    del state["encoder.conv1.bias"]
    save_file(state, folder / WEIGHTS_NAME)
    with pytest.raises(WeightsError, match=r"1 of \d+ names missing \(encoder\.layers\.0"):
        EarVAE.from_pretrained(folder)
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(WeightsError, match=f"no {WEIGHTS_NAME}"):
        EarVAE.from_pretrained(folder)
