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
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger, TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from rich.console import Console
from rich.progress import Progress, track
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from earvae.config import (
    CompactConfig,
    ConfigError,
    DataConfig,
    SpectralConfig,
    StageConfig,
    TrainConfig,
)
from earvae.discriminator import Discriminator
from earvae.errors import EarvaeError
from earvae.model.compact import fit_linear_start
from earvae.model.oobleck import Stack
from earvae.model.spectral import fit_codes
from earvae.model.vae import EarVAE
from earvae.objective.perceptual import PerceptualLoss
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
    leave_deaths_to_the_loader,
    told,
)
from earvae.training.fsdp import chosen_strategy, from_first_rank
from earvae.training.loader import make_batches, open_crops
from earvae.training.log import PlainProgress, RunLog, progress_bar, quiet_writers
from earvae.training.stages import crops_before, freeze, locate
from earvae.training.state import (
    CHECKPOINT,
    State,
    TrainingError,
    alone,
    averaged,
    load,
    refuse_other_config,
    save,
)
from earvae.training.step import read_figures, train_step
from earvae.training.tar_read import is_remote
from earvae.training.validate import validate
from earvae.training.weights import source_of_weights, with_model

NON_FINITE_LIMIT = 100  # steps in a row without a finite gradient: the run cannot recover
LEFT_OUT_TOLD = 50  # files that are named
LOADER_FAILURES = 3  # in a row, without a batch between them


def train(
    config: TrainConfig,
    run_dir: Path,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str = 1,
    nodes: int = 1,
    strategy: str = "auto",
    loggers: Sequence[Logger] | None = None,
    minutes: float | None = None,
    started: float | None = None,
) -> int:
    """Start a run in ``run_dir``, or go on with the one that is there.

    ``precision``: ``32-true``, ``bf16-mixed``, or ``tf32``, which is the first with products of ten
    bits on GPUs that have them; without it torch would use such products in convolutions.

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
    if loggers is None:
        loggers = [TensorBoardLogger(run_dir, name="logs", version="")]
    config = with_model(config)
    ten_bits = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = ten_bits
    if ten_bits:
        precision = "32-true"
    options = {
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": nodes,
        "precision": precision,
        "loggers": list(loggers),
    }
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
            best, validation = look_ahead(fabric, config, run_dir)
            state = set_up(fabric, config, run_dir)
            return fit(fabric, config, run_dir, state, best, validation, budget, workers)
    except EarvaeError:
        raise
    except Exception as error:
        raise TrainingError(f"{_rank(fabric)}before the first step: {told(error)}") from error
    finally:
        workers.kill()


def look_ahead(
    fabric: Fabric, config: TrainConfig, run_dir: Path
) -> tuple[Best, CropDataset | None]:
    """What would otherwise fail late: the best weights' figure, the crops to validate on, and
    whether the sources of all stages are there. Raises ConfigError.
    """
    for stage in config.stages:
        for source in stage.data.sources:
            if not is_remote(source.tracks) and not Path(source.tracks).expanduser().exists():
                raise ConfigError(
                    f"{source.tracks}: no such folder, manifest or index of shards "
                    f"(stage {stage.name})"
                )
    best = Best(fabric, config, run_dir)
    if config.validation is None:
        return best, None
    return best, CropDataset(config.validation, config.model.sample_rate)


def set_up(fabric: Fabric, config: TrainConfig, run_dir: Path) -> State:
    """Both networks, the averaged generator and optimisers on the device; resumed if a run is
    there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    saved = load(run_dir)
    if saved is not None:
        refuse_other_config(saved, config, run_dir / CHECKPOINT)
    if saved is None:
        vae = from_first_rank(fabric, lambda first: initial_model(config, fit_code=first)).train()
    else:
        vae = initial_model(config, fit_code=False).train()
    discriminator = initial_discriminator(config).train() if config.adversarial else None
    if fabric.is_global_zero:
        _introduce(config, run_dir, vae, discriminator)
    ema = averaged(vae)
    module = fabric.setup_module(vae)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        ema = fabric.setup_module(ema).module
    optimiser = fabric.setup_optimizers(adamw(module))
    state = State(vae, fabric.to_device(ema), optimiser, module=module)
    if discriminator is not None:
        state.discriminator = fabric.to_device(discriminator)
        if fabric.device.type == "cuda":  # what its convolutions of 32 channels are quick in
            discriminator.to(memory_format=torch.channels_last)
        state.discriminator_optimiser = adamw(discriminator)
    if saved is not None:
        state.load_state_dict(saved)
        fabric.print(f"going on after step {state.step}")
    for part in (vae.encoder, vae.decoder):
        if isinstance(part, Stack):
            part.recompute = config.recompute
    if config.compile:
        compile_networks(vae, discriminator)
    return state


def adamw(network: nn.Module) -> torch.optim.AdamW:
    """The optimiser of a network; fused where torch has that and the network is not sharded."""
    parameters = list(network.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda") and not isinstance(parameters[0], DTensor)
    return torch.optim.AdamW(parameters, fused=fused)


def compile_networks(vae: EarVAE, discriminator: Discriminator | None) -> None:
    """``torch.compile`` of the encoder, the decoder and every scale of the discriminator.

    Shapes are those of the training crops and nothing else, so each is compiled once, the
    discriminator's scales twice: as it learns, and as it teaches.
    """
    torch._dynamo.config.recompile_limit = 64  # all scales share the code that it counts for
    for part in (vae.encoder, vae.decoder):
        part.compile(dynamic=False)
    if discriminator is not None:
        discriminator.compile_scales()


def initial_model(config: TrainConfig, fit_code: bool = True) -> EarVAE:
    """The model a run starts from.

    A compact model from scratch first gets its start, fitted on training crops, unless
    ``config.linear_code_crops`` is 0 (``fit_code=False`` skips that where a checkpoint will bring
    it). It takes no more crops than the music holds side by side: more would be the same again.
    """
    torch.manual_seed(config.seed)
    if config.initial_weights is not None:
        vae = EarVAE.from_pretrained(source_of_weights(config.initial_weights))
        if config.model not in (None, vae.config):
            raise ConfigError(
                f"{config.initial_weights}: its model configuration is not the one under `model`"
            )
        return vae
    vae = EarVAE(config.model)
    fitted = isinstance(config.model, CompactConfig | SpectralConfig)
    if fitted and fit_code and config.linear_code_crops:
        dataset = CropDataset(config.stages[0].data, config.model.sample_rate)
        whole = dataset.config.crop_samples // vae.hop_length * vae.hop_length
        if whole == 0:
            raise ConfigError("data.crop_samples: smaller than one latent frame")
        held = sum(track.duration for track in dataset.tracks) * config.model.sample_rate
        crops = min(config.linear_code_crops, max(1, int(held / dataset.config.crop_samples)))
        batches = make_batches(dataset, 0, crops, torch.device("cpu"))
        print(f"fitting the linear start on {crops} crops", file=sys.stderr)
        total = -(-crops // dataset.config.batch_size)
        console = Console(stderr=True)
        shown = track(batches, "reading crops", total, console=console, transient=True)
        audio = (batch["audio"][..., :whole] for batch in shown)
        if isinstance(config.model, CompactConfig):
            fit_linear_start(vae.encoder, vae.decoder, audio)
        else:
            fit_codes(vae.encoder, vae.decoder, audio, config.linear_code_top_hz)
    return vae


def initial_discriminator(config: TrainConfig) -> Discriminator:
    """The discriminator a run starts from: that of the run in ``initial_weights``, or a new one."""
    torch.manual_seed(config.seed + 1)
    discriminator = Discriminator(config.discriminator)
    if config.initial_weights and (Path(config.initial_weights) / CHECKPOINT).is_file():
        saved = load(Path(config.initial_weights))
        if "discriminator" in saved:
            try:
                discriminator.load_state_dict(saved["discriminator"])
            except RuntimeError:
                raise ConfigError(
                    f"{config.initial_weights}: its discriminator is not the one under "
                    "`discriminator`"
                ) from None
    return discriminator


@dataclass(frozen=True)
class Run:
    """What stays the same from the first step of a run to the last."""

    fabric: Fabric
    config: TrainConfig
    folder: Path
    log: RunLog
    validation: CropDataset | None
    progress: Progress
    lines: PlainProgress
    best: Best
    stop: Stop
    budget: Budget
    decoded: LastDecoded


def fit(
    fabric: Fabric,
    config: TrainConfig,
    run_dir: Path,
    state: State,
    best: Best,
    validation: CropDataset | None,
    budget: Budget,
    workers: Workers,
) -> int:
    """All stages from the state's step on. Returns 0 at the last step, INTERRUPTED after a
    signal or when the time is over. Raises TrainingError, which says where, for any failure.
    """
    log = RunLog(fabric, run_dir)
    with quiet_writers(), closing(log), progress_bar(fabric) as progress, Stop(workers) as stop:
        lines = PlainProgress(fabric)
        run = Run(
            fabric, config, run_dir, log, validation, progress, lines, best, stop, budget,
            LastDecoded(),
        )  # fmt: skip
        stopped = False
        while state.step < config.steps and not stopped:
            name = locate(config.stages, state.step).stage.name
            try:
                stopped = fit_stage(run, state)
            except EarvaeError:
                raise
            except Exception as error:
                raise TrainingError(
                    f"{_rank(fabric)}stage {name}, after step {state.step}: {told(error)}"
                ) from error
    if state.step == config.steps:
        return 0
    signalled = stop.reason == "signal"
    why = "stopped by a signal" if signalled else f"{budget.minutes:g} minutes are over"
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
    if isinstance(fabric.strategy, DDPStrategy):
        state.module = fabric.setup_module(state.vae)  # anew: it must know what is frozen
    objective = PerceptualLoss(stage.balanced_objective(), config.model.sample_rate)
    objective = fabric.to_device(objective).train()
    if config.compile and fabric.device.type == "cuda":
        objective.compile_terms()
    state.balance = Balance(stage, fabric.device, state.saved_balance)
    incoming = batches(fabric, config, state, last, run.progress, run.decoded)
    task = run.progress.add_task(title, total=stage.steps, completed=place.done, note="")
    clock = _Clock(config.model.sample_rate, fabric.world_size)
    while state.step < last:
        place = locate(config.stages, state.step)
        began = time.monotonic()
        figures = train_step(fabric, config, place, state, objective, clock.timed(incoming))
        seconds = time.monotonic() - began
        finished = state.step == last
        stopping = _should_stop(run, state, stage, seconds)
        reporting = state.step % config.log_every == 0 or finished
        if reporting and state.non_finite_in_a_row >= NON_FINITE_LIMIT:
            save(fabric, config, run.folder, state)
            raise TrainingError(
                f"{NON_FINITE_LIMIT} steps in a row gave no finite gradient (stage {stage.name}, "
                f"step {state.step}); the weights are as before them and are saved. Look at the "
                "data and the learning rate (docs/training.md)"
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
            run.progress.update(task, completed=place.done + 1, note=_note(figures))
            speed = figures["speed/audio_seconds_per_second"]
            run.lines.tell(
                f"stage {title}: step {place.done + 1} of {stage.steps}, {_note(figures)}, "
                f"{speed:.1f} audio seconds a second"
            )
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
        if state.step % config.checkpoint_every == 0 or finished or stopping:
            _save(run, state, must=stopping or state.step == config.steps)
        if stopping:
            run.stop.workers.kill()  # what they were about to decode is not waited for
            return True
    return False


def _should_stop(run: Run, state: State, stage: StageConfig, seconds: float) -> Reason | None:
    """What ends the run after this step, which took ``seconds``, if a signal or the time does;
    all ranks answer alike.
    """
    writing = state.size / run.budget.BYTES_PER_SECOND
    run.stop.steps_take(max(seconds, writing, *run.budget.seconds.values()))
    run.budget.step_took(seconds)
    if run.budget.minutes is not None:
        # A crop costs less in validation, where nothing is learnt.
        if run.validation and run.budget.fastest_step < math.inf:
            items = run.config.validation_items * run.config.validation.crop_samples
            share = items / (stage.crops(run.fabric.world_size) * stage.data.crop_samples)
            run.budget.expect("validation", share * run.budget.fastest_step)
        run.budget.expect("checkpoint", state.size / run.budget.BYTES_PER_SECOND)
        if run.budget.is_over():
            run.stop.time_is_up()
    return run.stop.on_any_rank(run.fabric)


def _save(run: Run, state: State, must: bool) -> None:
    """Save; a failure that is not the last chance is told, and the run goes on without."""
    run.stop.saving()
    try:
        with run.budget.measured("checkpoint"):
            save(run.fabric, run.config, run.folder, state)
    except OSError as error:
        if must:
            raise
        run.fabric.print(f"{error}; the last one is kept, training goes on")


def batches(
    fabric: Fabric,
    config: TrainConfig,
    state: State,
    last: int,
    progress: Progress | None = None,
    decoded: LastDecoded | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Batches for the steps from the state's to ``last``, on the device.

    A batch is a function of the seed and its place in the run alone. When a decoding process
    dies, the loader is started again at the batch that is due.
    """
    stage = locate(config.stages, state.step).stage
    dataset = _opened(fabric, stage.data, config.model.sample_rate, progress, decoded)
    world = fabric.world_size
    start = crops_before(config.stages, state.step, world)
    stop = start + (last - state.step) * stage.crops(world)
    failures = 0
    while start < stop:
        try:
            rank = fabric.global_rank
            incoming = make_batches(dataset, start, stop, fabric.device, rank, world)
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


def _opened(
    fabric: Fabric,
    data: DataConfig,
    sample_rate: int,
    progress: Progress | None,
    decoded: LastDecoded | None,
) -> CropDataset:
    """The crops of a stage, its cache filled under a bar, and what is left out printed."""
    task = progress.add_task("decoding", total=None, note="") if progress else None

    def show(done: int, tracks: int) -> None:
        if progress:
            progress.update(task, completed=done, total=tracks)

    if data.cache != "none":
        fabric.print("decoding all tracks into memory")
    copies = getattr(fabric.strategy, "num_processes", 1) if data.cache == "ram" else 1
    crops = open_crops(data, sample_rate, fabric.device, copies, show, decoded)
    if progress:
        progress.remove_task(task)
    fabric.print(f"{len(crops.tracks)} tracks, {len(crops.left_out)} left out")
    for line in crops.left_out[:LEFT_OUT_TOLD]:
        fabric.print(f"left out: {line}")
    if (more := len(crops.left_out) - LEFT_OUT_TOLD) > 0:
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
    if "loss/total" in figures:
        return f"loss {figures['loss/total']:.3f}"
    return f"discriminator {figures['discriminator/total']:.3f}"


def _introduce(
    config: TrainConfig, run_dir: Path, vae: EarVAE, discriminator: Discriminator | None
) -> None:
    """Print the whole configuration and the sizes, and keep the former in the run folder."""
    text = config.model_dump_json(indent=2)
    (run_dir / "config.json").write_text(text + "\n", encoding="utf-8")
    console = Console(stderr=True)
    console.print_json(text)
    for name, network in (("generator", vae), ("discriminator", discriminator)):
        if network is not None:
            count = sum(p.numel() for p in network.parameters())
            console.print(f"{name}: {count / 1e6:.2f} M parameters")
