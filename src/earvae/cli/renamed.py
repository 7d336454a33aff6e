"""Verbs of earlier versions: each gives one line that names what to use, and status 2."""

from __future__ import annotations

import typer

from earvae.cli.errors import usage_error

INSTEAD = {
    "shards": "is now `earvae pack`, with the same options",
    "corpus": "is now a script of the repository: python tools/corpus.py corpus",
}
ANYTHING = {
    "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": [],
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the old verbs to the command line, out of its help's sight."""
    for verb, instead in INSTEAD.items():

        def refuse(_: typer.Context, line: str = f"earvae {verb} {instead}") -> None:
            usage_error(line)

        app.command(verb, hidden=True, context_settings=ANYTHING)(refuse)
