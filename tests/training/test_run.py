"""A run: what it writes, how it goes on, and what it survives."""

import json
import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch

from earvae.config import ConfigError, ObjectiveWeights, TrainConfig
from earvae.model.vae import EarVAE
from earvae.training import step
from earvae.training import train as training
from earvae.training.set_up import initial_model
from tests.training.recipes import assert_identical, interrupt_at, of_steps, start, state_of


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(recipe, tmp_path, monkeypatch):
    assert start(recipe, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert start(recipe, tmp_path / "parts") == training.INTERRUPTED
    assert state_of(tmp_path / "parts")["step"] == 3
    assert start(recipe, tmp_path / "parts") == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole["step"] == 6
    for key in ("vae", "ema", "optimiser", "step"):
        assert_identical(whole[key], parts[key])


def test_a_signal_to_the_whole_group_saves_too(recipe, tmp_path, monkeypatch):
    """Terminals and schedulers signal the decoding workers as well as the main process."""
    original = step.latent_figures  # called between the batch's arrival and the update

    def interrupted(*arguments):
        workers = multiprocessing.active_children()
        assert workers
        group = [str(process.pid) for process in workers] + [str(os.getpid())]
        subprocess.run(["kill", "-TERM", *group], check=True)
        time.sleep(0.2)  # a worker that dies of it is noticed by then
        return original(*arguments)

    monkeypatch.setattr(step, "latent_figures", interrupted)
    recipe = recipe | {"data": recipe["data"] | {"workers": 1}, "linear_code_crops": 2}
    for done in (1, 2, 3):
        assert start(recipe, tmp_path) == training.INTERRUPTED
        assert state_of(tmp_path)["step"] == done


def test_a_signal_during_the_run_leaves_the_handlers_as_they_were(recipe, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    interrupt_at(monkeypatch, 1)
    start(recipe, tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_run_leaves_weights_figures_audio_and_pictures(recipe, tmp_path):
    start(recipe, tmp_path)
    vae = EarVAE.from_pretrained(tmp_path / "ema")
    saved = state_of(tmp_path)["ema"]["decoder.shape.weight"]
    assert torch.equal(vae.decoder.shape.weight, saved)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    weights = {name: w for name, w in ObjectiveWeights().model_dump().items() if w > 0}
    for line in lines[:-1]:  # the last one is the validation
        for name, weight in weights.items():
            assert line[f"weighted/{name}"] == pytest.approx(weight * line[f"raw/{name}"], rel=1e-4)
        parts = sum(line[f"weighted/{name}"] for name in weights)
        assert line["loss/total"] == pytest.approx(parts, rel=1e-4)
    assert {f"validation/{name}" for name in weights} <= lines[-1].keys()
    assert {"validation/si_sdr", "validation/sdr_0_120"} <= lines[-1].keys()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    tags = events.Tags()
    scalars = {f"{kind}/{name}" for kind in ("raw", "weighted") for name in weights}
    assert scalars <= set(tags["scalars"])
    assert "clip_0/reconstruction" in tags["images"]
    assert "clip_0/reconstruction" in tags["audio"]


def test_more_steps_are_no_other_configuration(recipe, tmp_path):
    start(of_steps(recipe, 1), tmp_path)
    assert start(of_steps(recipe, 2), tmp_path) == 0
    assert state_of(tmp_path)["step"] == 2


def test_initial_weights_of_another_shape_are_refused(recipe, tmp_path):
    start(of_steps(recipe, 1), tmp_path / "first")
    other = recipe | {"initial_weights": str(tmp_path / "first" / "ema")}
    other["model"] = recipe["model"] | {"width": 24}
    with pytest.raises(ConfigError, match="its model configuration is not the one under"):
        start(other, tmp_path / "second")


def test_a_run_can_start_from_the_weights_of_another(recipe, tmp_path):
    start(recipe, tmp_path / "first")
    second = TrainConfig(**recipe | {"initial_weights": str(tmp_path / "first" / "ema")})
    vae = initial_model(second)
    assert vae.identity == EarVAE.from_pretrained(tmp_path / "first" / "ema").identity
