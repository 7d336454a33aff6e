"""Stages that train by the likelihood of the music, alone and beside the objective."""

import json

import pytest

from earvae.config import ConfigError, TrainConfig, parse
from tests.training.recipes import ADVERSARIAL, start, state_of

ALONE = {
    "magnitude_linear": 0, "magnitude_log": 0, "correlation_intra": 0, "correlation_inter": 0,
    "instantaneous_frequency": 0, "group_delay": 0, "kl": 1e-4, "nll": 1,
}  # fmt: skip


@pytest.fixture
def compact(whole_recipe) -> dict:
    return whole_recipe | {"validation": None, "linear_code_crops": 16}


def logged(folder) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss/total" in row]


def test_a_stage_of_the_likelihood_alone_learns_and_logs_it(compact, tmp_path):
    stage = {"name": "likelihood", "steps": 30, "objective": {"weights": ALONE}}
    compact["stages"] = [stage | {"optimiser": {"learning_rate": 3e-3, "warmup_steps": 1}}]
    assert start(compact, tmp_path) == 0
    rows = logged(tmp_path)
    assert {name for name in rows[0] if name.startswith("raw/")} == {"raw/kl", "raw/nll"}
    first, last = (sum(row["raw/nll"] for row in part) / 5 for part in (rows[:5], rows[-5:]))
    assert last < first - 0.3


def test_it_stands_beside_shares_of_the_gradient_and_a_discriminator(compact, tmp_path):
    shares = {"magnitude_log": 0.5, "adversarial": 0.5}
    compact["stages"] = [{
        "name": "adversarial", "steps": 4, "adversarial": ADVERSARIAL,
        "objective": {"weights": {"kl": 1e-4, "nll": 1}}, "balance": {"shares": shares},
    }]  # fmt: skip
    assert start(compact, tmp_path) == 0
    row = logged(tmp_path)[-1]
    assert row["weighted/nll"] == row["raw/nll"]  # its weight, whatever the shares
    weighted = sum(value for name, value in row.items() if name.startswith("weighted/"))
    assert row["loss/total"] == pytest.approx(weighted, rel=1e-4)
    assert state_of(tmp_path)["step"] == 4


def test_a_model_without_a_likelihood_is_told_before_it_trains(compact):
    stage = {"name": "likelihood", "steps": 1, "objective": {"weights": {"nll": 1}}}
    with pytest.raises(ConfigError, match="nll: oobleck: this architecture has no likelihood"):
        parse(
            TrainConfig,
            compact | {"model": {"architecture": "oobleck"}, "stages": [stage]},
            "recipe",
        )
