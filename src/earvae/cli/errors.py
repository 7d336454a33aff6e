"""How the command line reports what went wrong."""

from __future__ import annotations

from typing import NoReturn

import typer


def one_line(message: str) -> NoReturn:
    """Print ``error: message`` to standard error and leave with status 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
