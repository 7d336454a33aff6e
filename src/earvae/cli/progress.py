"""How far a long command is: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from earvae.cli.errors import say

EVERY = 60.0  # seconds between lines


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[..., None]]:
    """A progress bar where standard error is a terminal, and otherwise a line a minute there (none
    for what takes less); a function to call with ``advance`` or ``completed`` out of ``total``, and
    perhaps ``description``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(total, what).update
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        MofNCompleteColumn(),
        Remaining(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield partial(bar.update, bar.add_task(what, total=total))


class Lines:
    """Progress for logs: ``12.4 of 340 (4 %), about 21 min left: song.flac``, once a minute."""

    def __init__(self, total: int, what: str, now: Callable[[], float] = time.monotonic) -> None:
        self.total, self.what = total, what
        self.done = 0.0
        self._now = now
        self._began = self._told = now()

    def update(
        self,
        advance: float = 0.0,
        completed: float | None = None,
        description: str | None = None,
    ) -> None:
        """As the bar's; prints a line where the last one is a minute ago."""
        self.done = self.done + advance if completed is None else completed
        self.what = self.what if description is None else description
        now = self._now()
        if now - self._told < EVERY:
            return
        self._told = now
        line = f"{self.done:.4g} of {self.total} ({self.done / max(self.total, 1):.0%})"
        if self.done > 0:
            left = (now - self._began) * (self.total - self.done) / self.done
            line += f", about {_span(left)} left"
        say(f"{line}: {self.what}" if self.what else line, err=True)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
