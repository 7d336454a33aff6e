"""A model written for diffusers is the same model there, and comes back exactly."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from earvae.errors import WeightsError
from earvae.export.diffusers import NotConvertibleError, export_diffusers
from earvae.model.diffusers import WEIGHTS_NAME
from earvae.model.vae import EarVAE
from tests.small import deviation, model, noise, two_snakes

PAPERS = {"shared_snake": True, "std_floor": 0.0}


@pytest.mark.parametrize("conventions", [PAPERS, {}])
@pytest.mark.parametrize("strides", [(2, 4, 4), (2, 3, 5)])
def test_diffusers_computes_the_same(tmp_path, conventions, strides):
    diffusers = pytest.importorskip("diffusers", reason="parity needs the package diffusers")
    vae = two_snakes(strides=strides, **conventions)
    export_diffusers(vae, tmp_path)
    theirs = diffusers.AutoencoderOobleck.from_pretrained(tmp_path).eval()
    assert theirs.hop_length == vae.hop_length
    audio = noise(20 * vae.hop_length, batch=2)
    with torch.no_grad():
        found = theirs.encode(audio).latent_dist
        expected = vae.encode(audio)
        decoded = theirs.decode(expected.mode()).sample
        whole = vae.decode(expected.mode())
    assert decoded.shape[2] == whole.shape[2] - vae.decoder.tail_deficit
    assert deviation(found.mode(), expected.mode()) < 1e-5
    assert (found.std - expected.std).abs().max() < 1.01e-4
    assert deviation(decoded, whole[..., : decoded.shape[2]]) < 1e-5


@pytest.mark.parametrize("conventions", [PAPERS, {"shared_snake": True}, {}])
def test_there_and_back_is_the_same_model(tmp_path, conventions):
    vae = two_snakes(**conventions)
    export_diffusers(vae, tmp_path)
    again = EarVAE.from_pretrained(tmp_path)
    assert again.config == vae.config
    assert again.identity == vae.identity


def test_what_diffusers_does_otherwise_is_told(tmp_path):
    assert export_diffusers(two_snakes(strides=(2, 4, 4)), tmp_path) == []
    notes = export_diffusers(two_snakes(**PAPERS), tmp_path)
    assert [note.split(":")[0] for note in notes] == [
        "diffusers adds 0.0001 to the posterior's std, here it is 0",
        "diffusers has two activations in a residual unit where this model has one",
        "odd strides",
    ]


def test_shared_activations_that_were_parted_are_refused_under_our_note(tmp_path):
    """The file says that they are shared; without that note they would be taken as two."""
    export_diffusers(two_snakes(**PAPERS), tmp_path)
    state = load_file(tmp_path / WEIGHTS_NAME)
    note = {"format": "pt", "earvae_config": two_snakes(**PAPERS).config.model_dump_json()}
    state["decoder.block.0.res_unit1.snake2.alpha"] += 0.1
    save_file(state, tmp_path / WEIGHTS_NAME, note)
    with pytest.raises(WeightsError, match="differ"):
        EarVAE.from_pretrained(tmp_path)
    save_file(state, tmp_path / WEIGHTS_NAME, {"format": "pt"})
    assert not EarVAE.from_pretrained(tmp_path).config.shared_snake


def test_a_config_that_contradicts_our_note_is_refused(tmp_path):
    export_diffusers(two_snakes(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sampling_rate": 48_000}))
    with pytest.raises(WeightsError, match="another configuration"):
        EarVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tiny44k", "transformer of 2 blocks"),
        ("compact", "architecture is 'compact'.*adapters.diffusers.DiffusersVAE"),
        ("tiny44k_no_transformer", "channels = 4 and latent_channels = 64"),
    ],
)
def test_what_has_no_place_there_is_refused_by_name(tmp_path, name, reason):
    with pytest.raises(NotConvertibleError, match=reason):
        export_diffusers(model(name), tmp_path / "vae")
    assert not (tmp_path / "vae").exists()
