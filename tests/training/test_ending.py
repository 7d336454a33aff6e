"""Runs end: in their time, by signals and with a line after any failure, and leave no process."""

import ast
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from earvae.config import ConfigError, TrainConfig
from earvae.model.vae import EarVAE
from earvae.training import train as training
from earvae.training.ending import INTERRUPTED, Budget, Stop, Workers, explain
from tests.training.recipes import interrupt_at, of_steps, start, state_of

# What happens at the third step, in place of it.
FAULTS = {
    "out of memory": 'raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")',
    # a mutex locked twice: neither Python nor a signal gets the main thread out of it
    "hangs": (
        'import ctypes; lock = ctypes.CDLL(None).pthread_mutex_lock; '
        'mutex = ctypes.create_string_buffer(64); print("hangs", flush=True); '
        'lock(mutex); lock(mutex)'
    ),
}  # fmt: skip
PROGRAM = """
import sys, torch
from earvae.cli.main import main
from earvae.training import ending, train
ending.GRACE = {grace}
step = train.train_step
def faulty(fabric, config, place, state, *rest):
    if state.step == 2:
        import multiprocessing
        print([process.pid for process in multiprocessing.active_children()], flush=True)
        {fault}
    return step(fabric, config, place, state, *rest)
train.train_step = faulty
sys.argv = ["earvae", "train", {recipe!r}, "--run", {run!r}, "--device", "cpu"]
main()
"""


def faulty_run(recipe: dict, folder, fault: str, grace: float = 30.0) -> subprocess.Popen:
    """``earvae train`` with a decoding process, and the fault at step 3."""
    recipe = of_steps(recipe, 200) | {
        "validation": None, "linear_code_crops": 0, "checkpoint_every": 2,
        "data": recipe["data"] | {"workers": 1},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    program = PROGRAM.format(
        fault=FAULTS[fault],
        grace=grace,
        recipe=str(folder / "recipe.yaml"),
        run=str(folder / "run"),
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def lines_until(process: subprocess.Popen, word: str) -> list[str]:
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if word in line:
            return lines
    raise AssertionError(process.stderr.read()[-2000:])


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_ended(pids: list[int], seconds: float = 3.0) -> bool:
    """Whether the processes are gone, or go at once: a killed one takes a moment on a busy machine.

    Less than the five seconds after which a loader's own watch would end it.
    """
    until = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(is_alive(pid) for pid in pids)


def test_out_of_memory_ends_the_process_and_its_workers_with_one_line(recipe, tmp_path):
    process = faulty_run(recipe, tmp_path, "out of memory")
    workers = json.loads(lines_until(process, "[")[-1])
    began = time.monotonic()
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'run'}: stage warm-up, after step 2: out of memory")
    assert workers and all_ended(workers)
    assert state_of(tmp_path / "run")["step"] == 2


@pytest.mark.parametrize(
    ("numbers", "grace", "status", "reader"),
    [
        ([signal.SIGTERM], 1.0, 128 + signal.SIGTERM, False),
        ([signal.SIGINT, signal.SIGINT], 60.0, 128 + signal.SIGINT, True),
    ],
)
def test_signals_end_a_run_that_hangs(recipe, tmp_path, numbers, grace, status, reader):
    """Whether or not the terminal that it writes to is still there."""
    process = faulty_run(recipe, tmp_path, "hangs", grace)
    workers = json.loads(lines_until(process, "hangs")[-2])
    if not reader:
        process.stderr.close()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.5)
    assert process.wait(timeout=10) == status
    if reader:
        assert "ended without saving" in process.stderr.read().strip().splitlines()[-1]
    assert workers and all_ended(workers)
    assert state_of(tmp_path / "run")["step"] == 2


def test_a_run_ends_in_its_minutes_validated_and_saved_and_goes_on(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Budget, "SPARE", 1.0)
    config = TrainConfig(**of_steps(recipe, 100_000) | {"log_every": 1000, "validate_every": 10**6})
    began = time.monotonic()
    status = training.train(config, tmp_path, accelerator="cpu", minutes=3 / 60)
    assert time.monotonic() - began < 3
    assert status == training.INTERRUPTED
    step = state_of(tmp_path)["step"]
    assert step > 1
    EarVAE.from_pretrained(tmp_path / "ema")
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == step and "validation/si_sdr" in last
    assert start(of_steps(recipe, step + 1), tmp_path) == 0
    assert state_of(tmp_path)["step"] == step + 1


def test_steps_done_before_the_time_are_status_0(recipe, tmp_path):
    config = TrainConfig(**of_steps(recipe, 1))
    assert training.train(config, tmp_path, accelerator="cpu", minutes=10) == 0


def test_the_time_reserved_is_that_of_what_comes_after_the_last_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget = Budget(1.0, started=0.0)
    budget.step_took(40)  # the first one compiles
    budget.step_took(1)
    for what, seconds in (("validation", 9), ("checkpoint", 2)):
        with budget.measured(what):
            now[0] += seconds
    budget.expected["validation"] = 1000  # what was measured counts
    now[0] = 60 - 5 - 1.5 * 12 - 0.1
    assert not budget.is_over()
    now[0] += 0.2
    assert budget.is_over()
    assert not Budget(None, started=-1e9).is_over()


def test_processes_of_the_caller_are_not_taken_for_workers():
    context = multiprocessing.get_context("fork")
    before = context.Process(target=time.sleep, args=(60,), daemon=True)
    before.start()
    workers = Workers()
    after = context.Process(target=time.sleep, args=(60,), daemon=True)
    after.start()
    try:
        workers.kill()
        after.join(5)
        assert after.exitcode == -signal.SIGKILL
        assert before.is_alive()
    finally:
        before.kill()


def test_a_second_signal_after_one_that_was_followed_is_harmless():
    """Handlers and the watching thread are gone when the run has ended."""
    noted = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
    try:
        with Stop(Workers()) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.reason == "signal" and not noted
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted
    finally:
        signal.signal(signal.SIGTERM, before)


def caught_in_a_worker() -> RuntimeError:
    return RuntimeError(
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "worker.py", line 1, in loop\nRuntimeError: unable to allocate shared '
        "memory(shm) for file </torch_1>: No space left on device (28)\n"
    )


def test_failures_are_told_in_one_line_with_what_to_do():
    compiler = type("BackendCompilerFailed", (RuntimeError,), {"__module__": "torch._dynamo.exc"})
    expected = {
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"): "batch_size",
        MemoryError(): "out of memory (MemoryError)",
        caught_in_a_worker(): "/dev/shm) is full",
        compiler("backend='inductor' raised:\nInvalidCxx: No C++ compiler\n\nmore"): (
            "InvalidCxx: No C++ compiler); `compile: false`"
        ),
        KeyError("sources"): "KeyError: 'sources'",
    }  # fmt: skip
    for error, part in expected.items():
        line = explain(error)
        assert part in line and "\n" not in line, line


def test_a_closed_terminal_stops_a_run_unless_that_is_ignored(recipe, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 1, signal.SIGHUP)
    recipe = recipe | {"validation": None}
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert start(recipe, tmp_path / "closed") == INTERRUPTED
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert start(of_steps(recipe, 2), tmp_path / "nohup") == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert state_of(tmp_path / "closed")["step"] == 1


def test_a_folder_is_trained_in_by_one_process_at_a_time(recipe, tmp_path, monkeypatch):
    """A second one is refused; the first goes on."""
    original = training.train_step
    refused = []

    def meanwhile(*arguments):
        if not refused:
            with pytest.raises(
                ConfigError, match="another process trains in this folder"
            ) as caught:
                start(recipe, tmp_path)
            refused.append(caught)
        return original(*arguments)

    monkeypatch.setattr(training, "train_step", meanwhile)
    assert start(of_steps(recipe, 2), tmp_path) == 0
    assert refused and state_of(tmp_path)["step"] == 2
    assert start(of_steps(recipe, 3), tmp_path) == 0


def test_the_first_line_comes_before_what_is_slow_to_import(tmp_path):
    """A recipe that is not there: the run ends early, and the heavy modules come after the line."""
    program = (
        "import sys, typer; from earvae.cli import main; told = []\n"
        "echo = typer.echo\n"
        "def listen(text, **rest):\n"
        "    told.append((text, 'torch' in sys.modules))\n"
        "    echo(text, **rest)\n"
        "typer.echo = listen\n"
        "sys.argv = ['earvae', 'train', 'nothing.yaml', '--run', 'r']\n"
        "try: main.app()\n"
        "except SystemExit: print(told)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    told = ast.literal_eval(done.stdout.splitlines()[-1])
    assert told[0] == ("recipe nothing.yaml; run r", False)
    assert done.stderr.startswith("error: nothing.yaml: no such file")


def test_without_a_terminal_a_line_a_minute_tells_where_the_run_is(recipe, tmp_path, capfd):
    start(recipe, tmp_path)  # six steps, each logged, in less than a minute
    lines = [line for line in capfd.readouterr().err.splitlines() if "audio seconds" in line]
    assert len(lines) == 1
    assert re.match(r"stage warm-up \(1/1\): step 1 of 6, loss \d+\.\d+, \d+\.\d audio", lines[0])
