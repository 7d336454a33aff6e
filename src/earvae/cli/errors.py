"""How the command line reports what went wrong: one line each, nothing lost."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NoReturn

import typer

from earvae.errors import EarvaeError
from earvae.tracks import printable


def one_line(message: str) -> NoReturn:
    """Print ``error: message`` to standard error and leave with status 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def usage_error(message: str) -> NoReturn:
    """Print ``error: message`` and leave with status 2: the command itself cannot be meant."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def finish(failures: list[str], done: int) -> None:
    """List the failures of a batch and leave with status 1 if there are any."""
    if not failures:
        return
    if done or len(failures) > 1:
        typer.echo(f"{done} done, {len(failures)} failed:", err=True)
    for failure in failures:
        typer.echo(f"error: {failure}", err=True)
    raise typer.Exit(1)


def reported(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, with every EarvaeError, and every OSError that names a file, as one line and
    status 1. Other exceptions are defects and keep their traceback."""

    @functools.wraps(verb)
    def run(*arguments: object, **options: object) -> None:
        try:
            verb(*arguments, **options)
        except EarvaeError as error:
            one_line(str(error))
        except OSError as error:
            if error.filename is None:
                raise
            one_line(f"{printable(error.filename)}: {error.strerror or error}")

    return run
