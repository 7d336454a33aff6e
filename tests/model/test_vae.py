"""Loading, saving and the public surface of EarVAE."""

import json
import shutil
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from earvae import codec
from earvae.config import OobleckConfig
from earvae.errors import WeightsError
from earvae.model.oobleck import OobleckDecoder, OobleckEncoder
from earvae.model.pretrained import SHIPPED
from earvae.model.transformer import LatentTransformer
from earvae.model.vae import EarVAE
from tests.small import GOLDEN, compact


@pytest.fixture
def small() -> EarVAE:
    return compact()


@pytest.mark.parametrize("name", ["tiny44k", "tiny44k_no_transformer", "tiny48k", "tiny48k_v2"])
@pytest.mark.parametrize("with_config", [True, False])
@torch.no_grad()
def test_published_models_give_the_published_codes_numbers(name, with_config, tmp_path):
    shutil.copy(GOLDEN / f"{name}_state_dict.safetensors", tmp_path / f"{name}.safetensors")
    if with_config:
        shutil.copy(GOLDEN / f"{name}_config.json", tmp_path / f"{name}.json")
    vae = EarVAE.from_pretrained(tmp_path / f"{name}.safetensors")
    assert vae.sample_rate == (48_000 if "48k" in name else 44_100)
    golden = load_file(GOLDEN / f"{name}_io.safetensors")
    posterior = vae.encode(golden["audio"])
    decoded = vae.decode(golden["latents"])
    existing = golden["decoded"].shape[-1]
    assert decoded.shape[-1] == golden["latents"].shape[-1] * vae.hop_length
    for ours, theirs in (
        (posterior.parameters, golden["posterior"]),
        (posterior.mode(), golden["latents"]),
        (decoded[..., :existing], golden["decoded"]),
        (posterior.kl(), golden["kl"].squeeze()),
    ):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_the_full_configuration_has_exactly_the_published_names_and_shapes():
    published = json.loads((GOLDEN / "published_44k_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        vae = EarVAE(OobleckConfig())
    ours = {name: list(tensor.shape) for name, tensor in vae.state_dict().items()}
    assert len(ours) == 386
    assert ours == published


def test_a_seed_draws_the_encoder_first_then_the_transformer_then_the_decoder():
    """Another order would be other weights from the same seed."""
    config = OobleckConfig(channels=2, multiples=(1, 2), strides=(2, 3))
    torch.manual_seed(0)
    parts = OobleckEncoder(config), LatentTransformer(config), OobleckDecoder(config)
    torch.manual_seed(0)
    vae = EarVAE(config)
    for part, own in zip(parts, (vae.encoder, vae.transformers, vae.decoder), strict=True):
        for name, tensor in part.state_dict().items():
            assert torch.equal(tensor, own.state_dict()[name]), name


@torch.no_grad()
def test_saving_and_loading_keeps_every_number(small, tmp_path):
    small.save_pretrained(tmp_path / "model")
    again = EarVAE.from_pretrained(tmp_path / "model")
    assert again.config == small.config
    assert again.identity == small.identity
    audio = torch.randn(1, 2, 640)
    assert torch.equal(again.encode(audio).parameters, small.encode(audio).parameters)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["sample_rate"] == 44_100
    files = sorted(p.name for p in (tmp_path / "model").iterdir())
    assert files == ["config.json", "model.safetensors"]  # nothing temporary is left
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & stat.S_IRGRP


@torch.no_grad()
def test_a_published_model_can_be_saved_as_ours_in_half_precision(tmp_path):
    vae = EarVAE.from_pretrained(GOLDEN / "tiny44k_state_dict.safetensors")
    vae.save_pretrained(tmp_path, dtype=torch.float16)
    again = EarVAE.from_pretrained(tmp_path)
    audio = load_file(GOLDEN / "tiny44k_io.safetensors")["audio"]
    ours, theirs = again.encode(audio).mean, vae.encode(audio).mean
    assert 0 < (ours - theirs).abs().max() < 1e-2 * theirs.abs().max()
    assert all(t.dtype == torch.float32 for t in again.state_dict().values())


def test_the_weight_file_of_a_folder_of_ours_stands_for_the_folder(small, tmp_path):
    small.save_pretrained(tmp_path)
    assert EarVAE.from_pretrained(tmp_path / "model.safetensors").identity == small.identity


def test_the_identity_follows_weights_and_configuration(small):
    before = small.identity
    with torch.no_grad():
        next(small.parameters()).view(-1)[0] += 1e-3
    assert small.identity != before
    assert len(before) == 12


def test_audio_is_padded_to_whole_frames(small):
    assert small.encode(torch.randn(1, 2, 65)).mean.shape == (1, 8, 2)
    assert small.decode(torch.randn(1, 8, 2)).shape == (1, 2, 128)
    reconstruction, posterior = small(torch.randn(2, 2, 65))
    assert reconstruction.shape == (2, 2, 65)
    assert posterior.std.min() > 0


@pytest.mark.parametrize("shape", [(1, 1, 100), (2, 100), (1, 2, 0)])
def test_audio_of_another_shape_is_refused(small, shape):
    with pytest.raises(ValueError, match="audio"):
        small.encode(torch.zeros(shape))


def test_latents_of_another_shape_are_refused(small):
    with pytest.raises(ValueError, match="latents must be"):
        small.decode(torch.zeros(1, 7, 3))


def test_a_missing_source_says_what_it_could_have_been(tmp_path):
    with pytest.raises(WeightsError, match="no such file or folder"):
        EarVAE.from_pretrained(tmp_path / "nowhere" / "model.pyt")


def test_a_folder_without_a_model_lists_what_it_needs(tmp_path):
    with pytest.raises(WeightsError, match="nor a published weight file"):
        EarVAE.from_pretrained(tmp_path)


def test_a_folder_with_a_published_file_and_its_json_loads(tmp_path):
    shutil.copy(GOLDEN / "tiny48k_state_dict.safetensors", tmp_path / "weights.safetensors")
    shutil.copy(GOLDEN / "tiny48k_config.json", tmp_path / "model_config.json")
    assert EarVAE.from_pretrained(tmp_path).sample_rate == 48_000


def test_another_rate_than_the_folders_is_refused(small, tmp_path):
    small.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="48000 Hz was asked for"):
        EarVAE.from_pretrained(tmp_path, sample_rate=48_000)


def test_partial_weights_are_refused_by_name(small, tmp_path):
    small.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("decoder.shape.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 of \d+ names missing .decoder.shape.weight."):
        EarVAE.from_pretrained(tmp_path)


def test_an_unknown_key_in_our_config_is_refused_by_name(small, tmp_path):
    small.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"widht": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="widht"):
        EarVAE.from_pretrained(tmp_path)


@pytest.mark.skipif(not (SHIPPED / "model.safetensors").is_file(), reason="no shipped weights")
def test_the_shipped_model_loads_by_default_and_fits_its_limits():
    vae = EarVAE.from_pretrained()
    assert (vae.latent_channels, vae.hop_length, vae.sample_rate) == (64, 1024, 44_100)
    assert sum(p.numel() for p in vae.parameters()) <= 16_000_000
    assert (SHIPPED / "model.safetensors").stat().st_size <= 32_000_000


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (torch.full((1, 2, 99), torch.nan), "must be finite"),
        (torch.zeros(1, 2, 99, dtype=torch.int16), "must be floating point"),
        (torch.zeros(0, 2, 99), "there are no"),
        (torch.zeros(1, 2, 0), "there are no"),
        (torch.zeros(1, 2, 99).numpy(), "must be"),
    ],
)
def test_what_cannot_be_encoded_or_decoded_is_a_value_error(small, signal, message):
    vae = small.eval()
    for encode in (vae.encode, lambda x: codec.encode(vae, x)):
        with pytest.raises(ValueError, match=f"^audio.* {message}"):
            encode(signal)
    latents = signal.repeat(4, axis=1) if isinstance(signal, np.ndarray) else signal.repeat(1, 4, 1)
    for decode in (vae.decode, lambda x: codec.decode(vae, x, 9)):
        with pytest.raises(ValueError, match=f"^latents.* {message}"):
            decode(latents)


@pytest.mark.parametrize("samples", [0, -5, 1.5])
def test_a_length_that_is_none_is_a_value_error(small, samples):
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1"):
        codec.decode(small, torch.zeros(1, 8, 3), samples)


def test_values_are_not_looked_at_in_training_which_counts_them_itself(small):
    assert small.train().encode(torch.full((1, 2, 99), torch.nan)).mean.isnan().any()
