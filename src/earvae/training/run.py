"""A training run: set-up, the loop, validation, checkpoints, logging.

A batch's way: ``fit`` takes it from the loader and gives it to ``step.generator_loss`` (model,
then objective), whose sum is differentiated, clipped and applied. Everything that a resumed run
needs is in ``State``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from earvae.config import ConfigError, SpectralConfig, TrainConfig
from earvae.model.linear import fit_linear_code
from earvae.model.vae import EarVAE
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.data import make_loader
from earvae.training.step import generator_loss, learning_rate, step_generator
from earvae.training.validate import validate

CHECKPOINT = "checkpoint.pt"
INTERRUPTED = 75  # exit status after a signal: saved, start again to go on (EX_TEMPFAIL)

# What may change between the parts of one run: how long it goes on and how it reports.
MAY_CHANGE = {"steps", "log_every", "validate_every", "checkpoint_every"}


@dataclass
class State:
    """All that a run must save to go on exactly where it stopped."""

    vae: nn.Module
    ema: AveragedModel
    optimiser: torch.optim.Optimizer
    step: int = 0  # steps done
    counters: dict[str, int] = field(
        default_factory=lambda: {"non_finite_steps": 0, "skipped_crops": 0}
    )

    def state_dict(self, config: TrainConfig) -> dict:
        """Tensors, numbers and text only, so that it loads without executing anything."""
        return {
            "config": config.model_dump_json(),
            "vae": self.vae.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "counters": self.counters,
        }

    def load_state_dict(self, saved: dict) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.vae.load_state_dict(saved["vae"])
        self.ema.load_state_dict(saved["ema"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step = saved["step"]
        self.counters = dict(saved["counters"])


def train(
    config: TrainConfig,
    run_dir: Path,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
) -> int:
    """Start a run in ``run_dir``, or go on with the one that is there.

    Writes ``checkpoint.pt`` (resumable), ``ema/`` (averaged weights, for
    ``EarVAE.from_pretrained``), ``config.json`` and TensorBoard events. Returns 0 when all steps
    are done, INTERRUPTED after SIGINT or SIGTERM (the state is saved first). Raises ConfigError
    when the folder holds a run of another configuration.
    """
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        strategy=strategy,
        precision=precision,
        loggers=TensorBoardLogger(run_dir, name="logs", version=""),
    )
    fabric.launch()
    state, objective = set_up(fabric, config, run_dir)
    return fit(fabric, config, run_dir, state, objective)


def set_up(fabric: Fabric, config: TrainConfig, run_dir: Path) -> tuple[State, PerceptualLoss]:
    """Model, averaged model, optimiser and objective on the device; resumed if a run is there."""
    console = Console(stderr=True)
    run_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = run_dir / CHECKPOINT
    saved = None
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        _refuse_other_config(saved["config"], config, checkpoint)
    vae = initial_model(config, fit_code=saved is None)
    if fabric.is_global_zero:
        (run_dir / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        console.print_json(config.model_dump_json())
        count = sum(p.numel() for p in vae.parameters())
        console.print(f"{count / 1e6:.2f} M parameters")
    ema = AveragedModel(vae, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    optimiser = torch.optim.AdamW(
        vae.parameters(),
        lr=config.optimiser.learning_rate,
        betas=config.optimiser.betas,
        weight_decay=config.optimiser.weight_decay,
    )
    vae.train()
    module, optimiser = fabric.setup(vae, optimiser)
    state = State(module, fabric.to_device(ema), optimiser)
    if saved is not None:
        state.load_state_dict(saved)
        fabric.print(f"going on after step {state.step}")
    objective = PerceptualLoss(config.objective, config.model.sample_rate)
    return state, fabric.to_device(objective).train()


def initial_model(config: TrainConfig, fit_code: bool = True) -> EarVAE:
    """The model a run starts from.

    A compact model from scratch first gets its linear code, fitted on training crops
    (``fit_code=False`` skips that where a checkpoint will bring it).
    """
    torch.manual_seed(config.seed)
    if config.initial_weights is not None:
        vae = EarVAE.from_pretrained(config.initial_weights)
        if vae.config != config.model:
            raise ConfigError(
                f"{config.initial_weights}: its model configuration is not the one under `model`"
            )
        return vae
    vae = EarVAE(config.model)
    if isinstance(config.model, SpectralConfig) and fit_code:
        loader = make_loader(config.data, config.model.sample_rate, 0, config.linear_code_crops)
        hop = config.model.hop_length
        whole = config.data.crop_samples // hop * hop  # samples of a crop in whole frames
        frames = (vae.encoder.transform(batch["audio"][..., :whole]) for batch in loader)
        code = fit_linear_code(frames, vae.encoder.transform.features, config.model.linear_channels)
        vae.encoder.code.load_state_dict(code.state_dict())
    return vae


def fit(
    fabric: Fabric, config: TrainConfig, run_dir: Path, state: State, objective: PerceptualLoss
) -> int:
    """The loop. Returns 0 at the last step, INTERRUPTED after a signal."""
    stop = _SignalFlag()
    batches = _batches(fabric, config, state)
    started, audio_seconds, waited = time.perf_counter(), 0.0, 0.0
    with _progress(fabric) as progress, stop:
        task = progress.add_task("generator", total=config.steps, completed=state.step, note="")
        while state.step < config.steps:
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            logged = _train_step(fabric, config, state, objective, batch)
            audio_seconds += batch["audio"].numel() / 2 / config.model.sample_rate
            if state.step % config.log_every == 0 or state.step == config.steps:
                elapsed = time.perf_counter() - started
                logged["speed/audio_seconds_per_second"] = (
                    audio_seconds * fabric.world_size / elapsed
                )
                logged["speed/data_wait_share"] = waited / elapsed
                logged |= {f"count/{name}": n for name, n in state.counters.items()}
                values = {name: float(value) for name, value in logged.items()}
                fabric.log_dict(values, step=state.step)
                note = f"loss {values['loss/total']:.3f}"
                progress.update(task, completed=state.step, note=note)
                _append_line(fabric, run_dir, {"step": state.step, **values})
                started, audio_seconds, waited = time.perf_counter(), 0.0, 0.0
            finished = state.step == config.steps
            stopping = _any_rank(fabric, stop.raised is not None)
            if config.validation and (state.step % config.validate_every == 0 or finished):
                figures = validate(fabric, config, state.ema.module, objective, state.step)
                _append_line(fabric, run_dir, {"step": state.step, **figures})
                started, audio_seconds, waited = time.perf_counter(), 0.0, 0.0
            if state.step % config.checkpoint_every == 0 or finished or stopping:
                save(fabric, config, run_dir, state)
            if stopping and not finished:
                fabric.print(f"stopped by a signal after step {state.step}; saved")
                return INTERRUPTED
    return 0


def _train_step(
    fabric: Fabric,
    config: TrainConfig,
    state: State,
    objective: PerceptualLoss,
    batch: dict[str, Tensor],
) -> dict[str, Tensor | float]:
    """One update of the generator. A step with a non-finite loss or gradient changes nothing."""
    rate = learning_rate(config.optimiser, state.step, config.steps)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    noise = step_generator(config.seed, state.step, fabric.global_rank, fabric.device)
    draw = step_generator(config.seed, state.step, 0, torch.device("cpu"))
    terms, posterior = generator_loss(state.vae, objective, batch["audio"], noise, draw)
    fabric.backward(terms.total)
    norm = fabric.clip_gradients(
        state.vae,
        state.optimiser,
        max_norm=config.optimiser.gradient_clip,
        error_if_nonfinite=False,
    )
    if torch.isfinite(norm):  # the same on every rank; a non-finite loss has such a gradient
        state.optimiser.step()
        state.ema.update_parameters(state.vae.module)
    else:
        state.counters["non_finite_steps"] += 1
    state.optimiser.zero_grad(set_to_none=True)
    state.step += 1
    state.counters["skipped_crops"] += int(batch["skipped"].sum())
    return {
        "loss/total": terms.total.detach(),
        **{f"raw/{name}": value.detach() for name, value in terms.terms.items()},
        **{f"weighted/{name}": value.detach() for name, value in terms.weighted.items()},
        "gradient_norm": norm,
        "learning_rate": rate,
        "latents/std_of_means": posterior.mean.detach().float().std(),
        "latents/mean_posterior_std": posterior.std.detach().float().mean(),
    }


def save(fabric: Fabric, config: TrainConfig, run_dir: Path, state: State) -> None:
    """Write the checkpoint under a temporary name and rename it; then the averaged weights."""
    if fabric.is_global_zero:
        temporary = run_dir / f".{CHECKPOINT}.{os.getpid()}"
        try:
            torch.save(state.state_dict(config), temporary)
            os.replace(temporary, run_dir / CHECKPOINT)
        finally:
            temporary.unlink(missing_ok=True)
        state.ema.module.save_pretrained(run_dir / "ema")
    fabric.barrier()


def _refuse_other_config(saved: str, config: TrainConfig, checkpoint: Path) -> None:
    """Raise ConfigError naming the keys in which a checkpoint's configuration differs."""
    before, now = json.loads(saved), json.loads(config.model_dump_json())
    keys = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    if keys - MAY_CHANGE:
        raise ConfigError(
            f"{checkpoint}: belongs to a run with another {', '.join(sorted(keys - MAY_CHANGE))}; "
            "use another run folder, or `initial_weights` to start from its weights"
        )


def _batches(fabric: Fabric, config: TrainConfig, state: State) -> Iterator[dict[str, Tensor]]:
    """Batches from the state's step on. Batch k is a function of the seed and k alone."""
    size = config.data.batch_size * fabric.world_size
    loader = make_loader(
        config.data,
        config.model.sample_rate,
        start=state.step * size,
        stop=config.steps * size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    left_out = loader.dataset.left_out
    fabric.print(f"{len(loader.dataset.tracks)} tracks, {len(left_out)} left out")
    for line in left_out:
        fabric.print(f"left out: {line}")
    for batch in loader:
        yield fabric.to_device(batch)


def _any_rank(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is up on any rank, so that all ranks stop at the same step."""
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum") > 0)


def _append_line(fabric: Fabric, run_dir: Path, values: dict) -> None:
    """One JSON object per line in log.jsonl: the run's figures without TensorBoard."""
    if fabric.is_global_zero:
        with (run_dir / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _progress(fabric: Fabric) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (console.is_terminal and fabric.is_global_zero),
    )


class _SignalFlag:
    """While active, SIGINT and SIGTERM are noted instead of ending the process."""

    def __init__(self) -> None:
        self.raised: int | None = None

    def __enter__(self) -> _SignalFlag:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.raised = number
