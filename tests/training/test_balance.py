"""Shares of the gradient: how they are measured, the weights that follow, and runs with them."""

import json

import pytest
import torch
from lightning_fabric import Fabric

from earvae.config import BalanceConfig, StageConfig
from earvae.training import step
from earvae.training import train as training
from earvae.training.balance import Balance
from earvae.training.checkpoint import Norms
from tests.training.recipes import (
    ADVERSARIAL,
    assert_identical,
    interrupt_at,
    of_steps,
    start,
    state_of,
)

CPU = torch.device("cpu")
SHARES = {"waveform": 1, "magnitude_log": 3}


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def stage(**values) -> StageConfig:
    data = {"sources": [{"tracks": "music"}]}
    return StageConfig.model_validate({"name": "first", "steps": 9, "data": data} | values)


def gradients(**norms: float) -> dict[str, torch.Tensor]:
    """Of each term, for two items: the loss of one item alone has a gradient of half the norm,
    that of the other one and a half times it. A batch's mean loss halves both."""
    random = torch.Generator().manual_seed(0)
    found = {}
    for name, norm in norms.items():
        direction = torch.randn(2, 2, 100, generator=random)
        unit = direction / direction.flatten(1).norm(dim=1)[:, None, None]
        found[name] = unit * torch.tensor([0.5, 1.5])[:, None, None] * norm / 2
    return found


# --------------------------------------------------------------------------- by hand


def test_weights_give_every_term_its_stated_share(fabric):
    """Of a sum of 2, waveform gets 0.5 and log magnitude 1.5."""
    balance = Balance(stage(balance={"shares": SHARES, "total": 2.0}), CPU)
    balance.note(fabric, gradients(waveform=0.01, magnitude_log=30.0))
    weights = balance.weights()
    assert float(weights["waveform"]) == pytest.approx(0.5 / 0.01)
    assert float(weights["magnitude_log"]) == pytest.approx(1.5 / 30)
    shares = {name: float(share) for name, share in balance.shares().items()}
    assert shares == pytest.approx({"waveform": 0.25, "magnitude_log": 0.75})


def test_kl_keeps_its_weight_and_terms_without_a_share_are_off():
    objective = {"weights": {"kl": 0.02}}
    balance = Balance(stage(balance={"shares": SHARES}, objective=objective), CPU)
    assert balance.weights() == {"kl": 0.02, "waveform": 1.0, "magnitude_log": 1.0}


def test_without_a_balance_the_weights_stand_and_the_shares_are_told(fabric):
    objective = {"weights": {"kl": 0.02, "waveform": 0.5, "magnitude_log": 2.0}}
    balance = Balance(stage(objective=objective), CPU)
    before = balance.weights()
    balance.note(fabric, gradients(waveform=6.0, magnitude_log=0.5))  # weighted: 3 and 1
    assert balance.weights() == before
    figures = {name: float(value) for name, value in balance.figures().items()}
    assert figures == pytest.approx({"share/waveform": 0.75, "share/magnitude_log": 0.25})
    assert balance.figures() == {}  # told once


@pytest.mark.parametrize("memory, expected", [
    (0.9, [4.0, 3.0, 11 / 3]),  # the plain mean of the first ten: 4, (4 + 2) / 2, (4 + 2 + 5) / 3
    (0.5, [4.0, 3.0, 4.0]),  # half of the past from the second on: 3 / 2 + 5 / 2
    (0.0, [4.0, 2.0, 5.0]),  # the last one alone
])  # fmt: skip
def test_norms_are_a_moving_average_over_measurements(fabric, memory, expected):
    balance = Balance(stage(balance={"shares": {"waveform": 1}, "memory": memory}), CPU)
    for norm, average in zip((4.0, 2.0, 5.0), expected, strict=True):
        balance.note(fabric, gradients(waveform=norm))
        assert float(balance.norms["waveform"]) == pytest.approx(average)
        assert float(balance.weights()["waveform"]) == pytest.approx(1 / average)


def test_shares_in_the_log_are_those_of_the_gradients_just_measured(fabric):
    """Not of their averages, from which the weights follow: those would always be as stated."""
    balance = Balance(stage(balance={"shares": {"waveform": 1, "magnitude_log": 1}}), CPU)
    balance.note(fabric, gradients(waveform=1.0, magnitude_log=1.0))
    balance.note(fabric, gradients(waveform=1.8, magnitude_log=1.0))  # on average 1.4
    figures = balance.figures()
    assert float(figures["share/waveform"]) == pytest.approx((1.8 / 1.4) / (1.8 / 1.4 + 1))


def test_a_gradient_that_grows_suddenly_does_not_drown_the_others(fabric):
    """As that of a new discriminator does: a hundred times in six measurements."""
    balance = Balance(stage(balance={"shares": {"waveform": 1, "magnitude_log": 1}}), CPU)
    for measured in range(30):
        norm = 1e-3 * min(100.0, 100 ** (max(0, measured - 12) / 6))
        balance.note(fabric, gradients(waveform=norm, magnitude_log=1.0))
        assert float(balance.figures()["share/waveform"]) < 2 / 3


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_measurement_that_tells_nothing_of_a_term_leaves_it_as_it_was(fabric, bad):
    """A silent batch or an overflow must not give a term an endless weight."""
    balance = Balance(stage(balance={"shares": SHARES, "total": 4.0}), CPU)
    balance.note(fabric, gradients(waveform=bad, magnitude_log=2.0))
    assert float(balance.weights()["waveform"]) == 0
    assert float(balance.weights()["magnitude_log"]) == pytest.approx(3 / 2)
    balance.note(fabric, gradients(waveform=5.0, magnitude_log=bad))
    assert float(balance.weights()["waveform"]) == pytest.approx(1 / 5)
    assert float(balance.weights()["magnitude_log"]) == pytest.approx(3 / 2)
    balance.note(fabric, gradients(waveform=bad, magnitude_log=bad))
    assert float(balance.weights()["waveform"]) == pytest.approx(1 / 5)


def test_it_measures_at_the_first_step_and_every_so_many(fabric):
    balance = Balance(stage(balance={"shares": SHARES, "every": 4}), CPU)
    assert balance.due(3)  # the first step that trains the generator need not be the stage's
    balance.note(fabric, gradients(waveform=1.0, magnitude_log=1.0))
    assert [done for done in range(4, 14) if balance.due(done)] == [4, 8, 12]
    assert not Balance(stage(shares_every=0), CPU).due(0)


# --------------------------------------------------------------------------- what is stated


@pytest.mark.parametrize("shares, complaint", [
    ({"wave_form": 1}, "there is no term wave_form; did you mean waveform?"),
    ({"waveform": 1, "feature_maching": 1}, "did you mean feature_matching?"),
    ({"waveform": 1, "kl": 1}, "there is no term kl"),
    ({"waveform": 0}, "needs a term of the objective"),
    ({"waveform": -1}, "waveform must not be below 0"),
    ({"waveform": float("nan")}, "finite number"),
    ({"adversarial": 1}, "needs a term of the objective"),
    ({}, "needs a term of the objective"),
], ids=str)  # fmt: skip
def test_shares_that_mean_nothing_are_refused(shares, complaint):
    with pytest.raises(ValueError, match=complaint.replace("?", r"\?")):
        BalanceConfig(shares=shares)


def test_a_stage_turns_a_shared_term_off_with_a_share_of_0():
    off = stage(balance={"shares": SHARES | {"waveform": 0}})
    assert off.term_weights().keys() == stage(balance={"shares": SHARES}).term_weights().keys() - {
        "waveform"
    }


def test_the_discriminators_terms_wait_for_a_stage_that_has_one():
    shares = SHARES | {"adversarial": 1, "feature_matching": 2}
    values = {"balance": {"shares": shares}, "objective": {"weights": {"kl": 0}}}
    assert stage(**values).term_weights().keys() == SHARES.keys()
    assert stage(**values, adversarial=ADVERSARIAL).term_weights().keys() == shares.keys()
    values["balance"] = {"shares": SHARES}
    assert stage(**values, adversarial=ADVERSARIAL).term_weights().keys() == SHARES.keys()


def test_terms_that_wait_take_nothing_from_the_others(fabric):
    balance = Balance(stage(balance={"shares": SHARES | {"adversarial": 9}}), CPU)
    balance.note(fabric, gradients(waveform=1.0, magnitude_log=1.0))
    assert float(balance.weights()["waveform"]) == pytest.approx(0.25)


# --------------------------------------------------------------------------- checkpoints


def test_a_saved_state_goes_on_where_it_was(fabric, tmp_path):
    config = stage(balance={"shares": SHARES})
    whole = Balance(config, CPU)
    whole.note(fabric, gradients(waveform=3.0, magnitude_log=1.0))
    torch.save(whole.state_dict(), tmp_path / "balance.pt")
    saved = torch.load(tmp_path / "balance.pt", weights_only=True)
    again = Balance(config, CPU, Norms.model_validate(saved))
    assert_identical(again.weights(), whole.weights())
    for balance in (whole, again):
        balance.note(fabric, gradients(waveform=1.0, magnitude_log=7.0))
    assert_identical(again.state_dict(), whole.state_dict())


def test_the_norms_of_another_stage_are_not_taken(fabric):
    first = Balance(stage(balance={"shares": SHARES}), CPU)
    first.note(fabric, gradients(waveform=3.0, magnitude_log=1.0))
    saved = Norms.model_validate(first.state_dict())
    second = Balance(stage(name="second", balance={"shares": SHARES}), CPU, saved)
    assert second.due(3) and second.weights()["waveform"] == 1.0
    assert (
        Balance(stage(), CPU, Norms.model_validate({})).norms == {}
    )  # a checkpoint from before there were shares


# --------------------------------------------------------------------------- runs


@pytest.fixture
def balanced(staged):
    """Shares for a warm-up and an adversarial stage; it measures at every second step."""
    shares = {"waveform": 1, "magnitude_log": 4, "group_delay": 2, "correlation_intra": 1,
              "adversarial": 2, "feature_matching": 6}  # fmt: skip
    balance = {"shares": shares, "every": 2, "memory": 0.5}
    objective = staged["objective"] | {"weights": {"kl": 0.01}}
    return staged | {"balance": balance, "objective": objective, "stages": staged["stages"][:2]}


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_logs_the_stated_shares_and_trains_with_the_weights_it_logs(balanced, tmp_path):
    start(balanced, tmp_path)
    lines = lines_of(tmp_path)
    eighth, sixteenth = 1 / 8, 1 / 16
    warm_up = {"waveform": eighth, "magnitude_log": 4 * eighth, "group_delay": 2 * eighth,
               "correlation_intra": eighth}  # fmt: skip
    adversarial = {"waveform": sixteenth, "magnitude_log": 4 * sixteenth,
                   "group_delay": 2 * sixteenth, "correlation_intra": sixteenth,
                   "adversarial": 2 * sixteenth, "feature_matching": 6 * sixteenth}  # fmt: skip
    # 3 steps of warm-up, then 2 of the discriminator alone: the first of both is the sixth
    for line, expected in ((lines[0], warm_up), (lines[5], adversarial)):
        found = {k.removeprefix("share/"): v for k, v in line.items() if k.startswith("share/")}
        assert found == pytest.approx(expected, rel=1e-4)
        for name in expected:
            weighted = line[f"weight/{name}"] * line[f"raw/{name}"]
            assert line[f"weighted/{name}"] == pytest.approx(weighted, rel=1e-4)
        assert line["weighted/kl"] == pytest.approx(0.01 * line["raw/kl"], rel=1e-4)
    measured = [line["step"] for line in lines if any(key.startswith("share/") for key in line)]
    assert measured == [1, 3, 6, 8]


def test_the_gradient_at_the_reconstruction_is_the_stated_total(balanced, tmp_path, monkeypatch):
    """Taken from the backward pass of a step, not from the measurement: with one term and one
    item, the norm of the whole gradient is ``total``."""
    seen = []
    original = step.term_gradients

    def watched(fabric, state, objective, audio, fake, *rest):
        fake.register_hook(lambda gradient: seen.append(float(gradient.norm())))
        return original(fabric, state, objective, audio, fake, *rest)

    monkeypatch.setattr(step, "term_gradients", watched)
    recipe = of_steps(balanced, 1)
    recipe["balance"] = {"shares": {"waveform": 7}, "total": 0.3}
    recipe["data"] = recipe["data"] | {"batch_size": 1}
    start(recipe, tmp_path)
    assert seen == [pytest.approx(0.3, rel=1e-4)]


def test_the_discriminator_judges_once_for_all_shares_of_its_terms(balanced, tmp_path, monkeypatch):
    judged = []
    original = step.adversarial_terms
    monkeypatch.setattr(
        step, "adversarial_terms", lambda *args: judged.append(args) or original(*args)
    )
    start(balanced, tmp_path)
    assert len(judged) == 3 + 2  # steps 6 to 8 learn from it, and 6 and 8 measure


@pytest.mark.parametrize("stop", [2, 7])
def test_a_resumed_run_with_a_balance_equals_the_whole_one(balanced, tmp_path, monkeypatch, stop):
    """Stopped between two measurements, in either stage: the weights are those of the last one."""
    assert start(balanced, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, stop)
        assert start(balanced, tmp_path / "parts") == training.INTERRUPTED
    assert state_of(tmp_path / "parts")["step"] == stop
    assert start(balanced, tmp_path / "parts") == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole["step"] == 8 and whole["balance"]["measured"] == 2
    for key in ("vae", "ema", "optimiser", "discriminator", "discriminator_optimiser", "balance"):
        assert_identical(whole[key], parts[key])


def test_measuring_changes_nothing_of_a_run_with_fixed_weights(recipe, tmp_path):
    """Nor do its random numbers: the resolutions drawn after it are the same."""
    recipe = recipe | {"validation": None}
    start(recipe | {"shares_every": 1}, tmp_path / "often")
    start(recipe | {"shares_every": 0}, tmp_path / "never")
    often, never = state_of(tmp_path / "often"), state_of(tmp_path / "never")
    assert often["balance"]["measured"] == 6 and never["balance"]["measured"] == 0
    assert_identical(often["vae"], never["vae"])
