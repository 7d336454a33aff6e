"""What a run tells while it goes: figures, pictures, audio, a progress bar.

Figures go to every logger given (TensorBoard by default) and, one JSON object a line, to
``log.jsonl``. A log that cannot be written (a full disk) is told once and never stops a run.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

CLIPS_TO_LISTEN_TO = 4


class RunLog:
    """The log of one run; every call does its work on the first rank only."""

    def __init__(self, fabric: Fabric, run_dir: Path) -> None:
        self.fabric = fabric
        self.path = run_dir / "log.jsonl"
        self.silenced = False

    def figures(self, values: dict[str, float | list[float]], step: int) -> None:
        """Figures of a step by name; a list (one figure a latent channel) becomes
        ``name/00``, ``name/01`` … in loggers.
        """
        scalars: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, list):
                scalars |= {f"{name}/{index:02d}": each for index, each in enumerate(value)}
            else:
                scalars[name] = value
        self._try(lambda: self.fabric.log_dict(scalars, step=step))
        self._try(lambda: self._append({"step": step, **values}))

    def clips(self, reconstruction: Tensor, target: Tensor, sample_rate: int, step: int) -> None:
        """Audio (mid channel) and spectrograms of ``[batch, 2, samples]``, to TensorBoard."""
        for logger in self.fabric.loggers:
            if isinstance(logger, TensorBoardLogger):
                self._try(partial(_add_clips, logger, reconstruction, target, sample_rate, step))

    def close(self) -> None:
        """Let the loggers write what they still hold, if that takes no longer than five seconds."""
        thread = threading.Thread(target=self._finalize, daemon=True)
        thread.start()
        thread.join(5)

    def _finalize(self) -> None:
        for logger in self.fabric.loggers:
            self._try(partial(logger.finalize, "success"))

    def _append(self, values: dict) -> None:
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        with open(self.path, "a+b", opener=_without_waiting) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            torn = file.read(1) not in (b"", b"\n")  # by a kill or a full disk
            file.write(b"\n" * torn + json.dumps(finite).encode() + b"\n")

    def _try(self, write: Callable[[], None]) -> None:
        if not self.fabric.is_global_zero:
            return
        try:
            write()
        except Exception as error:  # a logger may fail in any way, its threads too
            if not self.silenced:
                reason = str(error.__cause__ or error).strip().splitlines() or [repr(error)]
                print(f"logging failed and goes on without: {reason[0]}", file=sys.stderr)
            self.silenced = True


@contextmanager
def quiet_writers() -> Iterator[None]:
    """TensorBoard's writing thread, when it fails, is heard at the next figure: no traceback."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard"):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _without_waiting(path: str, flags: int) -> int:
    """A file opened; a pipe that nobody reads, or that takes no more, is an error at once."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """What is printed inside never ends a run: not where nobody reads it any more (a closed pipe,
    a terminal that is gone), nor on a full disk."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Lasting(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in filter(None, before):
            try:
                stream.flush()
            except (OSError, ValueError):  # Python tries again at its end; into nothing, then
                _turn_to_nothing(stream)


class _Lasting:
    """A stream that raises nothing when it is written to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _turn_to_nothing(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


class RunProgress:
    """The steps of a stage on standard error: a bar on a terminal, elsewhere a line at most once
    a minute; quiet on other ranks.
    """

    EVERY = 60.0  # seconds

    def __init__(self, fabric: Fabric) -> None:
        console = Console(stderr=True)
        self._lines = fabric.is_global_zero and not console.is_terminal
        self._next = -math.inf
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),  # names are the recipe's
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not (console.is_terminal and fabric.is_global_zero),
        )

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, title: str, steps: int, done: int) -> None:
        """A stage begins, or goes on after ``done`` steps."""
        self._title, self._steps = title, steps
        self._task = self._bar.add_task(title, total=steps, completed=done, note="")

    def show(self, done: int, note: str) -> None:
        """Steps done in the stage, and what else is to be seen."""
        self._bar.update(self._task, completed=done, note=note)
        now = time.monotonic()
        if self._lines and now >= self._next:
            self._next = now + self.EVERY
            line = f"stage {self._title}: step {done} of {self._steps}, {note}"
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def decoding(self) -> Iterator[Callable[[int, int], None]]:
        """A bar of tracks decoded, of how many."""
        task = self._bar.add_task("decoding", total=None, note="")
        yield lambda done, total: self._bar.update(task, completed=done, total=total)
        self._bar.remove_task(task)


def spectrogram_picture(audio: Tensor, length: int = 2048, range_db: float = 90.0) -> Tensor:
    """``[2, samples]`` to a grey picture ``[1, height, width]`` in 0…1: left above right."""
    window = torch.hann_window(length, device=audio.device)
    power = torch.stft(audio, length, length // 4, window=window, return_complex=True).abs()
    decibel = 20 * torch.log10(power / math.sqrt(length) + 1e-8)
    scaled = ((decibel + range_db) / range_db).clamp(0, 1).flip(1)  # [2, bins, frames]
    return torch.cat(list(scaled), dim=0)[None]


def _add_clips(
    logger: TensorBoardLogger, reconstruction: Tensor, target: Tensor, sample_rate: int, step: int
) -> None:
    for index in range(min(CLIPS_TO_LISTEN_TO, len(target))):
        pair = {"original": target[index], "reconstruction": reconstruction[index]}
        for name, audio in pair.items():
            audio = audio.detach().cpu().clamp(-1, 1)
            tag = f"clip_{index}/{name}"
            logger.experiment.add_audio(tag, audio.mean(0)[None], step, sample_rate)
            logger.experiment.add_image(tag, spectrogram_picture(audio), step)
