import json

import pytest

from earvae.config import (
    CompactConfig,
    ConfigError,
    ModelConfig,
    OobleckConfig,
    TrainConfig,
    parse,
    read,
)

DATA = {"sources": [{"tracks": "music"}]}


def recipe(**changes) -> dict:
    return {"data": DATA, "stages": [{"name": "a", "steps": 7}]} | changes


def test_an_unknown_key_is_refused_by_name(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stages: [{name: a, steps: 1}]\nlerning_rate: 1\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml:2: lerning_rate: no such key"):
        read(TrainConfig, path)


def test_a_misspelt_loss_weight_is_refused():
    values = recipe(objective={"weights": {"magnitude_lag": 1}})
    with pytest.raises(ConfigError, match="objective.weights.magnitude_lag"):
        parse(TrainConfig, values, "recipe")


def test_every_problem_has_its_own_line():
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, recipe(seed=-1, data=DATA | {"batch_size": "x"}), "recipe")
    lines = str(caught.value).splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == ["data.batch_size", "seed"]
    assert all(line.startswith("recipe: ") for line in lines)


def test_yaml_and_json_say_the_same(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "data:\n  sources: [{tracks: music}]\nstages:\n  - name: a\n    steps: 7\n"
    )
    (tmp_path / "a.json").write_text(json.dumps(recipe()))
    assert read(TrainConfig, tmp_path / "a.yaml") == read(TrainConfig, tmp_path / "a.json")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConfigError, match="a.json: is not JSON"):
        read(TrainConfig, tmp_path / "a.json")


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml: no such file"):
        read(TrainConfig, tmp_path / "nowhere.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="b.yaml: is not text in UTF-8"):
        read(TrainConfig, tmp_path / "b.yaml")


def test_configurations_survive_their_own_json():
    for config in (OobleckConfig(), CompactConfig(width=16)):
        assert parse(ModelConfig, config.model_dump(mode="json"), "test") == config


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        OobleckConfig().sample_rate = 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strides": [2, 4], "multiples": [1]}, "differ in length"),
        ({"strides": [1], "multiples": [1]}, "at least 2"),
        ({"latent_channels": 60}, "head_channels must divide"),
        ({"architecture": "compact", "short_length": 500}, "must divide hop_length"),
        ({"architecture": "compact", "latent_channels": 2049}, "must not exceed"),
        ({"architecture": "compact", "kernel": 4}, "must be odd"),
    ],
)
def test_what_cannot_fit_together_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(ModelConfig, {"architecture": "oobleck"} | values, "test")


ENDLESS, MUCH = float("inf"), 10**12


@pytest.mark.parametrize(
    ("block", "values"),
    [
        *(("optimiser", {"learning_rate": rate}) for rate in (ENDLESS, float("nan"), 1e30, -1, 0)),
        *(("optimiser", {"betas": betas}) for betas in ([2, -1], [0.9, 1], [ENDLESS, 0])),
        ("optimiser", {"weight_decay": 1e30}),
        ("optimiser", {"gradient_clip": 1e30}),
        ("optimiser", {"warmup_steps": MUCH}),
        ("objective", {"weights": {"kl": 1e30}}),
        ("objective", {"log_floor": 1e-300}),
        ("objective", {"resolutions": [2**40]}),
        ("balance", {"shares": {"waveform": 1e300, "magnitude_log": 1e300}}),
        ("data", {"augmentation": {"gain_db": [0, 1e9]}}),
        ("data", {"workers": MUCH}),
        ("data", {"batch_size": MUCH}),
        ("data", {"crop_samples": 1024 * MUCH}),
        ("data", {"batch_size": 65_536, "crop_samples": 2**20}),
        ("data", {"crops_per_fetch": 65_536, "crop_samples": 2**20}),
        ("data", {"seed": 2**64}),
        ("data", {"sources": [{"tracks": ""}]}),
        ("stages", [{"name": "a", "steps": MUCH}]),
        ("stages", [{"name": "\x1b[2J", "steps": 1}]),
        ("stages", [{"name": "a", "steps": 1, "accumulate": 65_536}]),
        ("discriminator", {"channels": MUCH}),
        ("discriminator", {"dilations": [0]}),
        ("seed", 2**64),
        ("validation_items", MUCH),
    ],
)
def test_what_would_poison_a_run_or_never_begin_is_refused(block, values):
    recipe = {
        "data": {"sources": [{"tracks": "music"}]},
        "stages": [{"name": "a", "steps": 1}],
    }
    parse(TrainConfig, recipe, "recipe.yaml")
    if isinstance(values, dict):
        values = recipe.get(block, {}) | values
    with pytest.raises(ConfigError, match="recipe.yaml: ") as caught:
        parse(TrainConfig, recipe | {block: values}, "recipe.yaml")
    assert "\x1b" not in str(caught.value)


def test_the_paper_configuration_has_the_papers_hop():
    assert OobleckConfig().hop_length == 1024
    assert OobleckConfig(strides=(2, 2, 4, 6, 10), sample_rate=48_000).hop_length == 960


def test_the_recipes_in_the_repository_are_valid():
    from pathlib import Path

    root = Path(__file__).parent.parent
    recipes = sorted(
        path for folder in ("src", "experiments") for path in (root / folder).rglob("*.yaml")
    )
    assert len(recipes) > 5
    for path in recipes:
        read(TrainConfig, path)
