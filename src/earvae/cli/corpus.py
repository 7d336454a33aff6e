"""``earvae corpus``: a thin door to ``earvae.corpus``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earvae.cli.errors import one_line


def corpus(
    out: Annotated[Path, typer.Argument(help="Folder for the music and its manifest.jsonl.")],
    package: Annotated[
        list[str] | None,
        typer.Option(help="A Debian package to take music from; repeat it. Default: all known."),
    ] = None,
    debs: Annotated[
        Path | None, typer.Option(help="Where downloaded packages are kept. Default: OUT/debs.")
    ] = None,
) -> None:
    """Gather freely licensed stereo music from Debian packages.

    Needs a Debian or Ubuntu system (apt-get, dpkg-deb); installs nothing. Downloads 4 GB into
    OUT/debs (delete it afterwards if you like) and unpacks 2 GB of music. Run it again to go on
    after an interruption. Train on the result with data.tracks: OUT/manifest.jsonl.

    \b
    earvae corpus corpus
    earvae corpus corpus --package warzone2100-music --package drascula-music
    """
    from earvae.corpus import MUSIC_PACKAGES, CorpusError, build

    try:
        build(out, package or MUSIC_PACKAGES, debs, tell=typer.echo)
    except (CorpusError, OSError) as error:
        one_line(str(error))
