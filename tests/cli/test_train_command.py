"""``earvae train``: which recipe, which music, which weights, which folder."""

import json
from pathlib import Path

import pytest
import yaml

from earvae import recipes
from earvae.training import train as training
from tests.small import CLIPS

TINY = {
    "model": {
        "architecture": "compact", "hop_length": 128, "short_length": 32, "latent_channels": 8,
        "width": 16, "encoder_blocks": 1, "decoder_blocks": 1,
    },
    "objective": {"resolutions": [256, 128, 64], "resolutions_per_step": 1},
    "data": {
        "sources": [{"tracks": "nowhere"}], "crop_samples": 128 * 24, "batch_size": 2, "workers": 0,
    },
    "linear_code_crops": 8,
    "stages": [{"name": "a", "steps": 2}],
}  # fmt: skip


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Run nothing: what would have been run, as (config, folder)."""
    runs = []

    def note(config, run, **_):
        runs.append((config, run))
        return 0

    monkeypatch.setattr(training, "train", note)
    monkeypatch.chdir(tmp_path)
    return runs


def test_a_folder_of_music_is_enough_and_the_first_line_says_what_runs_where(earvae, started):
    result = earvae("train", "--data", CLIPS)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == (
        f"recipe {recipes.path_of('compact')}; run {Path('runs/compact')}"
    )
    assert result.output.splitlines()[1].startswith(f"data {CLIPS}; no validation: ")
    [(config, run)] = started
    assert run == Path("runs/compact")
    assert {s.tracks for stage in config.stages for s in stage.data.sources} == {str(CLIPS)}


def test_a_recipe_is_taken_by_name_or_by_file(earvae, started, tmp_path):
    earvae("train", "--recipe", "smoke", "--run", "here")
    copy = tmp_path / "mine.yaml"
    copy.write_text(recipes.path_of("smoke").read_text())
    earvae("train", copy)
    (named, run), (own, own_run) = started
    assert named == own
    assert (run, own_run) == (Path("here"), Path("runs/mine"))


@pytest.mark.parametrize("name", ["finetune", "compact"])
def test_weights_replace_the_recipes_own_and_its_model(earvae, started, name):
    result = earvae("train", "--recipe", name, "--data", CLIPS, "--weights", "some/hub")
    assert result.exit_code == 0, result.output
    [(config, _)] = started
    assert config.initial_weights == "some/hub" and config.model is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name your music with --data FOLDER, or a recipe"),
        (["--recipe", "compat"], "did you mean compact"),
        (["a.yaml", "--recipe", "compact"], "two recipes"),
        ([str(CLIPS)], "--data"),
        (["compact"], "--recipe compact is the recipe that comes with earvae"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_status_2(earvae, started, arguments, message):
    result = earvae("train", *arguments)
    assert result.exit_code == 2 and message in result.output
    assert len(result.output.splitlines()) == 1 and not started


@pytest.mark.parametrize("arguments", [["--data", "nowhere"], ["nowhere.yaml"]])
def test_what_is_not_there_is_named(earvae, started, arguments):
    result = earvae("train", *arguments)
    assert result.exit_code == 1 and not started
    assert result.output.splitlines()[-1].startswith("error: nowhere")


def test_a_run_of_a_minute_does_not_spend_it_on_the_linear_start(earvae, started, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(TINY | {"linear_code_crops": 6000}))
    earvae("train", tmp_path / "r.yaml")
    earvae("train", tmp_path / "r.yaml", "--minutes", "1")
    whole, short = (config.linear_code_crops for config, _ in started)
    assert whole == 6000 and 100 < short <= 150


def test_weights_that_are_not_there_are_named_before_a_run_begins(earvae, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(TINY))
    arguments = ["--data", CLIPS, "--weights", tmp_path / "none", "--run", tmp_path / "run"]
    result = earvae("train", tmp_path / "r.yaml", *arguments)
    assert result.exit_code == 1 and f"{tmp_path / 'none'}: no such file" in result.output
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_on_a_folder_trains_and_its_weights_start_another(earvae, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(TINY))
    common = [tmp_path / "r.yaml", "--data", CLIPS, "--log", "csv", "--device", "cpu"]
    first = earvae("train", *common, "--run", tmp_path / "one")
    assert first.exit_code == 0, first.output
    saved = json.loads((tmp_path / "one" / "config.json").read_text())
    assert saved["stages"][0]["data"]["sources"][0]["tracks"] == str(CLIPS)
    second = earvae("train", *common, "--run", tmp_path / "two", "--weights", tmp_path / "one")
    assert second.exit_code == 0, second.output
    assert json.loads((tmp_path / "two" / "config.json").read_text())["model"] == saved["model"]


@pytest.mark.parametrize("minutes", ["nan", "inf"])
def test_an_endless_time_is_a_usage_error(earvae, started, minutes):
    result = earvae("train", "--data", CLIPS, "--minutes", minutes)
    assert result.exit_code == 2 and "--minutes" in result.output and not started


@pytest.mark.parametrize(
    ("given", "used"), [("bf16", "bf16"), ("bf16-mixed", "bf16"), ("32-true", "fp32")]
)
def test_a_precision_may_be_spelt_as_lightning_does(earvae, monkeypatch, tmp_path, given, used):
    seen = []
    monkeypatch.setattr(training, "train", lambda *_, precision, **__: seen.append(precision) or 0)
    earvae("train", "--recipe", "smoke", "--run", tmp_path, "--precision", given)
    assert seen == [used]


def test_a_precision_that_is_not_there_is_told_with_those_that_are(earvae, started):
    result = earvae("train", "--recipe", "smoke", "--precision", "fp8")
    assert result.exit_code == 2 and not started
    assert result.output == "error: --precision fp8: use one of fp32, tf32, bf16\n"
