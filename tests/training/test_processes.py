"""Several processes train as one does with the larger batch, and stop and go on together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from lightning_fabric import Fabric

from earvae.config import TrainConfig
from earvae.training import set_up as starting
from tests.training.recipes import (
    assert_identical,
    assert_same_weights,
    from_a_saved_start,
    of_steps,
    start,
    state_of,
)

STEPS = 20  # through the switch to the adversarial stage at step 8


def recipe_of(staged: dict, batch_size: int) -> dict:
    data = staged["data"] | {"batch_size": batch_size, "workers": 1}
    warm_up, adversarial, _ = staged["stages"]
    adversarial = adversarial | {"steps": STEPS - 8, "freeze": ["encoder"]}
    stages = [warm_up | {"steps": 8}, adversarial]
    # Adam enlarges the rounding of small gradients, and Muon multiplies in eight bits; gentle steps
    # keep it small
    optimiser = {"warmup_steps": 0, "learning_rate": 1e-4, "muon": {"learning_rate": 1e-5}}
    return staged | {"data": data, "stages": stages, "optimiser": optimiser}


def launch(
    recipe: dict, folder, strategy: str, wait: bool = True, program=("-m", "earvae.cli.main")
) -> subprocess.Popen:
    """``earvae train`` on two CPU processes, as a user would start it."""
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(recipe))
    process = subprocess.Popen(
        [
            sys.executable, *program, "train", str(config), "--run", str(folder),
            "--device", "cpu", "--devices", "2", "--strategy", strategy, "--threads", "1",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if wait:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]
    return process


@pytest.fixture(scope="module")
def saved_start(staged_recipe, tmp_path_factory) -> dict:
    """The recipe of three stages, beginning with saved weights."""
    return from_a_saved_start(staged_recipe, tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def alone(saved_start, tmp_path_factory):
    """The folder of a run of one process with batches of four."""
    folder = tmp_path_factory.mktemp("alone")
    start(recipe_of(saved_start, 4), folder)
    return folder


@pytest.fixture(scope="module")
def together(saved_start, tmp_path_factory):
    """Recipe and folder of a run of two processes with batches of two, by strategy; each once."""
    made = {}

    def get(strategy: str):
        if strategy not in made:
            recipe = recipe_of(saved_start, 2)
            if strategy == "fsdp":  # three items, one a batch: the ranks have two and one
                validation = saved_start["data"] | {"batch_size": 1}
                recipe |= {"validation": validation, "validation_items": 3}
            folder = tmp_path_factory.mktemp("together") / strategy
            launch(recipe, folder, strategy)
            made[strategy] = recipe, folder
        return made[strategy]

    return get


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one_with_the_doubled_batch(alone, together, strategy):
    _, folder = together(strategy)
    one, two = state_of(alone), state_of(folder)
    assert one["step"] == two["step"] == STEPS
    for key in ("vae", "ema", "discriminator"):
        assert_same_weights(two[key], one[key])
    assert one["counters"] == two["counters"]


@pytest.mark.long
def test_two_processes_killed_mid_stage_and_resumed_end_where_the_whole_run_does(
    together, tmp_path
):
    recipe, whole_run = together("ddp")
    slow = recipe | {"checkpoint_every": 1}
    process = launch(slow, tmp_path / "parts", "ddp", wait=False)
    log = tmp_path / "parts" / "log.jsonl"
    deadline = time.monotonic() + 200
    while not (log.exists() and log.read_text().count("\n") >= 10):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 75, output[-3000:]
    assert 10 <= state_of(tmp_path / "parts")["step"] < STEPS
    launch(recipe, tmp_path / "parts", "ddp")
    whole, parts = state_of(whole_run), state_of(tmp_path / "parts")
    for key in ("vae", "ema", "discriminator", "optimiser", "discriminator_optimiser", "step"):
        assert_identical(whole[key], parts[key])


@pytest.mark.long
def test_a_run_may_go_on_with_another_strategy(together, tmp_path):
    """Checkpoints hold whole tensors."""
    recipe, folder = together("fsdp")
    shutil.copytree(folder, tmp_path / "run")
    warm_up, adversarial = recipe["stages"]
    longer = recipe | {"stages": [warm_up, adversarial | {"steps": adversarial["steps"] + 2}]}
    launch(longer, tmp_path / "run", "ddp")
    assert state_of(tmp_path / "run")["step"] == STEPS + 2


def test_ranks_with_unequal_batches_of_validation_stay_in_step(together):
    """The first rank has two of them, the second one; a sharded model's forward pass is
    collective."""
    _, folder = together("fsdp")
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert any("validation/si_sdr" in json.loads(line) for line in lines)


ONE_RANK_FAILS = """
import os
from earvae.cli.main import main
from earvae.training import train
step = train.train_step
def faulty(fabric, config, place, state, *rest):
    if fabric.global_rank == 1 and state.step == 1:
        print("pid", os.getpid(), flush=True)
        raise KeyError("on purpose")
    return step(fabric, config, place, state, *rest)
train.train_step = faulty
if __name__ == "__main__":
    main()
"""


def test_a_failure_of_one_rank_ends_all_with_a_line(staged, tmp_path):
    script = tmp_path / "one_rank_fails.py"
    script.write_text(ONE_RANK_FAILS)
    recipe = of_steps(staged, 3) | {"checkpoint_every": 1}
    process = launch(recipe, tmp_path / "run", "ddp", wait=False, program=[str(script)])
    for line in process.stdout:
        if line.startswith("pid"):
            break
    began = time.monotonic()
    output, _ = process.communicate(timeout=20)  # both ranks hold this pipe
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    failure = "rank 1: stage warm-up, after step 1: KeyError: 'on purpose'"
    assert f"error: {tmp_path / 'run'}: {failure}" in output
    assert "Traceback" not in output
    assert state_of(tmp_path / "run")["step"] == 1


def first_fits(fabric, config, folder):
    seen = []
    original = starting.initial_model

    def initial_model(config, fit_start=True):
        seen.append(fit_start)
        return original(config, fit_start=fit_start)

    starting.initial_model = initial_model
    state = starting.set_up(fabric, config, folder)
    torch.save((seen, state.vae.state_dict()), folder / f"rank{fabric.global_rank}.pt")


def test_the_linear_start_is_fitted_on_the_first_rank_and_the_same_on_all(recipe, tmp_path):
    config = TrainConfig(**recipe)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    fabric.launch(first_fits, config, tmp_path)
    (first, one), (second, two) = (torch.load(tmp_path / f"rank{n}.pt") for n in (0, 1))
    assert (first, second) == ([True], [False])
    assert_identical(dict(one), dict(two))
    assert one["encoder.linear_level.weight"].any()  # zeros until it is fitted
