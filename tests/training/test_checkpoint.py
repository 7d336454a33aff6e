"""Checkpoints that were damaged or tampered with: one line each, and nothing is trained on them."""

import copy
import json
import os

import pytest
import torch

from earvae.errors import EarvaeError
from earvae.training import checkpoint
from earvae.training.checkpoint import CHECKPOINT
from tests.training.recipes import of_steps, start, state_of


@pytest.fixture(scope="module")
def whole(staged_recipe, tmp_path_factory) -> dict:
    """The state of a run with both networks and shares of the gradient."""
    folder = tmp_path_factory.mktemp("whole")
    stage = staged_recipe["stages"][1] | {
        "steps": 3, "balance": {"shares": {"waveform": 1, "magnitude_log": 1}},
    }  # fmt: skip
    start(staged_recipe | {"stages": [stage]}, folder)
    assert checkpoint.read(folder).step == 3
    return state_of(folder)


def first(tensors: dict) -> str:
    return next(name for name, value in tensors.items() if value.ndim > 1)


def configuration(state: dict, **changes) -> str:
    return json.dumps(json.loads(state["config"]) | changes)


def moment(state: dict, part: str = "optimiser") -> dict:
    return next(iter(state[part]["state"].values()))


TAMPERED = {
    "step a word": lambda s: s.update(step="x"),
    "step negative": lambda s: s.update(step=-5),
    "step beyond the run": lambda s: s.update(step=10**9),
    "step a fraction": lambda s: s.update(step=1.5),
    "no counters": lambda s: s.pop("counters"),
    "counters of words": lambda s: s.update(counters={"crops": "x"}),
    "counters a list": lambda s: s.update(counters=[1, 2]),
    "configuration a number": lambda s: s.update(config=5),
    "configuration no JSON": lambda s: s.update(config="{"),
    "configuration of nothing": lambda s: s.update(config="{}"),
    "configuration too deep": lambda s: s.update(config="[" * 100_000),
    "another model": lambda s: s.update(config=configuration(s, model={"architecture": "compact"})),
    "weights a list": lambda s: s.update(vae=[1]),
    "weights of numbers": lambda s: s.update(ema={name: 1.0 for name in s["ema"]}),
    "a name missing": lambda s: s["vae"].pop(first(s["vae"])),
    "a name too many": lambda s: s["ema"].update(more=torch.zeros(1)),
    "another shape": lambda s: s["vae"].update({first(s["vae"]): torch.zeros(3)}),
    "whole numbers": lambda s: s["vae"].update({first(s["vae"]): s["vae"][first(s["vae"])].int()}),
    "not finite": lambda s: s["vae"][first(s["vae"])].fill_(float("nan")),
    "no values": lambda s: s["ema"].update(
        {first(s["ema"]): torch.empty_like(s["ema"][first(s["ema"])], device="meta")}
    ),
    "no optimiser": lambda s: s.pop("optimiser"),
    "an optimiser of nothing": lambda s: s.update(optimiser=5),
    "an optimiser without moments": lambda s: s["optimiser"].update(state={}),
    "moments of no parameter": lambda s: s["optimiser"]["state"].update({999: moment(s)}),
    "a moment missing": lambda s: moment(s).pop("exp_avg"),
    "a moment of another shape": lambda s: moment(s).update(exp_avg=torch.zeros(7, 7)),
    "a negative moment": lambda s: moment(s)["exp_avg_sq"].fill_(-1.0),
    "an endless moment": lambda s: moment(s)["exp_avg"].fill_(float("inf")),
    "no optimiser of the discriminator": lambda s: s.pop("discriminator_optimiser"),
    "another discriminator": lambda s: s["discriminator"].update(
        {first(s["discriminator"]): torch.zeros(3)}
    ),
    "shares of no term": lambda s: s["balance"]["norms"].update(nonsense=torch.tensor(1.0)),
    "a share without a value": lambda s: s["balance"]["norms"].update(
        waveform=torch.tensor(float("nan"))
    ),
    "shares of numbers": lambda s: s["balance"].update(norms={"waveform": 3.0}),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_what_was_tampered_with_is_one_line(whole, tmp_path, kind):
    state = copy.deepcopy(whole)
    TAMPERED[kind](state)
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(EarvaeError) as caught:
        checkpoint.read(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / CHECKPOINT))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_no_file_is_refused_before_the_first_step(recipe, tmp_path):
    """Not after the last one, when it cannot be written."""
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)):
        (tmp_path / str(make)).mkdir()
        make(tmp_path / str(make) / CHECKPOINT)
        with pytest.raises(EarvaeError, match=CHECKPOINT):
            start(recipe, tmp_path / str(make))


def test_settings_that_a_checkpoint_brings_are_not_taken(recipe, tmp_path):
    """Of an optimiser, only its moments count; the recipe says everything else."""
    recipe = recipe | {"validation": None}
    for name in ("plain", "odd"):
        start(of_steps(recipe, 1), tmp_path / name)
    state = state_of(tmp_path / "odd")
    state["optimiser"]["param_groups"][0] |= {"maximize": True, "eps": 1e9}
    torch.save(state, tmp_path / "odd" / CHECKPOINT)
    for name in ("plain", "odd"):
        assert start(of_steps(recipe, 2), tmp_path / name) == 0
    ours, odd = state_of(tmp_path / "plain")["vae"], state_of(tmp_path / "odd")["vae"]
    assert all(torch.equal(ours[name], odd[name]) for name in ours)
