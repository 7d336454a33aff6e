"""A training run: set-up, the loop over stages, validation, checkpoints.

A batch's way: ``fit`` takes it from ``batches`` and gives it to ``step.train_step`` (model,
objective, discriminator), which updates both sides. Everything that a resumed run needs is in
``state.State``; what a stage changes is in ``stages``.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger, TensorBoardLogger
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from earvae.config import ConfigError, DataConfig, SpectralConfig, TrainConfig
from earvae.discriminator import Discriminator
from earvae.model.spectral import fit_codes
from earvae.model.vae import EarVAE
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.batches import make_batches, open_crops
from earvae.training.data import CropDataset
from earvae.training.log import RunLog, progress_bar
from earvae.training.sharding import chosen_strategy
from earvae.training.stages import crops_before, freeze, locate
from earvae.training.state import (
    CHECKPOINT,
    EMA,
    State,
    averaged,
    load,
    refuse_other_config,
    save,
)
from earvae.training.step import train_step
from earvae.training.validate import validate

INTERRUPTED = 75  # exit status after a signal: saved, start again to go on (EX_TEMPFAIL)
NON_FINITE_LIMIT = 100  # steps in a row without a finite gradient: the run cannot recover
LEFT_OUT_TOLD = 50  # files that are named
LOADER_FAILURES = 3  # in a row, without a batch between them


class TrainingError(RuntimeError):
    """A run that cannot go on; what it had is saved. The message says why and what to do."""


def train(
    config: TrainConfig,
    run_dir: Path,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str = 1,
    nodes: int = 1,
    strategy: str = "auto",
    loggers: Sequence[Logger] | None = None,
) -> int:
    """Start a run in ``run_dir``, or go on with the one that is there.

    Writes ``checkpoint.pt`` (resumable), ``ema/`` (averaged weights, for
    ``EarVAE.from_pretrained``), ``config.json``, ``log.jsonl`` and, without other ``loggers``,
    TensorBoard events. Returns 0 when all steps are done, INTERRUPTED after SIGINT or SIGTERM (the
    state is saved first). Raises ConfigError when the folder holds a run of another
    configuration or the devices asked for are not there, TrainingError when the run cannot go on.
    """
    if loggers is None:
        loggers = [TensorBoardLogger(run_dir, name="logs", version="")]
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=chosen_strategy(strategy),
            precision=precision,
            loggers=list(loggers),
        )
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).split(". ")[0]
        raise ConfigError(
            f"device {accelerator}, devices {devices}, strategy {strategy}: {reason}"
        ) from None
    fabric.launch()
    state = set_up(fabric, config, run_dir)
    return fit(fabric, config, run_dir, state)


def set_up(fabric: Fabric, config: TrainConfig, run_dir: Path) -> State:
    """Both networks, the averaged generator and optimisers on the device; resumed if a run is
    there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    saved = load(run_dir)
    if saved is not None:
        refuse_other_config(saved, config, run_dir / CHECKPOINT)
    vae = initial_model(config, fit_code=saved is None).train()
    discriminator = initial_discriminator(config).train() if config.adversarial else None
    if fabric.is_global_zero:
        _introduce(config, run_dir, vae, discriminator)
    ema = averaged(vae)
    module = fabric.setup_module(vae)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        ema = fabric.setup_module(ema).module
    optimiser = fabric.setup_optimizers(torch.optim.AdamW(module.parameters()))
    state = State(vae, fabric.to_device(ema), optimiser, module=module)
    if discriminator is not None:
        state.discriminator = fabric.to_device(discriminator)
        state.discriminator_optimiser = torch.optim.AdamW(discriminator.parameters())
    if saved is not None:
        state.load_state_dict(saved)
        fabric.print(f"going on after step {state.step}")
    if config.compile:
        for part in (vae.encoder, vae.decoder, discriminator):
            if part is not None:
                part.compile()
    return state


def initial_model(config: TrainConfig, fit_code: bool = True) -> EarVAE:
    """The model a run starts from.

    A compact model from scratch first gets its two fixed codes, fitted on training crops, unless
    ``config.linear_code_crops`` is 0 (``fit_code=False`` skips that where a checkpoint will bring
    it).
    """
    torch.manual_seed(config.seed)
    if config.initial_weights is not None:
        vae = EarVAE.from_pretrained(_source_of_weights(config.initial_weights))
        if vae.config != config.model:
            raise ConfigError(
                f"{config.initial_weights}: its model configuration is not the one under `model`"
            )
        return vae
    vae = EarVAE(config.model)
    if isinstance(config.model, SpectralConfig) and fit_code and config.linear_code_crops:
        dataset = CropDataset(config.stages[0].data, config.model.sample_rate)
        whole = dataset.config.crop_samples // vae.hop_length * vae.hop_length
        if whole == 0:
            raise ConfigError("data.crop_samples: smaller than one latent frame")
        crops = make_batches(dataset, 0, config.linear_code_crops, torch.device("cpu"))
        audio = (batch["audio"][..., :whole] for batch in crops)
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


def _source_of_weights(name: str) -> str | None:
    """What ``EarVAE.from_pretrained`` takes for ``initial_weights``."""
    if name == "shipped":
        return None
    return str(Path(name) / EMA) if (Path(name) / CHECKPOINT).is_file() else name


@dataclass(frozen=True)
class Run:
    """What stays the same from the first step of a run to the last."""

    fabric: Fabric
    config: TrainConfig
    folder: Path
    log: RunLog
    validation: CropDataset | None
    progress: Progress
    stop: SignalFlag


def fit(fabric: Fabric, config: TrainConfig, run_dir: Path, state: State) -> int:
    """All stages from the state's step on. Returns 0 at the last step, INTERRUPTED after a
    signal.
    """
    validation = None
    if config.validation is not None:
        validation = CropDataset(config.validation, config.model.sample_rate)
    with progress_bar(fabric) as progress, SignalFlag() as stop:
        run = Run(fabric, config, run_dir, RunLog(fabric, run_dir), validation, progress, stop)
        while state.step < config.steps:
            fit_stage(run, state)
            if run.stop.raised is not None and state.step < config.steps:
                fabric.print(f"stopped by a signal after step {state.step}; saved")
                return INTERRUPTED
    return 0


def fit_stage(run: Run, state: State) -> None:
    """The steps of the state's stage that are still to do, or as many as a signal leaves."""
    fabric, config = run.fabric, run.config
    place = locate(config.stages, state.step)
    stage = place.stage
    last = state.step + stage.steps - place.done
    title = f"{stage.name} ({place.index + 1}/{len(config.stages)})"
    fabric.print(f"stage {title}: steps {state.step + 1} to {last}")
    freeze(state.vae, stage)
    if isinstance(fabric.strategy, DDPStrategy):
        state.module = fabric.setup_module(state.vae)  # anew: it must know what is frozen
    objective = PerceptualLoss(stage.objective, config.model.sample_rate)
    objective = fabric.to_device(objective).train()
    incoming = batches(fabric, config, state, last, run.progress)
    task = run.progress.add_task(title, total=stage.steps, completed=place.done, note="")
    clock = _Clock(config.model.sample_rate, fabric.world_size)
    while state.step < last:
        place = locate(config.stages, state.step)
        figures = train_step(fabric, config, place, state, objective, clock.timed(incoming))
        finished = state.step == last
        stopping = run.stop.on_any_rank(fabric)
        if state.non_finite_in_a_row >= NON_FINITE_LIMIT:
            save(fabric, config, run.folder, state)
            raise TrainingError(
                f"{NON_FINITE_LIMIT} steps in a row gave no finite gradient (stage {stage.name}, "
                f"step {state.step}); the weights are as before them and are saved. Look at the "
                "data and the learning rate (docs/training.md)"
            )
        if state.step % config.log_every == 0 or finished:
            state.gather_counts(fabric)
            figures |= clock.figures() | {"stage": place.index + 1}
            figures |= {f"count/{name}": n for name, n in sorted(state.counters.items())}
            run.log.figures(figures, state.step)
            run.progress.update(task, completed=place.done + 1, note=_note(figures))
            clock.restart()
        if run.validation and (state.step % config.validate_every == 0 or finished):
            validate(
                fabric, run.log, run.validation, config.validation_items, state.ema, objective,
                state.step,
            )  # fmt: skip
            clock.restart()
        if state.step % config.checkpoint_every == 0 or finished or stopping:
            _save(run, state, must=stopping or state.step == config.steps)
        if stopping:
            return


def _save(run: Run, state: State, must: bool) -> None:
    """Save; a failure that is not the last chance is told, and the run goes on without."""
    try:
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
) -> Iterator[dict[str, Tensor]]:
    """Batches for the steps from the state's to ``last``, on the device.

    A batch is a function of the seed and its place in the run alone. When a decoding process
    dies, the loader is started again at the batch that is due.
    """
    stage = locate(config.stages, state.step).stage
    dataset = _opened(fabric, stage.data, config.model.sample_rate, progress)
    world = fabric.world_size
    start = crops_before(config.stages, state.step, world)
    stop = start + (last - state.step) * stage.crops(world)
    failures = 0
    while start < stop:
        try:
            rank = fabric.global_rank
            incoming = make_batches(dataset, start, stop, fabric.device, rank, world)
            _expect_deaths_in_the_loader()
            for batch in incoming:
                start += stage.data.batch_size * world
                failures = 0
                yield batch
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            died = not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)
            if not died or failures == LOADER_FAILURES:
                raise
            failures += 1
            state.pending["restarted_loaders"] += 1
            print("a decoding process died; starting it again", file=sys.stderr, flush=True)


def _opened(
    fabric: Fabric, data: DataConfig, sample_rate: int, progress: Progress | None
) -> CropDataset:
    """The crops of a stage, its cache filled under a bar, and what is left out printed."""
    task = progress.add_task("decoding", total=None, note="") if progress else None

    def tell(done: int, tracks: int) -> None:
        if progress:
            progress.update(task, completed=done, total=tracks)

    if data.cache != "none":
        fabric.print("decoding all tracks into memory")
    copies = getattr(fabric.strategy, "num_processes", 1)
    crops = open_crops(data, sample_rate, fabric.device, copies if data.cache == "ram" else 1, tell)
    if progress:
        progress.remove_task(task)
    fabric.print(f"{len(crops.tracks)} tracks, {len(crops.left_out)} left out")
    for line in crops.left_out[:LEFT_OUT_TOLD]:
        fabric.print(f"left out: {line}")
    if (more := len(crops.left_out) - LEFT_OUT_TOLD) > 0:
        fabric.print(f"left out: {more} more")
    return crops


def _expect_deaths_in_the_loader() -> None:
    """torch raises wherever the program is when a decoding process dies, in the middle of a step
    too. Without its handler the death is noticed where it can be mended: by the loader, when it
    next waits for that process.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


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


class SignalFlag:
    """While active, SIGINT and SIGTERM are noted instead of ending the process."""

    def __init__(self) -> None:
        self.raised: int | None = None

    def __enter__(self) -> SignalFlag:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_any_rank(self, fabric: Fabric) -> bool:
        """Whether any rank got a signal, so that all stop at the same step; all note it."""
        if fabric.world_size == 1:
            return self.raised is not None
        number = torch.tensor(float(self.raised or 0), device=fabric.device)
        number = int(fabric.all_reduce(number, reduce_op="sum"))
        if number and self.raised is None:
            self.raised = number
        return number > 0

    def _note(self, number: int, _frame: object) -> None:
        self.raised = number
