"""``earvae shards``: a thin door to ``earvae.training.shards``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earvae.cli.errors import finish, one_line


def shards(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A folder of music, or a .jsonl manifest.")
    ],
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the shards go.")
    ],
    split: Annotated[
        str | None, typer.Option(help="Of a manifest: train, validation or test. Default: all.")
    ] = None,
    segment_seconds: Annotated[
        float, typer.Option(min=1, help="Longest piece that a track is cut into.")
    ] = 30.0,
    shard_mb: Annotated[
        float, typer.Option(min=1, help="Size that ends a shard, in megabytes.")
    ] = 1000.0,
) -> None:
    """Pack music into shards, to train on from a network or from slow disks.

    Shards are tar files of a gigabyte, which any store serves well, unlike very many small
    files. Tracks are cut into segments; a training crop fetches one segment and never crosses a
    cut. Over a thin network, shorter segments fetch less: --segment-seconds 10. Audio is kept as
    24-bit FLAC: exact for files of 24 bits or fewer, while lossy formats grow several times.

    FOLDER/index.json lists everything. Train on it, locally or where you have uploaded the
    folder to, with sources: [{tracks: FOLDER/index.json}], or tracks: s3://bucket/x/index.json.
    The webdataset library reads the shards too.

    Run it again to go on after an interruption. Files that cannot be read are left out and
    listed; the status is then 1.

    \b
    earvae shards album/ -o shards
    earvae shards corpus/manifest.jsonl --split train -o shards/train
    """
    from earvae.config import ConfigError, SourceConfig
    from earvae.training.data import list_tracks
    from earvae.training.shards import INDEX, pack

    if source.suffix == ".json":
        one_line(f"{source}: is packed already; name a folder or a manifest")
    try:
        tracks, unusable = list_tracks(SourceConfig(tracks=str(source), split=split))
        packed = pack(
            [track.path for track in tracks],
            source if source.is_dir() else source.parent,
            folder,
            segment_seconds,
            round(shard_mb * 1e6),
            tell=typer.echo,
        )
    except ConfigError as error:
        one_line(str(error))
    except OSError as error:
        one_line(f"{error.filename or folder}: {error.strerror or error}")
    done = len(packed.index["sources"])
    typer.echo(
        f"{done} tracks, {packed.seconds / 3600:.2f} h, {len(packed.index['shards'])} shards, "
        f"{packed.bytes / 1e9:.2f} GB; train on {folder / INDEX}"
    )
    if packed.rounded:
        typer.echo(f"{packed.rounded} tracks, float or lossy, were rounded to 24 bits")
    if packed.float_segments:
        typer.echo(
            f"{packed.float_segments} segments have peaks beyond full scale and stay float WAV"
        )
    finish(unusable + packed.left_out, done)
