"""A training run: set-up, the loop over stages, validation, checkpoints.

A batch's way: ``fit`` takes it from ``batches`` and gives it to ``step.train_step`` (model,
objective, discriminator), which updates both sides. Everything that a resumed run needs is in
``state.State``; what a stage changes is in ``stages``.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger, TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from earvae.config import ConfigError, DataConfig, StageConfig, TrainConfig
from earvae.errors import EarvaeError, WriteError
from earvae.objective.perceptual import PerceptualLoss
from earvae.remote import is_remote
from earvae.training.balance import Balance
from earvae.training.best import Best
from earvae.training.cache import LastDecoded
from earvae.training.crops import CropDataset
from earvae.training.ending import (
    INTERRUPTED,
    Budget,
    Reason,
    Stop,
    Workers,
    end_with_the_other_ranks,
    explain,
    leave_deaths_to_the_loader,
)
from earvae.training.fsdp import chosen_strategy
from earvae.training.loader import make_batches, open_crops
from earvae.training.log import RunLog, RunProgress, lasting_streams, quiet_writers
from earvae.training.set_up import set_up, with_model
from earvae.training.stages import crops_before, freeze, locate
from earvae.training.state import State, TrainingError, alone, save
from earvae.training.step import read_figures, train_step
from earvae.training.validate import validate

FABRIC_PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed"}
NON_FINITE_LIMIT = 100  # steps in a row without a finite gradient: the run cannot recover
LEFT_OUT_SHOWN = 50  # files that are named
LOADER_FAILURES = 3  # in a row, without a batch between them


@lasting_streams()
def train(
    config: TrainConfig,
    run_dir: Path,
    precision: str = "fp32",
    accelerator: str = "auto",
    devices: int | str = 1,
    nodes: int = 1,
    strategy: str = "auto",
    loggers: Sequence[Logger] | None = None,
    minutes: float | None = None,
    started: float | None = None,
) -> int:
    """Start a run in ``run_dir``, or go on with the one that is there.

    ``precision``: ``fp32``, ``bf16`` (mixed), or ``tf32``, which is the first with products of ten
    bits on GPUs that have them; without it torch would use such products in convolutions. Names of
    Lightning Fabric's are understood, too.

    Writes ``checkpoint.pt`` (resumable), ``ema/`` (averaged weights, for
    ``EarVAE.from_pretrained``), ``config.json``, ``log.jsonl`` and, without other ``loggers``,
    TensorBoard events. With ``minutes``, it stops early enough to have validated and saved when
    they are over, counted from ``started`` (``time.monotonic()``; None is now); learning rates go
    by steps all the same. Returns 0 when all steps are done, INTERRUPTED after SIGINT or SIGTERM,
    and when the time was over first (the state is saved; the same call goes on). Raises
    ConfigError when the folder holds a run of another configuration or the devices asked for are
    not there, TrainingError for whatever else ends a run. No decoding process is left in any case.
    """
    budget = Budget(minutes, time.monotonic() if started is None else started)
    config = with_model(config)
    if loggers is None:
        loggers = [TensorBoardLogger(run_dir, name="logs", version="")]
    ten_bits = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = ten_bits
    precision = FABRIC_PRECISIONS.get(precision, precision)
    options = {
        "accelerator": accelerator, "devices": devices, "num_nodes": nodes,
        "precision": precision, "loggers": list(loggers),
    }  # fmt: skip
    try:
        fabric = Fabric(strategy=chosen_strategy(strategy), **options)
        if strategy == "auto" and isinstance(fabric.strategy, DDPStrategy):
            fabric = Fabric(strategy=chosen_strategy("ddp"), **options)  # ours
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).split(". ")[0]
        raise ConfigError(
            f"device {accelerator}, devices {devices}, strategy {strategy}: {reason}"
        ) from None
    workers = Workers()
    try:
        fabric.launch()
        end_with_the_other_ranks(fabric, workers)
        with alone(fabric, run_dir):
            refuse_missing_sources(config)
            best = Best(fabric, config, run_dir)
            validation = None
            if config.validation is not None:
                validation = CropDataset(config.validation, config.model.sample_rate)
            state = set_up(fabric, config, run_dir)
            with (
                quiet_writers(),
                closing(RunLog(fabric, run_dir)) as log,
                RunProgress(fabric) as progress,
                Stop(workers) as stop,
            ):
                run = Run(
                    fabric, config, run_dir, validation, log, progress, best, stop, budget
                )  # fmt: skip
                return fit(run, state)
    except EarvaeError:
        raise
    except Exception as error:
        raise TrainingError(
            f"{run_dir}: {_rank(fabric)}before the first step: {explain(error)}"
        ) from error
    finally:
        workers.kill()


def refuse_missing_sources(config: TrainConfig) -> None:
    """Raise ConfigError if a source of any stage is not there: a later stage's would fail late."""
    for stage in config.stages:
        for source in stage.data.sources:
            if not is_remote(source.tracks) and not Path(source.tracks).expanduser().exists():
                raise ConfigError(
                    f"{source.tracks}: no such folder, manifest or index of a pack "
                    f"(stage {stage.name})"
                )


@dataclass(frozen=True)
class Run:
    """What stays the same from the first step of a run to the last."""

    fabric: Fabric
    config: TrainConfig
    folder: Path
    validation: CropDataset | None
    log: RunLog
    progress: RunProgress
    best: Best
    stop: Stop
    budget: Budget
    decoded: LastDecoded = field(default_factory=LastDecoded)


def fit(run: Run, state: State) -> int:
    """All stages from the state's step on. Returns 0 at the last step, INTERRUPTED after a
    signal or when the time is over. Raises TrainingError, which says where, for any failure.
    """
    fabric, config = run.fabric, run.config
    stopped = False
    while state.step < config.steps and not stopped:
        name = locate(config.stages, state.step).stage.name
        try:
            stopped = fit_stage(run, state)
        except EarvaeError:
            raise
        except Exception as error:
            raise TrainingError(
                f"{run.folder}: {_rank(fabric)}stage {name}, after step {state.step}: "
                f"{explain(error)}"
            ) from error
    if state.step == config.steps:
        return 0
    signalled = run.stop.reason == "signal"
    why = "stopped by a signal" if signalled else f"{run.budget.minutes:g} minutes are over"
    fabric.print(f"{why} after step {state.step} of {config.steps}; saved, start it again to go on")
    return INTERRUPTED


def _rank(fabric: Fabric) -> str:
    return f"rank {fabric.global_rank}: " if fabric.world_size > 1 else ""


def fit_stage(run: Run, state: State) -> bool:
    """The steps of the state's stage that are still to do, or as many as a signal and the time
    leave; whether one of these stopped the run.
    """
    fabric, config = run.fabric, run.config
    place = locate(config.stages, state.step)
    stage = place.stage
    last = state.step + stage.steps - place.done
    title = f"{stage.name} ({place.index + 1}/{len(config.stages)})"
    fabric.print(f"stage {title}: steps {state.step + 1} to {last}")
    if config.compile:
        fabric.print("the first step compiles the networks, which may take minutes")
    freeze(state.vae, stage)
    if place.done == 0:
        state.take_averages()
    if isinstance(fabric.strategy, DDPStrategy):
        state.module = fabric.setup_module(state.vae)  # anew: it must know what is frozen
    objective = PerceptualLoss(stage.balanced_objective(), config.model.sample_rate)
    objective = fabric.to_device(objective).train()
    if config.compile and fabric.device.type == "cuda":
        objective.compile_terms()
    state.balance = Balance(stage, fabric.device, state.saved_balance)
    crops = _opened(run, stage.data)
    incoming = batches(fabric, config, state, last, crops)
    run.progress.start(title, stage.steps, place.done)
    clock = _Clock(config.model.sample_rate, fabric.world_size)
    while state.step < last:
        place = locate(config.stages, state.step)
        began = time.monotonic()
        figures = train_step(fabric, config, place, state, objective, clock.timed(incoming))
        seconds = time.monotonic() - began
        finished = state.step == last
        stopping = _should_stop(run, state, stage, seconds)
        reporting = state.step % config.log_every == 0 or finished
        saving = state.step % config.checkpoint_every == 0 or finished or stopping
        if (reporting or saving) and state.non_finite_in_a_row >= NON_FINITE_LIMIT:
            save(fabric, config, run.folder, state)
            raise TrainingError(
                f"{run.folder}: {NON_FINITE_LIMIT} steps in a row gave no finite gradient (stage "
                f"{stage.name}, step {state.step}); the weights are as before them and are saved. "
                "Look at the data and the learning rate (docs/training.md)"
            )
        if reporting:
            state.gather_counts(fabric)
            figures = (
                read_figures(figures | state.balance.figures())
                | clock.figures()
                | {"stage": place.index + 1}
            )
            figures |= {f"count/{name}": n for name, n in sorted(state.counters.items())}
            run.log.figures(figures, state.step)
            run.progress.show(place.done + 1, _note(figures))
            clock.restart()
        due = state.step % config.validate_every == 0 or finished or stopping == "time"
        if run.validation and due and stopping != "signal":
            with run.budget.measured("validation"):
                measured = validate(
                    fabric, run.log, run.validation, config.validation_items, state.ema, objective,
                    state.step,
                )  # fmt: skip
                run.best.consider(state, measured)
            clock.restart()
        if saving:
            _save(run, state, must=stopping or state.step == config.steps)
        if stopping:
            run.stop.workers.kill()  # what they were about to decode is not waited for
            return True
    return False


def _should_stop(run: Run, state: State, stage: StageConfig, seconds: float) -> Reason | None:
    """What ends the run after this step, which took ``seconds``, if a signal or the time does;
    all ranks answer alike.
    """
    budget = run.budget
    writing = state.size / budget.BYTES_PER_SECOND
    run.stop.steps_take(max(seconds, writing, *budget.seconds.values()))
    budget.step_took(seconds)
    budget.expected["checkpoint"] = writing
    if run.validation and budget.fastest_step < math.inf:
        # A crop costs less in validation, where nothing is learnt.
        items = run.config.validation_items * run.config.validation.crop_samples
        share = items / (stage.crops(run.fabric.world_size) * stage.data.crop_samples)
        budget.expected["validation"] = share * budget.fastest_step
    if budget.is_over():
        run.stop.time_is_up()
    return run.stop.on_any_rank(run.fabric)


def _save(run: Run, state: State, must: bool) -> None:
    """Save; a failure that is not the last chance is told, and the run goes on without."""
    run.stop.saving()
    try:
        with run.budget.measured("checkpoint"):
            save(run.fabric, run.config, run.folder, state)
    except WriteError as error:
        if must:
            raise
        run.fabric.print(f"{error}; the last one is kept, training goes on")


def batches(
    fabric: Fabric, config: TrainConfig, state: State, last: int, crops: CropDataset
) -> Iterator[dict[str, Tensor]]:
    """Batches for the steps from the state's to ``last``, on the device.

    A batch is a function of the seed and its place in the run alone. When a decoding process
    dies, the loader is started again at the batch that is due.
    """
    stage = locate(config.stages, state.step).stage
    world = fabric.world_size
    start = crops_before(config.stages, state.step, world)
    stop = start + (last - state.step) * stage.crops(world)
    failures = 0
    while start < stop:
        try:
            incoming = make_batches(crops, start, stop, fabric.device, fabric.global_rank, world)
            leave_deaths_to_the_loader()
            for batch in incoming:
                start += stage.data.batch_size * world
                failures = 0
                yield batch
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # An error that a live process hands over has no "(pid" in it and would come again.
            died = not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)
            if not died or failures == LOADER_FAILURES:
                raise
            failures += 1
            incoming = None  # the next processes must not inherit it
            state.pending["restarted_loaders"] += 1
            print("a decoding process died; starting it again", file=sys.stderr, flush=True)


def _opened(run: Run, data: DataConfig) -> CropDataset:
    """The crops of a stage, its cache filled under a bar, and what is left out printed."""
    fabric = run.fabric
    if data.cache != "none":
        fabric.print("decoding all tracks into memory")
    copies = getattr(fabric.strategy, "num_processes", 1) if data.cache == "ram" else 1
    rate = run.config.model.sample_rate
    with run.progress.decoding() as show:
        crops = open_crops(data, rate, fabric.device, copies, show, run.decoded)
    fabric.print(f"{len(crops.tracks)} tracks, {len(crops.left_out)} left out")
    for line in crops.left_out[:LEFT_OUT_SHOWN]:
        fabric.print(f"left out: {line}")
    if (more := len(crops.left_out) - LEFT_OUT_SHOWN) > 0:
        fabric.print(f"left out: {more} more")
    return crops


class _Clock:
    """Audio seconds per second of all ranks, and the share of time spent waiting for data."""

    def __init__(self, sample_rate: int, world_size: int) -> None:
        self.sample_rate, self.world_size = sample_rate, world_size
        self.restart()

    def restart(self) -> None:
        self.started, self.waited, self.samples = time.perf_counter(), 0.0, 0

    def timed(self, incoming: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        while True:
            asked = time.perf_counter()
            batch = next(incoming)
            self.waited += time.perf_counter() - asked
            self.samples += batch["audio"].shape[0] * batch["audio"].shape[2]
            yield batch

    def figures(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self.started
        seconds = self.samples / self.sample_rate * self.world_size
        return {
            "speed/audio_seconds_per_second": seconds / elapsed,
            "speed/data_wait_share": self.waited / elapsed,
        }


def _note(figures: dict[str, float]) -> str:
    """The figures of a step that the progress shows."""
    name, figure = "loss", figures.get("loss/total")
    if figure is None:
        name, figure = "discriminator", figures["discriminator/total"]
    speed = figures["speed/audio_seconds_per_second"]
    return f"{name} {figure:.3f}, {speed:.1f} audio seconds a second"
