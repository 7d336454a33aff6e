"""What a run keeps: its last checkpoints, and the weights that were best by a figure."""

import json
import shutil

import pytest
import torch

from earvae.config import ConfigError, TrainConfig, parse
from earvae.errors import WriteError
from earvae.model.vae import EarVAE
from earvae.training import train as training
from tests.training.recipes import assert_identical, of_steps, start, state_of


def test_the_last_checkpoints_are_kept_under_their_steps(recipe, tmp_path):
    recipe = recipe | {"validation": None, "checkpoint_every": 1, "keep": 3}
    (tmp_path / "checkpoint-mine.pt").write_text("a copy that somebody made")
    start(recipe, tmp_path)
    (tmp_path / "checkpoint-mine.pt").unlink()  # it is still there
    names = [f"checkpoint-{step:08d}.pt" for step in (4, 5, 6)]
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == [*names, "checkpoint.pt"]
    for step, name in zip((4, 5, 6), names, strict=True):
        assert torch.load(tmp_path / name, weights_only=True)["step"] == step


@pytest.mark.parametrize("name", ["config.json", "ema/model.safetensors", "log.jsonl"])
def test_a_folder_that_holds_something_else_is_not_taken_for_a_run(recipe, tmp_path, name):
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("somebody's")
    with pytest.raises(WriteError, match=f"{name.split('/')[0]}: is there already"):
        start(recipe, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "somebody's"


def test_checkpoints_that_a_run_did_not_write_stay(recipe, tmp_path):
    theirs = [tmp_path / "checkpoint-00000001.pt", tmp_path / "checkpoint-good.pt"]
    for path in theirs:
        path.write_text("somebody's")
    recipe = of_steps(recipe, 4) | {"validation": None, "checkpoint_every": 2, "keep": 2}
    start(recipe, tmp_path)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 4
    assert [path.read_text() for path in theirs] == ["somebody's"] * 2


def test_a_run_can_go_back_to_a_kept_checkpoint(recipe, tmp_path):
    recipe = recipe | {"validation": None, "checkpoint_every": 2, "keep": 2}
    start(recipe, tmp_path)
    end = state_of(tmp_path)
    (tmp_path / "checkpoint-00000004.pt").replace(tmp_path / "checkpoint.pt")
    start(recipe, tmp_path)
    assert_identical(end["vae"], state_of(tmp_path)["vae"])


def test_a_kept_checkpoint_copied_over_the_last_leaves_the_others_as_they_are(recipe, tmp_path):
    recipe = recipe | {"validation": None, "checkpoint_every": 2, "keep": 3}
    start(recipe, tmp_path)
    shutil.copyfile(tmp_path / "checkpoint-00000002.pt", tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint-00000006.pt", weights_only=True)["step"] == 6


def test_one_checkpoint_is_kept_by_default(recipe, tmp_path):
    start(recipe | {"validation": None, "checkpoint_every": 1}, tmp_path)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint.pt"]


@pytest.fixture
def measured(monkeypatch):
    """Let validation after step n find the n-th of the given values; weights of each step."""
    weights = {}

    def values(*given):
        def validate(fabric, log, dataset, items, vae, objective, step):
            weights[step] = {name: value.clone() for name, value in vae.state_dict().items()}
            return {"validation/si_sdr": given[step - 1]}

        monkeypatch.setattr(training, "validate", validate)
        return weights

    return values


@pytest.mark.parametrize(("best", "step"), [("highest", 3), ("lowest", 2)])
def test_the_best_averaged_weights_by_a_figure_are_kept(recipe, tmp_path, measured, best, step):
    weights = measured(5.0, -1.0, 9.0, float("nan"))
    recipe = of_steps(recipe, 4) | {"validate_every": 1, "best_by": "validation/si_sdr"}
    start(recipe | {"best": best}, tmp_path)
    vae = EarVAE.from_pretrained(tmp_path / "best")
    assert_identical(dict(vae.state_dict()), weights[step])
    record = json.loads((tmp_path / "best" / "best.json").read_text())
    value = {2: -1.0, 3: 9.0}[step]
    assert record == {"figure": "validation/si_sdr", "value": value, "step": step}


def test_a_resumed_run_remembers_the_best_value(recipe, tmp_path, measured):
    recipe = of_steps(recipe, 3) | {"validate_every": 1, "best_by": "validation/si_sdr"}
    measured(9.0, 5.0, 8.0)
    start(of_steps(recipe, 1), tmp_path)
    start(recipe, tmp_path)
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 1


def test_a_figure_that_validation_gives_is_known_and_another_is_refused(recipe, tmp_path):
    known = of_steps(recipe, 1) | {"best_by": "validation/magnitude_log", "best": "lowest"}
    assert start(known, tmp_path / "known") == 0
    assert (tmp_path / "known" / "best" / "best.json").is_file()
    with pytest.raises(ConfigError, match="validation/sisdr.*nearest are validation/si_sdr"):
        start(recipe | {"best_by": "validation/sisdr"}, tmp_path / "other")
    with pytest.raises(ConfigError, match="best_by: needs `validation`"):
        parse(TrainConfig, recipe | {"best_by": "validation/total", "validation": None}, "")
