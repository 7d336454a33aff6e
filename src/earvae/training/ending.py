"""How a run ends: by its clock, by a signal or by a failure, and never by hanging.

Only the main thread can save a run, so a signal and the clock are asked about between steps. What
must also work when the main thread hangs (in a collective call, in a driver, on a dead disk) is
done by threads that end the process outright.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NoReturn

import torch
from lightning_fabric import Fabric

INTERRUPTED = 75  # exit status of a run that saved and can go on (EX_TEMPFAIL)
GRACE = 30.0  # seconds that a signal leaves for the step at hand, and then for saving
GRACE_STEPS = 3  # ... or so many steps, where those take longer
ONE_PRESS = 0.3  # seconds in which SIGINTs are one Ctrl-C that launchers handed on, too
PATROL = 1.0  # seconds between two looks at the other ranks' processes

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]

Reason = Literal["time", "signal"]
REASONS: tuple[Reason | None, ...] = (None, "time", "signal")  # a later one goes before


class Workers:
    """The decoding processes: all that multiprocessing has started since this was made."""

    def __init__(self) -> None:
        self._others = set(multiprocessing.active_children())

    def kill(self) -> None:
        """End them at once. They ignore the gentle signals, so that one sent to the whole group
        leaves them to the main process; at its exit Python would wait for them without limit.
        """
        leave_deaths_to_the_loader()
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()


def leave_deaths_to_the_loader() -> None:
    """torch raises wherever the program is when a decoding process dies, in the middle of a step
    too. Without its handler the death is noticed where it can be mended: by the loader, when it
    next waits for that process. (Windows has no such signal.)
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def end(message: str, status: int, workers: Workers) -> NoReturn:
    """Print one line and end the process from any thread, whatever the others are doing."""
    try:
        workers.kill()
        print(f"error: {message}", file=sys.stderr, flush=True)
    finally:  # nobody may be left to read the line
        os._exit(status)


class Budget:
    """The time of a run: ``minutes`` from ``started`` (``time.monotonic()``); None is without end.

    It is over while what has to come after the last step still fits: the next step, a validation
    and a checkpoint, each half as long again as the last one, or thrice what is expected of it,
    and a few seconds to leave.
    """

    MARGIN = 1.5
    CAUTION = 3.0  # about what was not measured yet
    SPARE = 5.0  # seconds
    BYTES_PER_SECOND = 100e6  # of a checkpoint, before one was written

    def __init__(self, minutes: float | None, started: float) -> None:
        self.minutes = minutes
        self.end = math.inf if minutes is None else started + 60 * minutes
        self.fastest_step = math.inf  # seconds
        self._begun = False
        self.seconds: dict[str, float] = {}  # that the last one took
        self.expected: dict[str, float] = {}  # that it may take, where none was measured yet

    @contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Note how long ``what`` takes: ``validation`` or ``checkpoint``."""
        started = time.monotonic()
        yield
        self.seconds[what] = time.monotonic() - started

    def step_took(self, seconds: float) -> None:
        """Note a step; not the first one, which waits for data and the compiler."""
        if self._begun:
            self.seconds["step"] = seconds
            self.fastest_step = min(self.fastest_step, seconds)
        self._begun = True

    def is_over(self) -> bool:
        """Whether the run should stop now to end in time."""
        if self.minutes is None:
            return False
        guesses = [s for what, s in self.expected.items() if what not in self.seconds]
        reserve = self.MARGIN * sum(self.seconds.values()) + self.CAUTION * sum(guesses)
        reserve += self.SPARE
        return time.monotonic() + reserve > self.end


class Stop:
    """Why a run should stop before its last step, if it should: ``reason``.

    While active, ``SIGNALS`` are noted instead of ending the process (the last of them, that a
    terminal is closed, not where it is ignored, as under ``nohup``). If the run does not
    end within ``GRACE`` seconds (and as long again for saving), because it hangs, or at a second
    Ctrl-C, the process is ended without saving; the last checkpoint stays as it is.
    """

    def __init__(self, workers: Workers) -> None:
        self.reason: Reason | None = None
        self.workers = workers
        self._grace = GRACE
        self._due = math.inf

    def __enter__(self) -> Stop:
        # Python runs its own handlers in the main thread, which may hang; the number of a signal
        # is written to this socket in any case.
        self._numbers, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        ignored = [n for n in SIGNALS[2:] if signal.getsignal(n) is signal.SIG_IGN]
        self._before = {n: signal.signal(n, self._note) for n in SIGNALS if n not in ignored}
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wakeup.shutdown(socket.SHUT_RDWR)  # decoding processes hold copies of it
        self._watcher.join()
        self._wakeup.close()
        self._numbers.close()

    def time_is_up(self) -> None:
        """Note that the time is over; a signal goes before."""
        self.reason = self.reason or "time"

    def steps_take(self, seconds: float) -> None:
        """Give a run whose steps are long the time for them."""
        self._grace = max(GRACE, GRACE_STEPS * seconds)

    def saving(self) -> None:
        """The run has come to its end and saves: a signal leaves it the same time again."""
        if self._due < math.inf:
            self._due = time.monotonic() + self._grace

    def on_any_rank(self, fabric: Fabric) -> Reason | None:
        """The reason of any rank, the same answer on all, so that they stop at the same step."""
        if fabric.world_size > 1:
            number = torch.tensor(REASONS.index(self.reason), device=fabric.device)
            self.reason = REASONS[int(fabric.all_reduce(number, reduce_op="max"))]
        return self.reason

    def _note(self, _number: int, _frame: object) -> None:
        self.reason = "signal"

    def _watch(self) -> None:
        """The watching thread: ends the process when a signal was not followed in time."""
        interrupted, first = math.inf, signal.SIGTERM
        while True:
            self._numbers.settimeout(None if self._due == math.inf else 0.2)
            try:
                numbers = self._numbers.recv(64)
            except TimeoutError:
                numbers = None
            if numbers == b"":  # closed: the run has ended by itself
                return
            for number in numbers or ():
                now = time.monotonic()
                if number in self._before and self._due == math.inf:
                    first, self._due = number, now + self._grace
                if number == signal.SIGINT and now > interrupted + ONE_PRESS:
                    end("interrupted again: ended without saving", 128 + number, self.workers)
                if number == signal.SIGINT:
                    interrupted = min(interrupted, now)
            if time.monotonic() > self._due:
                end(
                    f"{signal.Signals(first).name} was not followed within {self._grace:.0f} s: "
                    "ended without saving",
                    128 + first,
                    self.workers,
                )


def end_with_the_other_ranks(fabric: Fabric, workers: Workers) -> None:
    """Watch the processes of this machine's other ranks, and end with them.

    A rank that waits in a collective call for one that has failed would wait until the call times
    out. So the process that started the others ends when one of them failed, and they end
    when it is gone.
    """
    started = list(getattr(fabric.strategy.launcher, "procs", ()))
    if not started and fabric.local_rank == 0:
        return

    def patrol() -> None:
        parent = os.getppid()
        while True:
            time.sleep(PATROL)
            for process in started:
                if process.poll() not in (None, 0, INTERRUPTED):
                    for other in started:
                        other.kill()
                    end(f"process {process.pid} of this run has failed", 1, workers)
            if not started and os.getppid() != parent:
                end("the process that started this rank is gone", 1, workers)

    threading.Thread(target=patrol, name="other ranks", daemon=True).start()


def explain(error: BaseException) -> str:
    """One line that says what an exception means, with what to do where that is known."""
    name = type(error).__name__
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    where = ""
    if "in DataLoader worker process" in text and "Traceback" in text:
        where, lines = "in a decoding process: ", lines[-1:]
    elif lines and lines[0].endswith(":"):  # the compiler: "backend raised:", then what it raised
        lines = [" ".join(lines[:2])]
    line = where + (lines[0] if lines else name)
    low = text.lower()
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in low:
        return f"out of memory ({line}); use a smaller data.batch_size with accumulate, or crops"
    if "shared memory" in low or "/torch_" in low or "bus error" in low:
        return (
            "shared memory (/dev/shm) is full, through which decoding processes hand over crops "
            f"({line}); enlarge it (docker run --shm-size=8g) or set data.workers to 0"
        )
    if "dataloader timed out" in low:
        return f"{line}; a disk or a network that the music lies on does not answer"
    module = type(error).__module__
    if module.startswith(("torch._dynamo", "torch._inductor")):
        return f"the compiler failed ({line}); `compile: false` does without it"
    known = isinstance(error, (OSError, RuntimeError, ValueError)) or not lines
    return line if known else f"{name}: {line}"
