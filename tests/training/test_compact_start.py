"""A run of the compact architecture: how it starts, trains and goes on."""

import pytest
import torch

from earvae.config import TrainConfig
from earvae.training import set_up
from earvae.training import train as training
from earvae.training.set_up import initial_model
from tests.training.recipes import assert_identical, interrupt_at, start, state_of


@pytest.fixture
def compact(recipe):
    return recipe | {"validation": None}


def test_its_linear_layers_start_from_music_and_the_rest_as_without_it(compact):
    fitted, unfitted = (
        initial_model(TrainConfig(**compact | {"linear_code_crops": crops})).state_dict()
        for crops in (8, 0)
    )
    changed = {name for name in fitted if not torch.equal(fitted[name], unfitted[name])}
    names = ("linear_mid.weight", "linear_side.weight", "linear_level.weight", "linear_level.bias")
    fitted_layers = {f"{side}.{name}" for side in ("encoder", "decoder") for name in names}
    texture = {"decoder.linear_texture.weight", "decoder.linear_texture.bias"}
    assert changed == fitted_layers | texture
    # the principal components are orthogonal, and one side undoes the other
    for kind in ("mid", "side"):
        weights = (fitted[f"{part}.linear_{kind}.weight"] for part in ("encoder", "decoder"))
        product = torch.linalg.multi_dot(list(weights))
        torch.testing.assert_close(product, torch.eye(len(product)), atol=1e-4, rtol=0)


def test_everything_is_trained_and_a_resumed_run_equals_the_whole_one(
    compact, tmp_path, monkeypatch
):
    assert start(compact, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert start(compact, tmp_path / "parts") == training.INTERRUPTED
    assert start(compact, tmp_path / "parts") == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    for key in ("vae", "ema", "optimiser"):
        assert_identical(whole[key], parts[key])
    before = initial_model(TrainConfig(**compact)).state_dict()
    for name, tensor in whole["vae"].items():
        assert not torch.equal(tensor, before[name]), name


def test_a_frozen_encoder_stays_as_it_was(compact, tmp_path):
    stages = [{"name": "decoder", "steps": 2, "freeze": ["encoder"]}]
    assert start(compact | {"stages": stages}, tmp_path) == 0
    before = initial_model(TrainConfig(**compact)).state_dict()
    for name, tensor in state_of(tmp_path)["vae"].items():
        assert torch.equal(tensor, before[name]) == name.startswith("encoder."), name


def test_a_start_is_fitted_on_no_more_crops_than_the_music_holds(compact, monkeypatch):
    crops = []
    original = set_up.fit_linear_start

    def counted(encoder, decoder, audio):
        batches = list(audio)
        crops.append(sum(len(batch) for batch in batches))
        original(encoder, decoder, batches)

    monkeypatch.setattr(set_up, "fit_linear_start", counted)
    initial_model(TrainConfig(**compact | {"linear_code_crops": 6000}))
    assert crops == [2 * 2 * 44_100 // (128 * 24)]  # two pieces of two seconds


def test_a_run_without_a_fitted_start_trains(compact, tmp_path):
    assert start(compact | {"linear_code_crops": 0}, tmp_path) == 0
