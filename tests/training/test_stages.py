"""Stages switch at their step, train what they should, and survive a resume."""

import json
import re

import pytest
import torch

from earvae.config import ConfigError, StageConfig, TrainConfig
from earvae.training import set_up
from earvae.training import train as training
from earvae.training.stages import crops_before, freeze, locate
from tests.training.recipes import (
    assert_identical,
    assert_same_weights,
    from_a_saved_start,
    interrupt_at,
    start,
    state_of,
)


def stage(name: str, steps: int, batch_size: int = 1, **options) -> StageConfig:
    data = {"sources": [{"tracks": "music"}], "batch_size": batch_size}
    return StageConfig(name=name, steps=steps, data=data, **options)


def test_a_step_belongs_to_the_stage_that_holds_it():
    stages = [stage("a", 3), stage("b", 2), stage("c", 4)]
    places = [locate(stages, step) for step in range(9)]
    assert [p.stage.name for p in places] == list("aaabbcccc")
    assert [p.done for p in places] == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    end = locate(stages, 9)
    assert (end.index, end.done) == (2, 4)


def test_crops_are_counted_over_stages_of_different_batches():
    stages = [stage("a", 3, 2), stage("b", 2, 5, accumulate=2), stage("c", 1)]
    # two ranks: 4 crops a step in a, 20 in b, 2 in c
    counts = [crops_before(stages, step, world_size=2) for step in range(7)]
    assert counts == [0, 4, 8, 12, 32, 52, 54]


def test_a_stage_starts_from_the_shared_blocks_and_says_what_differs(recipe):
    config = TrainConfig(
        **recipe
        | {
            "stages": [
                {"name": "a", "steps": 1},
                {"name": "b", "steps": 1, "optimiser": {"learning_rate": 0.5}, "data": {"seed": 9}},
            ]
        }
    )
    first, second = config.stages
    assert first.optimiser.warmup_steps == second.optimiser.warmup_steps == 2
    assert (first.optimiser.learning_rate, second.optimiser.learning_rate) == (3e-4, 0.5)
    assert (first.data.seed, second.data.seed) == (0, 9)
    assert second.data.sources == first.data.sources
    assert second.objective.resolutions == (256, 128, 64)
    assert TrainConfig(**json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": []}, "at least one is needed"),
        ({"stages": [{"name": "a", "steps": 1}, {"name": "a", "steps": 1}]}, "used twice"),
        ({"stages": [{"name": "a", "steps": 1, "stpes": 2}]}, "stpes"),
        ({"optimizer": {}}, "optimizer"),
        ({"stages": [{"name": "a", "steps": 1, "freeze": [1]}]}, "string"),
        (
            {"stages": [{"name": "a", "steps": 1, "adversarial": {"discriminator_only_steps": 2}}]},
            "larger than steps",
        ),
    ],
)
def test_mistakes_in_stages_are_refused(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**recipe | change)


def snapshots(monkeypatch) -> list[dict]:
    """Copies of both networks' parameters after every step of the next run."""
    taken = []
    original = training.train_step

    def watched(*arguments):
        figures = original(*arguments)
        state = arguments[3]
        copies = {"figures": figures, "place": arguments[2]}
        for name in ("vae", "ema", "discriminator"):
            network = getattr(state, name)
            copies[name] = {k: v.detach().clone() for k, v in network.named_parameters()}
        taken.append(copies)
        return figures

    monkeypatch.setattr(training, "train_step", watched)
    return taken


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_stage_updates_what_it_should(staged, tmp_path, monkeypatch):
    """Three steps of the generator, two of the discriminator alone, then both."""
    taken = snapshots(monkeypatch)
    start(staged, tmp_path)
    assert [s["place"].stage.name for s in taken] == (
        ["warm-up"] * 3 + ["adversarial"] * 5 + ["continuation"] * 2
    )
    everything = taken[0]["vae"].keys()
    for step in range(1, 10):
        before, after = taken[step - 1], taken[step]
        generator = changed(before["vae"], after["vae"])
        discriminator = changed(before["discriminator"], after["discriminator"])
        average = changed(before["ema"], after["ema"])
        if step < 3:
            assert generator == everything and not discriminator
        elif step < 5:
            assert not generator and not average and discriminator
        else:
            assert generator == everything and discriminator
    # one scale is drawn a step; in the end both have learned
    assert changed(taken[2]["discriminator"], taken[-1]["discriminator"]) == (
        taken[0]["discriminator"].keys()
    )


def test_the_figures_of_both_sides_are_logged(staged, tmp_path):
    start(staged, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [1] * 3 + [2] * 5 + [3] * 2
    discriminator = {f"discriminator/{name}" for name in ("real_score", "fake_score", "accuracy")}
    assert not discriminator & lines[2].keys()
    assert discriminator <= lines[3].keys() and "loss/total" not in lines[3]
    for line in lines[5:]:
        assert discriminator <= line.keys()
        assert {"gradient_norm/generator", "gradient_norm/discriminator"} <= line.keys()
        weighted = [v for k, v in line.items() if k.startswith("weighted/")]
        assert line["loss/total"] == pytest.approx(sum(weighted), rel=1e-4)
        assert line["weighted/feature_matching"] == pytest.approx(
            2 * line["raw/feature_matching"], rel=1e-5
        )
    assert lines[-1]["count/crops"] == 8 * 2 + 2 * 4


@pytest.mark.parametrize("step", [3, 4, 7, 9])
def test_a_run_interrupted_around_a_switch_ends_where_the_whole_one_does(
    staged, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert start(staged, tmp_path / "parts") == training.INTERRUPTED
    assert state_of(tmp_path / "parts")["step"] == step
    assert start(staged, tmp_path / "parts") == 0
    assert start(staged, tmp_path / "whole") == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    for key in whole.keys() - {"config"}:
        assert_identical(whole[key], parts[key])


def test_accumulated_forward_passes_equal_one_larger_batch(staged, tmp_path):
    """Through a stage switch, with the discriminator: the same crops, noise and gradients."""
    staged = from_a_saved_start(staged, tmp_path / "start")
    for accumulate in (1, 2):
        data = staged["data"] | {"batch_size": 4 // accumulate}
        stages = [s | {"accumulate": accumulate} for s in staged["stages"][:2]]
        gentle = {
            "warmup_steps": 0,
            "learning_rate": 1e-4,
        }  # Adam enlarges rounding of small gradients
        start(
            staged | {"data": data, "stages": stages, "optimiser": gentle},
            tmp_path / str(accumulate),
        )
    one, two = state_of(tmp_path / "1"), state_of(tmp_path / "2")
    for key in ("vae", "discriminator"):
        assert_same_weights(two[key], one[key])


COMPACT = {"architecture": "compact", "width": 16, "encoder_blocks": 1, "decoder_blocks": 1}


def trained_names(recipe, **stage) -> set[str]:
    config = TrainConfig(**recipe | {"model": COMPACT, "linear_code_crops": 0})
    vae = set_up.initial_model(config)
    freeze(vae, config.stages[0].model_copy(update=stage))
    return {name for name, parameter in vae.named_parameters() if parameter.requires_grad}


def test_a_stage_trains_the_networks_that_it_names_but_those_that_it_freezes(recipe):
    recipe["data"] |= {"crop_samples": 8192}
    recipe["validation"] = None
    everything = trained_names(recipe)
    decoder = {name for name in everything if name.startswith("decoder.")}
    texture = {"decoder.texture.weight", "decoder.texture.bias"}
    assert trained_names(recipe, freeze=("encoder",)) == decoder
    assert trained_names(recipe, only=("decoder.texture",)) == texture
    assert trained_names(recipe, only=("decoder",), freeze=("decoder.texture",)) == (
        decoder - texture
    )


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"freeze": ["transformers"]}, "stage warm-up: freeze: this model has no transformers"),
        ({"freeze": ["encodr"]}, "freeze: this model has no encodr; did you mean encoder?"),
        ({"only": ["decoder.otput"]}, "only: this model has no decoder.otput; did you mean"),
        ({"freeze": ["encoder", "decoder"]}, "only, freeze: nothing is left to train"),
        ({"only": ["encoder"], "freeze": ["encoder"]}, "only, freeze: nothing is left to train"),
    ],
)
def test_names_that_the_model_has_not_are_refused_before_the_first_step(
    recipe, tmp_path, stage, message
):
    """Those of a later stage too."""
    stages = [{"name": "first", "steps": 1}, recipe["stages"][0] | stage]
    with pytest.raises(ConfigError, match=re.escape(message)):
        start(recipe | {"stages": stages}, tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_stage_moves_what_it_trains_and_nothing_else(staged, tmp_path, monkeypatch):
    """After a stage of everything: what is frozen takes its averages, in which it then stays."""
    staged["stages"][1] |= {"freeze": ["encoder"]}
    staged["stages"][2] |= {"only": ["encoder"]}
    taken = snapshots(monkeypatch)
    start(staged, tmp_path)
    names = taken[0]["vae"].keys()
    for still, first, last in (("encoder.", 3, 8), ("decoder.", 8, 10)):
        averages = taken[first - 1]["ema"]
        for step in range(first, last):
            for key in ("vae", "ema"):
                moved = changed(averages, taken[step][key])
                assert not any(name.startswith(still) for name in moved), (step, key)
        assert changed(taken[first]["vae"], taken[last - 1]["vae"]) == {
            name for name in names if not name.startswith(still)
        }
    assert changed(taken[2]["vae"], taken[2]["ema"])  # there was something to take


def test_mixed_precision_trains_both_sides_with_losses_in_float32(staged, tmp_path):
    """bf16 keeps 8 bits, so terms differ by about a percent from those of float32."""
    first = staged | {"stages": staged["stages"][1:2]}
    for precision in ("32-true", "bf16-mixed"):
        config = TrainConfig(**first)
        status = training.train(config, tmp_path / precision, precision, accelerator="cpu")
        assert status == 0
    whole, mixed = (
        [json.loads(line) for line in (tmp_path / p / "log.jsonl").read_text().splitlines()]
        for p in ("32-true", "bf16-mixed")
    )
    for name in ("raw/magnitude_log", "raw/magnitude_linear", "raw/correlation_intra"):
        assert mixed[2][name] != whole[2][name]
        assert mixed[2][name] == pytest.approx(whole[2][name], rel=0.1)
    assert all(w.dtype == torch.float32 for w in state_of(tmp_path / "bf16-mixed")["vae"].values())


def test_the_average_is_even_at_first_and_exponential_later(recipe, tmp_path, monkeypatch):
    """With decay 0.75, the first four updates count evenly, each later one a quarter."""
    taken = []
    original = training.train_step

    def watched(*arguments):
        figures = original(*arguments)
        taken.append({k: v.detach().clone() for k, v in arguments[3].vae.named_parameters()})
        return figures

    monkeypatch.setattr(training, "train_step", watched)
    start(recipe | {"ema_decay": 0.75, "validation": None}, tmp_path)
    ema = state_of(tmp_path)["ema"]
    shares = [0.25 * 0.75**2] * 4 + [0.25 * 0.75, 0.25]
    for name in taken[0]:
        expected = sum(s * weights[name] for s, weights in zip(shares, taken, strict=True))
        torch.testing.assert_close(ema[name], expected, rtol=1e-5, atol=1e-7)


def test_the_generators_schedule_begins_with_its_first_step(staged, tmp_path):
    """Two steps of the discriminator alone, then a warm-up of two."""
    adversarial = staged["stages"][1] | {"optimiser": {"learning_rate": 1.0, "warmup_steps": 2}}
    start(staged | {"stages": [adversarial]}, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate/generator"] for line in lines]
    assert rates[2:4] == [0.5, 1.0]
    assert lines[0]["learning_rate/discriminator"] == pytest.approx(1e-3)
