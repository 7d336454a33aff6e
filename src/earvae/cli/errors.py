"""How the command line reports what went wrong: one line each, nothing lost."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from earvae.errors import LOG, named, visible

DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of what goes wrong.")]
NAMED = 3  # paths of the command line in a line that is about none in particular


def one_line(message: str) -> NoReturn:
    """Print ``error: message`` to standard error and leave with status 1."""
    _error(message)
    raise typer.Exit(1)


def usage_error(message: str) -> NoReturn:
    """Print ``error: message`` and leave with status 2: the command itself cannot be meant."""
    _error(message)
    raise typer.Exit(2)


def say(line: str, err: bool = False) -> None:
    """Print a line that may hold names of files, to standard output or standard error."""
    typer.echo(visible(line), err=err)


def finish(failures: list[str], done: int) -> None:
    """List the failures of a batch and leave with status 1 if there are any."""
    if not failures:
        return
    if done or len(failures) > 1:
        typer.echo(f"{done} done, {len(failures)} failed:", err=True)
    for failure in failures:
        _error(failure)
    raise typer.Exit(1)


def reported(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, with whatever it raises as one line and status 1, and with ``--debug``.

    The line names the file; where nobody knows which, the paths of the command line.
    """

    @functools.wraps(verb)
    def run(*arguments: object, debug: bool = False, **options: object) -> None:
        with _tracebacks() if debug else nullcontext():
            try:
                verb(*arguments, **options)
            except (typer.Exit, typer.Abort, BrokenPipeError):
                raise  # no failure, or one that is told already
            except Exception as error:
                where = ", ".join(_paths(options)) or f"earvae {verb.__name__}"
                one_line(str(named(where, error)))

    own = inspect.signature(verb, eval_str=True)
    more = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DEBUG
    )
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), more])
    run.__annotations__ = verb.__annotations__ | {"debug": DEBUG}
    return run


@contextmanager
def _tracebacks() -> Iterator[None]:
    """What LOG holds goes to standard error."""
    handler, level = logging.StreamHandler(), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


def _error(message: str) -> None:
    for line in f"error: {message}".split("\n"):  # of a configuration, one a problem
        say(line, err=True)


def _paths(options: dict[str, object]) -> Iterator[str]:
    """The first paths that the options of a verb hold, those that exist."""
    given = (
        each
        for value in options.values()
        for each in (value if isinstance(value, list) else [value])
    )
    found = (str(each) for each in given if isinstance(each, str | Path) and os.path.exists(each))
    return (path for path, _ in zip(found, range(NAMED), strict=False))
