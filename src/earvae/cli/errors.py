"""How the command line reports what went wrong: one line each, nothing lost."""

from __future__ import annotations

from typing import NoReturn

import typer


def one_line(message: str) -> NoReturn:
    """Print ``error: message`` to standard error and leave with status 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def finish(failures: list[str], done: int) -> None:
    """List the failures of a batch and leave with status 1 if there are any."""
    if not failures:
        return
    typer.echo(f"{done} done, {len(failures)} failed:", err=True)
    for failure in failures:
        typer.echo(f"error: {failure}", err=True)
    raise typer.Exit(1)
