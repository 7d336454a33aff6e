"""Spellings of earlier versions: each gives one line that names what to use, and status 2."""

from __future__ import annotations

import typer

from earvae.cli.errors import usage_error

VERBS = {
    "shards": "is now `earvae pack`, with the same options",
    "corpus": "is now a script of the repository: python tools/corpus.py corpus",
}
OF_LIBRARIES = (
    "--library --shards --npy --store --segment-seconds --normalise --split --rank --world-size "
    "--block-files --batch-seconds --padding --workers --ray --replace"
).split()
"""Once options of `earvae encode`; ``--library`` chose what is now a verb."""
PRECISION = {"--precision": "is gone: use --engine fast for bfloat16, any other for float32"}
LIBRARY = dict.fromkeys(OF_LIBRARIES, "is of libraries: earvae library IN... -o OUT")
OPTIONS = dict.fromkeys(["reconstruct", "decode", "library"], PRECISION) | {
    "encode": PRECISION | LIBRARY
}
ANYTHING = {
    "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": [],
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the old verbs to the command line, out of its help's sight."""
    for verb, instead in VERBS.items():

        def refuse(_: typer.Context, line: str = f"earvae {verb} {instead}") -> None:
            usage_error(line)

        app.command(verb, hidden=True, context_settings=ANYTHING)(refuse)
