"""All that a run must save to go on exactly where it stopped, and the checkpoint file."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from earvae import atomic
from earvae.config import ConfigError, TrainConfig
from earvae.discriminator import Discriminator
from earvae.errors import EarvaeError, WriteError
from earvae.model.vae import EarVAE
from earvae.owned import RUN, Owned
from earvae.regular import check_regular
from earvae.training.augment import AUGMENTATIONS
from earvae.training.balance import Balance
from earvae.training.checkpoint import CHECKPOINT, Checkpoint, Norms, not_finite, plain_model
from earvae.training.filters import DROP_REASONS
from earvae.training.fsdp import gathered, load_module, load_optimiser
from earvae.training.stages import locate

EMA = "ema"
LOCK = ".lock"
WRITTEN = ("config.json", "log.jsonl", "csv", EMA, "best")  # in a run folder, of any use to others
NUMBERED = re.compile(r"checkpoint-\d{8,}\.pt")  # other names are not ours to remove
HOLDER = "process"  # how the lock file begins, where a run has held it
HOLDER_BYTES = 200  # of it, that a message tells


class TrainingError(EarvaeError):
    """A run that cannot go on; what it had is saved. The message says why and what to do."""


# What may change between the parts of one run: how it reports and how fast it goes.
MAY_CHANGE = {
    "log_every", "validate_every", "checkpoint_every", "validation", "validation_items", "compile",
    "recompute",  # the same gradients, in less memory
    "linear_code_crops",  # counts at the start alone
    "keep", "best_by", "best",
}  # fmt: skip


@dataclass
class State:
    """Both networks, the averaged generator, both optimisers, the step and what was counted.

    ``vae`` is the generator; ``module`` is the same wrapped for devices and ranks, which is what
    a step calls. The discriminator is None in a run without adversarial stages.
    """

    vae: EarVAE
    ema: EarVAE
    optimiser: torch.optim.Optimizer
    discriminator: Discriminator | None = None
    discriminator_optimiser: torch.optim.Optimizer | None = None
    step: int = 0  # steps done
    counters: Counter[str] = field(default_factory=Counter)
    module: nn.Module | None = None
    balance: Balance | None = None  # of the present stage
    row: Tensor | int = 0  # steps in a row whose gradient was not finite
    tallies: dict[str, Tensor] = field(default_factory=dict)  # on the device, not yet in counters
    saved_balance: Norms = Norms()  # for the stage that a run goes on in
    pending: Counter[str] = field(default_factory=Counter)  # this rank's, not yet in counters

    @property
    def size(self) -> int:
        """About how many bytes a checkpoint takes: weights, their average and AdamW's moments."""
        weights = sum(4 * parameter.numel() for parameter in self.vae.parameters())
        if self.discriminator is None:
            return 4 * weights
        return 4 * weights + 3 * sum(4 * p.numel() for p in self.discriminator.parameters())

    def update_average(self, decay: float, finite: Tensor) -> None:
        """Take the present weights into the averaged ones, after an update of the generator.

        The first 1 / (1 - decay) updates are averaged evenly, later ones exponentially, so that
        no run carries its first weights along. Nothing changes unless ``finite``, a boolean
        scalar, is true; on a GPU nothing waits for that.
        """
        share = max(1 - decay, 1 / (1 + self.counters["generator_updates"]))
        averages, weights = list(self.ema.parameters()), list(self.vae.parameters())
        with torch.no_grad():
            if finite.device.type == "cuda" and not isinstance(weights[0], DTensor):
                difference = torch._foreach_sub(weights, averages)
                torch._foreach_mul_(difference, share * finite)
                torch._foreach_add_(averages, difference)
            elif finite:
                torch._foreach_lerp_(averages, weights, share)
        self.counters["generator_updates"] += 1

    def take_averages(self) -> None:
        """Give what is frozen its averaged weights, at the beginning of a stage.

        From then on both copies are the same, so what a stage trains is trained with what it will
        be used with, and neither copy of the rest changes.
        """
        with torch.no_grad():
            for weight, average in zip(self.vae.parameters(), self.ema.parameters(), strict=True):
                if not weight.requires_grad:
                    weight.copy_(average)

    def tally(self, name: str, happened: Tensor) -> None:
        """Count something on the device; :meth:`gather_counts` reads it."""
        self.tallies[name] = self.tallies.get(name, 0) + happened.long()

    def note_batch(self, batch: dict[str, Tensor]) -> None:
        """Count a batch's crops: where they came from, what was dropped and changed."""
        self.pending["crops"] += len(batch["audio"])
        for name, count in zip(DROP_REASONS, batch["dropped"].sum(0).tolist(), strict=True):
            self.pending[f"dropped_{name}"] += int(count)
        for name, count in zip(AUGMENTATIONS, batch["augmented"].sum(0).tolist(), strict=True):
            self.pending[f"augmented_{name}"] += int(count)
        for source in batch["source"].tolist():
            self.pending[f"source_{source}"] += 1

    def note_finite(self, finite: Tensor) -> None:
        """Count steps that were left out because something was not finite."""
        self.tally("non_finite_steps", ~finite)
        self.row = (self.row + 1) * (~finite).long()

    @property
    def non_finite_in_a_row(self) -> int:
        """Steps up to the present one that were left out. Waits for the device."""
        return int(self.row)

    def gather_counts(self, fabric: Fabric) -> None:
        """Add up what the ranks have counted since the last time. Waits for the device."""
        for name, count in self.tallies.items():  # alike on all ranks
            self.counters[name] += int(count)
        self.tallies.clear()
        everyone = [dict(self.pending)]
        if fabric.world_size > 1:
            everyone = [{}] * fabric.world_size
            torch.distributed.all_gather_object(everyone, dict(self.pending))
        for counts in everyone:
            self.counters.update(counts)
        self.pending.clear()

    def state_dict(self, config: TrainConfig) -> dict:
        """Tensors, numbers and text only, so that it loads without executing anything."""
        saved = {
            "config": config.model_dump_json(),
            "vae": gathered(self.vae.state_dict()),
            "ema": gathered(self.ema.state_dict()),
            "optimiser": gathered(self.optimiser.state_dict()),
            "step": self.step,
            "counters": dict(self.counters),
            "balance": self.balance.state_dict() if self.balance else {},
        }
        if self.discriminator is not None:
            saved["discriminator"] = self.discriminator.state_dict()
            saved["discriminator_optimiser"] = self.discriminator_optimiser.state_dict()
        return saved

    def load(self, saved: Checkpoint) -> None:
        """Take over what :meth:`state_dict` gave.

        A checkpoint from before the first adversarial stage was thought of has no discriminator;
        then the new one stays.
        """
        load_module(self.vae, saved.vae)
        load_module(self.ema, saved.ema)
        load_optimiser(self.optimiser, saved.optimiser.state)
        if self.discriminator is not None and saved.discriminator is not None:
            self.discriminator.load_state_dict(saved.discriminator)
            load_optimiser(self.discriminator_optimiser, saved.discriminator_optimiser.state)
        self.step = saved.step
        self.counters = Counter(saved.counters)
        self.saved_balance = saved.balance


@contextmanager
def alone(fabric: Fabric, run_dir: Path) -> Iterator[None]:
    """Hold the run folder, so that a job started twice does not write over itself.

    Raises ConfigError if another process holds it, saying which, and WriteError if the folder
    cannot be written, or if something else has a name that a run writes: a model, a recipe.
    (``checkpoint.pt`` speaks for itself: a run goes on with it, or refuses it.) The system lets go
    of the lock when its process ends, however it does and on whatever machine: a process has it,
    not those that it has started. Where there are no locks (Windows, some network disks), nothing
    is locked.
    """
    if not fabric.is_global_zero:
        yield
        return
    path = run_dir / LOCK
    numbered = [path.name for path in run_dir.glob("checkpoint-*.pt") if _is_numbered(path)]
    Owned(run_dir, RUN, [*WRITTEN, *numbered] if path.exists() else ()).claim(*WRITTEN)
    if fcntl is None:
        yield
        return
    with atomic.writing(path):
        run_dir.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    with open(number, "r+b", buffering=0) as file:
        check_regular(path)
        holder = file.read(HOLDER_BYTES).decode("utf-8", "replace")
        if not holder.startswith(HOLDER[: len(holder)]):
            raise WriteError(f"{path}: was not written by earvae; use another folder")
        os.register_at_fork(after_in_child=file.close)  # or a decoding process would hold it, too
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{run_dir}: another process trains in this folder ({holder}); wait for it, or "
                "use another one"
            ) from None
        except OSError:
            pass
        with suppress(OSError):  # a full disk: only the message would miss it
            file.truncate(0)
            file.seek(0)
            file.write(f"{HOLDER} {os.getpid()} on {socket.gethostname()}".encode())
        atomic.sweep(run_dir)
        yield


def save(fabric: Fabric, config: TrainConfig, run_dir: Path, state: State) -> None:
    """Write the checkpoint, then the averaged weights. With ``config.keep`` above 1, the last
    states stay as ``checkpoint-<step>.pt`` as well.

    Raises WriteError on every rank if the first could not write, and TrainingError if the weights
    are not finite; what was there before is kept.
    """
    state.gather_counts(fabric)
    content = state.state_dict(config)  # on every rank: each may hold a part of the tensors
    failure = None
    refuse_not_finite(content, state.step, run_dir)
    if fabric.is_global_zero:
        try:
            with atomic.file(run_dir / CHECKPOINT) as temporary:
                torch.save(content, temporary)
            _keep_numbered(run_dir, state.step, config.keep)
            plain_model(config, content["ema"]).save_pretrained(run_dir / EMA)
        except (OSError, RuntimeError, WriteError) as error:  # torch's of a full disk is the second
            failure = f"{run_dir}: the checkpoint could not be written: {_first_line(error)}"
    if failure := fabric.broadcast(failure):
        raise WriteError(failure)


def refuse_not_finite(content: Mapping, step: int, run_dir: Path) -> None:
    """Raise TrainingError if a tensor in a nested state holds what is no finite number: such
    weights are of no use to anybody, and may not take the place of good ones.
    """
    if bad := not_finite(content):
        raise TrainingError(
            f"{run_dir}: after step {step}, {bad} is not finite; nothing was saved, and what was "
            "there stays. Lower the learning rate, or look at the weights it started from"
        )


def refuse_other_config(saved: Checkpoint, config: TrainConfig, path: Path) -> None:
    """Raise ConfigError naming the keys in which a run may not differ from its checkpoint.

    Free are ``MAY_CHANGE``, the number of workers, the cache, how often shares of the gradient are
    logged, stages that have not begun, and the length of the stage that the checkpoint is in (if
    it is not shorter than what is done).
    """
    place = locate(saved.config.stages, saved.step)
    keys = _differences(_fixed_part(saved.config, place.index), _fixed_part(config, place.index))
    if not keys:
        if config.stages[place.index].steps < place.done:
            keys = [f"stages.{place.index}.steps (already {place.done} steps done)"]
    if keys:
        raise ConfigError(
            f"{path}: belongs to a run with another {', '.join(keys)}; use another run folder, or "
            "`initial_weights` to start from its weights"
        )


def _fixed_part(config: TrainConfig, stage: int) -> dict:
    """What may not change once a run is in ``stage``, as nested dictionaries."""
    values = json.loads(config.model_dump_json(exclude=MAY_CHANGE))
    values["stages"] = {str(i): s for i, s in enumerate(values["stages"][: stage + 1])}
    for block in values["stages"].values():
        for key in ("workers", "cache"):  # where crops come from, not what they are
            del block["data"][key]
        del block["shares_every"]
    values["stages"].get(str(stage), {}).pop("steps", None)
    return values


def _differences(before: object, now: object, prefix: str = "") -> list[str]:
    """Dotted keys in which two nested dictionaries differ, sorted."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [prefix]
    keys = []
    for key in sorted(before.keys() | now.keys()):
        inner = f"{prefix}.{key}" if prefix else key
        keys += _differences(before.get(key), now.get(key), inner)
    return keys


def _keep_numbered(run_dir: Path, step: int, keep: int) -> None:
    """Keep the checkpoint just written under its number, too, and of those the last ``keep``."""
    if keep < 2:
        return
    owned, name = Owned(run_dir, RUN), f"checkpoint-{step:08d}.pt"
    owned.claim(name)
    with atomic.file(run_dir / name) as temporary:
        shutil.copyfile(run_dir / CHECKPOINT, temporary)  # no link: one may be copied over another
    there = [run_dir / name for name in owned.names if _is_numbered(run_dir / name)]
    for path in sorted(there, key=lambda path: path.stat().st_mtime_ns)[:-keep]:
        owned.remove(path.name)


def _is_numbered(path: Path) -> bool:
    return NUMBERED.fullmatch(path.name) is not None and path.is_file()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
