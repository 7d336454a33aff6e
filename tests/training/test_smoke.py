"""The smoke recipe with fewer and smaller steps: all its stages on the shipped clips, and both
sides move."""

from pathlib import Path

import pytest
import torch
import yaml

from earvae import EarVAE, recipes
from earvae.config import TrainConfig
from earvae.training import train as training
from tests.training.recipes import start, state_of

ROOT = Path(__file__).parents[2]
STEPS = {"warm-up": 3, "adversarial": 7, "continuation": 2}


@pytest.mark.long
def test_the_smoke_recipe_goes_through_all_stages_and_moves_both_sides(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = yaml.safe_load(recipes.path_of("smoke").read_text())
    assert [stage["name"] for stage in recipe["stages"]] == list(STEPS)
    for stage in recipe["stages"]:
        stage["steps"] = STEPS[stage["name"]]
    recipe |= {"linear_code_crops": 40, "validation_items": 1}
    recipe["data"] |= {"batch_size": 2, "crop_samples": 16_384}
    first = {}
    original = training.train_step

    def watched(*arguments):
        place, state = arguments[2], arguments[3]
        if place.stage.name == "adversarial" and place.done == 5:  # before both sides move
            for name in ("vae", "discriminator"):
                parameters = getattr(state, name).named_parameters()
                first[name] = {key: value.detach().clone() for key, value in parameters}
        return original(*arguments)

    monkeypatch.setattr(training, "train_step", watched)
    assert start(recipe, tmp_path) == 0
    state = state_of(tmp_path)
    assert state["step"] == sum(STEPS.values())
    assert TrainConfig(**recipe).stages[1].adversarial.discriminator_only_steps == 5
    for name, before in first.items():
        moved = [key for key, value in before.items() if not torch.equal(value, state[name][key])]
        assert set(moved) == set(before), name
    vae = EarVAE.from_pretrained(tmp_path / "ema")
    with torch.no_grad():
        reconstruction, _ = vae(0.1 * torch.randn(1, 2, vae.hop_length * 4))
    assert torch.isfinite(reconstruction).all()
