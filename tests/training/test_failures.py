"""What can go wrong in a long run, done on purpose: the run goes on, or what it had is kept."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import soundfile
import torch
from lightning_fabric.loggers import CSVLogger

from earvae.config import ConfigError, TrainConfig
from earvae.errors import EarvaeError, WriteError
from earvae.training import log
from earvae.training import state as training_state
from earvae.training import train as training
from earvae.training.crops import CropDataset
from tests.training.recipes import assert_identical, interrupt_at, of_steps, start, state_of

ONE = SimpleNamespace(is_global_zero=True)  # what a lock asks of Fabric


def poison(monkeypatch, steps) -> None:
    """Put a NaN into the batches of the given steps (from 0)."""
    original = training.batches

    def poisoned(*arguments):
        for index, batch in enumerate(original(*arguments)):
            if index in steps:
                batch["audio"][0, 0, 5] = float("nan")
            yield batch

    monkeypatch.setattr(training, "batches", poisoned)


def test_a_non_finite_batch_changes_nothing_and_is_counted(recipe, tmp_path, monkeypatch):
    recipe = of_steps(recipe, 2) | {"validation": None}
    with monkeypatch.context() as patch:
        poison(patch, {1})
        start(recipe, tmp_path / "poisoned")
    state = state_of(tmp_path / "poisoned")
    assert state["counters"]["non_finite_steps"] == 1
    assert all(torch.isfinite(t).all() for t in state["vae"].values())
    # the same as if the second step had not been taken
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        start(recipe, tmp_path / "one")
    one = state_of(tmp_path / "one")
    for key in ("vae", "ema"):
        assert_identical(state[key], one[key])
    assert_identical(state["optimiser"]["state"], one["optimiser"]["state"])


def test_a_non_finite_batch_leaves_the_discriminator_alone_too(staged, tmp_path, monkeypatch):
    adversarial = staged["stages"][1] | {"steps": 3}
    recipe = staged | {"stages": [adversarial]}
    with monkeypatch.context() as patch:
        poison(patch, {2})  # the first one that trains both sides
        start(recipe, tmp_path / "poisoned")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        start(recipe, tmp_path / "two")
    state, two = state_of(tmp_path / "poisoned"), state_of(tmp_path / "two")
    assert state["counters"]["non_finite_steps"] == 1
    for key in ("vae", "discriminator"):
        assert_identical(state[key], two[key])


def test_nothing_but_non_finite_batches_ends_the_run_with_its_weights_kept(
    recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "NON_FINITE_LIMIT", 3)
    poison(monkeypatch, set(range(100)))
    recipe = recipe | {"validation": None}
    with pytest.raises(training.TrainingError, match="3 steps in a row gave no finite gradient"):
        start(recipe, tmp_path)
    state = state_of(tmp_path)
    assert state["step"] == 3
    assert all(torch.isfinite(t).all() for t in state["vae"].values())


def test_a_flac_spoilt_in_its_middle_is_drawn_again_and_counted(recipe, tmp_path):
    source = tmp_path / "music"
    shutil.copytree(recipe["data"]["sources"][0]["tracks"], source)
    audio, rate = soundfile.read(source / "0.wav")
    soundfile.write(source / "spoilt.flac", audio, rate)
    whole = (source / "spoilt.flac").read_bytes()
    third = len(whole) // 3
    (source / "spoilt.flac").write_bytes(whole[:third] + bytes(third) + whole[2 * third :])
    data = recipe["data"] | {"sources": [{"tracks": str(source)}]}
    assert start(recipe | {"data": data, "validation": None}, tmp_path / "run") == 0
    state = state_of(tmp_path / "run")
    assert state["step"] == 6
    assert state["counters"]["dropped_broken"] > 0


def test_files_left_out_are_told_by_name(recipe, tmp_path, capfd):
    music = tmp_path / "music"
    shutil.copytree(recipe["data"]["sources"][0]["tracks"], music)
    (music / "text.wav").write_text("this is not audio")
    data = recipe["data"] | {"sources": [{"tracks": str(music)}]}
    start(of_steps(recipe, 1) | {"validation": None, "data": data}, tmp_path / "run")
    told = "".join(capfd.readouterr())
    assert "2 tracks, 1 left out" in told
    assert f"left out: {music / 'text.wav'}" in told


def test_a_killed_worker_is_replaced_and_the_result_is_the_same(recipe, tmp_path, monkeypatch):
    recipe = recipe | {"validation": None, "data": recipe["data"] | {"workers": 1}}
    recipe["linear_code_crops"] = 4
    start(recipe, tmp_path / "whole")
    original = training.train_step
    killed = []

    def killing(*arguments):
        if arguments[3].step == 3 and not killed:
            killed.append(multiprocessing.active_children()[0])
            os.kill(killed[0].pid, signal.SIGKILL)
        return original(*arguments)

    monkeypatch.setattr(training, "train_step", killing)
    # the loader prefetches, so that without this the last batches would be there already
    long = of_steps(recipe, 12)
    assert start(long, tmp_path / "killed") == 0
    monkeypatch.undo()
    start(long, tmp_path / "not killed")
    state = state_of(tmp_path / "killed")
    assert killed and state["counters"]["restarted_loaders"] == 1
    assert_identical(state["vae"], state_of(tmp_path / "not killed")["vae"])


class FullDisk:
    """torch.save of a disk that fills up while it writes."""

    def __init__(self, monkeypatch) -> None:
        self.full = True
        save = torch.save

        def write(content, path):
            if not self.full:
                return save(content, path)
            path.write_bytes(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(torch, "save", write)


def test_a_full_disk_at_the_end_keeps_the_last_good_checkpoint(recipe, tmp_path, monkeypatch):
    start(of_steps(recipe, 1), tmp_path)
    before = (tmp_path / training_state.CHECKPOINT).read_bytes()
    FullDisk(monkeypatch)
    with pytest.raises(WriteError, match="could not be written: .*No space left"):
        start(of_steps(recipe, 2), tmp_path)
    assert (tmp_path / training_state.CHECKPOINT).read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_disk_that_is_full_for_a_while_does_not_end_the_run(recipe, tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    original = training.save
    failures = []

    def save(*arguments):
        disk.full = arguments[3].step == 2
        try:
            return original(*arguments)
        except WriteError as error:
            failures.append(error)
            raise

    monkeypatch.setattr(training, "save", save)
    assert start(recipe | {"checkpoint_every": 2}, tmp_path) == 0
    assert len(failures) == 1
    assert state_of(tmp_path)["step"] == 6


def test_a_log_that_cannot_be_written_does_not_end_the_run(recipe, tmp_path, monkeypatch, capfd):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log.RunLog, "_append", full)
    assert start(recipe, tmp_path) == 0
    assert "".join(capfd.readouterr()).count("No space left on device") == 1


def test_figures_that_are_not_finite_are_valid_json(recipe, tmp_path, monkeypatch):
    poison(monkeypatch, {1})
    start(of_steps(recipe, 2) | {"validation": None}, tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert "NaN" not in lines[1]
    assert json.loads(lines[1])["loss/total"] is None


@pytest.mark.parametrize("content", [b"", b"this is not a checkpoint", b"PK\x03\x04 nor is this"])
def test_a_damaged_checkpoint_is_named(recipe, tmp_path, content):
    (tmp_path / training_state.CHECKPOINT).write_bytes(content)
    with pytest.raises(EarvaeError, match="checkpoint.pt: not ") as caught:
        start(recipe, tmp_path)
    assert "weights_only" not in str(caught.value)


def test_a_checkpoint_that_would_run_code_is_refused(recipe, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"config": Payload()}, tmp_path / training_state.CHECKPOINT)
    with pytest.raises(EarvaeError, match="checkpoint.pt: .*it refers to code"):
        start(recipe, tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 5}, "seed"),
        ({"ema_decay": 0.5}, "ema_decay"),
        ({"optimiser": {"warmup_steps": 3}}, "stages.0.optimiser.warmup_steps"),
        ({"objective": {"weights": {"kl": 1.0}}}, "stages.0.objective.resolutions"),
    ],
)
def test_a_config_changed_before_resume_is_refused_by_key(recipe, tmp_path, change, key):
    start(of_steps(recipe, 1), tmp_path)
    with pytest.raises(ConfigError, match=f"belongs to a run with another .*{key}"):
        start(of_steps(recipe, 2) | change, tmp_path)


def test_what_is_done_cannot_be_shortened(staged, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 6)
    start(staged, tmp_path)
    monkeypatch.undo()
    warm_up, adversarial, continuation = staged["stages"]
    for stages, key in (
        ([warm_up | {"steps": 2}, adversarial, continuation], "stages.0.steps"),
        ([warm_up, adversarial | {"steps": 2}, continuation], "stages.1.steps"),
        ([warm_up], "stages.1"),
    ):
        with pytest.raises(ConfigError, match=key):
            start(staged | {"stages": stages}, tmp_path)
    longer = [warm_up, adversarial | {"steps": 4}, continuation | {"steps": 1}]
    assert start(staged | {"stages": longer}, tmp_path) == 0
    assert state_of(tmp_path)["step"] == 3 + 4 + 1


def test_reporting_workers_and_memory_may_change(recipe, tmp_path):
    start(of_steps(recipe, 1), tmp_path)
    changed = of_steps(recipe, 2) | {"log_every": 2, "validate_every": 1, "checkpoint_every": 1}
    changed |= {"shares_every": 7, "recompute": True}
    assert start(changed | {"data": recipe["data"] | {"workers": 1}}, tmp_path) == 0
    assert state_of(tmp_path)["step"] == 2


def test_the_state_that_failed_to_save_is_told_on_every_rank(tmp_path, monkeypatch):
    """torch reports some full disks as RuntimeError; callers get an error that names the run."""

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed")

    monkeypatch.setattr(torch, "save", full)

    class OneRank:
        is_global_zero = True

        def broadcast(self, value):
            return value

    class Counted:
        step = 1

        def gather_counts(self, _):
            pass

        def state_dict(self, _):
            return {}

    with pytest.raises(WriteError, match=f"{tmp_path}: the checkpoint could not be written"):
        training_state.save(OneRank(), None, tmp_path, Counted())


@pytest.mark.parametrize(
    "options",
    [{"strategy": "nonsense"}, {"devices": "two"}, {"accelerator": "abacus"}, {"devices": 0}],
)
def test_devices_and_strategies_that_do_not_exist_are_one_line(recipe, tmp_path, options):
    with pytest.raises(ConfigError) as caught:
        training.train(TrainConfig(**recipe), tmp_path, **{"accelerator": "cpu"} | options)
    assert str(list(options.values())[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(recipe, tmp_path, monkeypatch):
    """An update can overflow although its gradient was finite."""
    recipe = recipe | {"validation": None, "checkpoint_every": 1}
    original = training.train_step

    def overflowing(*arguments):
        figures = original(*arguments)
        state = arguments[3]
        if state.step == 2:
            with torch.no_grad():
                state.ema.decoder.shape.weight[0, 0] = float("inf")
        return figures

    monkeypatch.setattr(training, "train_step", overflowing)
    with pytest.raises(training.TrainingError, match="ema.decoder.shape.weight is not finite"):
        start(recipe, tmp_path)
    assert state_of(tmp_path)["step"] == 1


class Broken(CSVLogger):
    """A logger whose writing thread has died."""

    def log_metrics(self, *_, **__):
        raise RuntimeError("the queue is closed")

    def finalize(self, *_):
        raise RuntimeError("the queue is closed")


def test_a_logger_that_fails_in_any_way_does_not_end_the_run(recipe, tmp_path, capfd):
    config = TrainConfig(**recipe)
    loggers = [Broken(tmp_path)]
    assert training.train(config, tmp_path, accelerator="cpu", loggers=loggers) == 0
    assert "".join(capfd.readouterr()).count("the queue is closed") == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 7


def test_windows_has_no_sigchld(recipe, tmp_path, monkeypatch):
    monkeypatch.delattr(signal, "SIGCHLD")
    assert start(of_steps(recipe, 1), tmp_path) == 0


def full_memory(*_):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")


def test_an_error_in_a_decoding_process_is_told_and_not_tried_again(
    recipe, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(CropDataset, "__getitem__", full_memory)
    recipe = recipe | {"data": recipe["data"] | {"workers": 1}, "linear_code_crops": 0}
    with pytest.raises(training.TrainingError, match="stage warm-up, after step 0.*/dev/shm"):
        start(recipe | {"validation": None}, tmp_path)
    assert "a decoding process died" not in capfd.readouterr().err


def test_what_a_later_stage_lacks_is_told_before_the_first_step(recipe, tmp_path):
    missing = {"sources": [{"tracks": str(tmp_path / "nowhere")}]}
    recipe |= {"stages": [recipe["stages"][0], {"name": "later", "steps": 1, "data": missing}]}
    with pytest.raises(ConfigError, match=r"nowhere: no such folder.*stage later"):
        start(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("place", [os.mkdir, os.mkfifo])
def test_a_log_that_is_no_file_does_not_end_or_hold_up_the_run(recipe, tmp_path, capfd, place):
    recipe = recipe | {"validation": None}
    start(of_steps(recipe, 1), tmp_path)
    (tmp_path / "log.jsonl").unlink()
    place(tmp_path / "log.jsonl")
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").write_text("a file where TensorBoard wants a folder")
    assert start(of_steps(recipe, 2), tmp_path) == 0
    assert "".join(capfd.readouterr()).count("logging failed") == 1


def test_a_line_that_a_kill_has_torn_is_alone_in_being_lost(recipe, tmp_path):
    recipe = recipe | {"validation": None}
    start(of_steps(recipe, 1), tmp_path)
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 2, "lo')
    start(of_steps(recipe, 2), tmp_path)
    assert json.loads(path.read_text().splitlines()[-1])["step"] == 2


def test_a_closed_pipe_does_not_end_the_run(recipe, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        monkeypatch.setattr(sys, "stderr", nobody)
        assert start(of_steps(recipe, 2) | {"validation": None}, tmp_path) == 0
        monkeypatch.undo()
    assert state_of(tmp_path)["step"] == 2


def test_names_of_a_recipe_are_shown_as_they_are(recipe, tmp_path, monkeypatch):
    """Also on a terminal, where the progress would take them for markup."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    stage = recipe["stages"][0] | {"name": "[/b]", "steps": 1}
    assert start(recipe | {"stages": [stage], "validation": None}, tmp_path) == 0


def test_the_best_weights_are_not_replaced_by_some_that_are_not_finite(
    recipe, tmp_path, monkeypatch
):
    recipe = recipe | {"validate_every": 1, "best_by": "validation/si_sdr"}
    figures = iter([1.0, 2.0])

    def measured(_fabric, _log, _data, _items, vae, *_):
        figure = next(figures)
        if figure == 2.0:
            with torch.no_grad():
                vae.decoder.shape.weight[0, 0] = float("nan")
        return {"validation/si_sdr": figure}

    monkeypatch.setattr(training, "validate", measured)
    with pytest.raises(training.TrainingError, match="ema.decoder.shape.weight is not finite"):
        start(recipe, tmp_path)
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 1


def hold_for_ever(folder, tell: int) -> None:
    """In a process of its own: hold a run folder, and start a process that outlives this one."""
    try:
        os.setsid()
        with training_state.alone(ONE, folder):
            if os.fork():
                os.write(tell, b"held")
            signal.pause()
    finally:
        os._exit(1)


def test_a_run_folder_is_held_by_one_process_and_not_by_those_that_a_dead_one_left(tmp_path):
    told, tell = os.pipe()
    holder = os.fork()
    if not holder:
        hold_for_ever(tmp_path, tell)
    try:
        assert os.read(told, 4) == b"held"
        with pytest.raises(ConfigError, match=f"another process .*process {holder} on "):
            with training_state.alone(ONE, tmp_path):
                pass
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with training_state.alone(ONE, tmp_path):
            pass
    finally:
        os.killpg(holder, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "another's"])
def test_a_lock_that_is_no_file_of_ours_is_refused(tmp_path, kind):
    (tmp_path / "precious").write_text("kept")
    lock = tmp_path / training_state.LOCK
    make = {
        "pipe": os.mkfifo, "folder": os.mkdir, "link": lambda at: at.symlink_to("precious"),
        "another's": lambda at: os.link(tmp_path / "precious", at),
    }  # fmt: skip
    make[kind](lock)
    with pytest.raises(EarvaeError, match=training_state.LOCK):
        with training_state.alone(ONE, tmp_path):
            pass
    assert (tmp_path / "precious").read_text() == "kept"
