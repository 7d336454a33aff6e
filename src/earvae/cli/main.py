"""The command line: one thin file a verb."""

from __future__ import annotations

import inspect
import os
import sys
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from earvae.cli.decode import decode
from earvae.cli.encode import encode
from earvae.cli.errors import reported, usage_error
from earvae.cli.evaluate import evaluate
from earvae.cli.export import export
from earvae.cli.export_weights import export_weights
from earvae.cli.info import info
from earvae.cli.library import library, with_address
from earvae.cli.listeners import listeners
from earvae.cli.pack import pack
from earvae.cli.reconstruct import reconstruct
from earvae.cli.renamed import OPTIONS, register
from earvae.cli.stats import stats
from earvae.cli.thdn import thdn
from earvae.cli.train import train
from earvae.signals import heed

if TYPE_CHECKING:
    from click import Context

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help: examples can be copied, nothing is cut
)


def _version(asked: bool) -> None:
    if asked:
        from earvae import __version__

        typer.echo(f"earvae {__version__}")
        raise typer.Exit()


@app.callback()
def earvae(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print and exit.")
    ] = False,
) -> None:
    """εar-VAE: stereo music to a compact latent sequence and back.

    \b
    earvae reconstruct song.flac -o out.wav      hear what the codec does
    earvae encode album/ -o latents/             one .safetensors a track
    earvae library music/ -o latents/            thousands of tracks; kill it, go on
    earvae decode latents/ -o decoded/           and audio again
    earvae evaluate album/ --codec earvae --codec opus:96 -o report
    earvae train --recipe smoke --run runs/smoke
    earvae VERB --help                           more examples
    """


class Command(TyperCommand):
    """A verb that names what to use where an option of an earlier version is given."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """As click does, after a look for such options: a usage error."""
        renamed = OPTIONS.get(self.name or "", {})
        for argument in takewhile(lambda argument: argument != "--", args):
            if (name := argument.partition("=")[0]) in renamed:
                usage_error(f"{name} {renamed[name]}")
        if self.name == "library":
            args = with_address(args)
        return super().parse_args(ctx, args)


VERBS = (
    reconstruct, encode, decode, library, stats, info, evaluate, listeners, thdn, train, pack,
    export_weights, export,
)  # fmt: skip
for verb in VERBS:
    # All of its first sentence: what click takes from the docstring by itself, it cuts.
    about, _, _ = inspect.cleandoc(verb.__doc__ or "").partition("\n\n")
    app.command(cls=Command, short_help=" ".join(about.split()))(reported(verb))
register(app)


def main() -> None:
    """Entry point of the ``earvae`` command."""
    for stream in (sys.stdout, sys.stderr):  # names and symbols a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    heed()
    try:
        app(prog_name="earvae")
    except SystemExit as leaving:
        if leaving.code and "earvae.training.train" in sys.modules:
            # What torch left running, such as calls to other ranks, must not keep the process.
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(leaving.code if isinstance(leaving.code, int) else 1)
        raise


if __name__ == "__main__":
    main()
