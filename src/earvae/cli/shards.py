"""``earvae shards``: a thin door to ``earvae.training.shards``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from earvae.cli.errors import finish, one_line

if TYPE_CHECKING:
    from earvae.config import FilterConfig


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
    excerpts: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Pack only excerpts of this length."),
    ] = None,
    megabytes: Annotated[
        float | None, typer.Option(min=0.1, help="Of excerpts: how large the whole may get.")
    ] = None,
    codec: Annotated[
        Literal["vorbis", "flac"], typer.Option(help="Of excerpts: Ogg Vorbis or 24-bit FLAC.")
    ] = "vorbis",
    true_peak: Annotated[
        float | None,
        typer.Option(metavar="DB", help="Leave out tracks with a higher true peak (dBTP)."),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(min=1, metavar="HZ", help="Leave out tracks whose spectrum ends lower."),
    ] = None,
) -> None:
    """Pack music into shards, to train on from a network or from slow disks.

    Shards are tar files of a gigabyte, which any store serves well, unlike very many small
    files. Tracks are cut into segments; a training crop fetches one segment and never crosses a
    cut. Over a thin network, shorter segments fetch less: --segment-seconds 10. Audio is kept as
    24-bit FLAC: exact for files of 24 bits or fewer, while lossy formats grow several times.

    FOLDER/index.json lists everything. Train on it, locally or where you have uploaded the
    folder to, with sources: [{tracks: FOLDER/index.json}], or tracks: s3://bucket/x/index.json.
    The webdataset library reads the shards too.

    With --excerpts and --megabytes, as many short excerpts as fit, spread evenly over all
    tracks: music for a machine at the end of a thin line. Ogg Vorbis files are copied where that
    is exact; the rest becomes Vorbis of quality 0.6 at its own rate, or with --codec flac, FLAC.

    --true-peak and --bandwidth judge whole tracks, as the paper does (+1 dBTP).

    Run it again to go on after an interruption. Files that cannot be read are left out and
    listed; the status is then 1.

    \b
    earvae shards album/ -o shards
    earvae shards corpus/manifest.jsonl --split train -o shards/train
    earvae shards album/ -o pack --excerpts 6 --megabytes 40 --true-peak 1
    """
    from earvae.config import ConfigError, FilterConfig, SourceConfig
    from earvae.training.data import list_tracks
    from earvae.training.shards import INDEX, pack

    if (excerpts is None) != (megabytes is None):
        one_line("--excerpts and --megabytes go together: how long each is, and how large all are")
    if excerpts is None and codec != "vorbis":
        one_line("--codec is for --excerpts; whole tracks are always packed as FLAC")
    if source.suffix == ".json":
        one_line(f"{source}: is packed already; name a folder or a manifest")
    try:
        tracks, unusable = list_tracks(SourceConfig(tracks=str(source), split=split))
        root = source if source.is_dir() else source.parent
        filters = FilterConfig(true_peak_db=true_peak, bandwidth_hz=bandwidth)
        if excerpts is not None:
            size = round(megabytes * 1e6)
            _excerpts(tracks, unusable, root, folder, excerpts, size, filters, codec)
            return
        packed = pack(
            [track.path for track in tracks],
            root,
            folder,
            segment_seconds,
            round(shard_mb * 1e6),
            tell=typer.echo,
            filters=filters if true_peak is not None or bandwidth is not None else None,
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
    if packed.refused:
        typer.echo(f"{len(packed.refused)} tracks refused by the filters")
    finish(unusable + packed.left_out, done)


def _excerpts(
    tracks: list,
    unusable: list[str],
    root: Path,
    folder: Path,
    seconds: float,
    size: int,
    filters: FilterConfig,
    codec: Literal["vorbis", "flac"],
) -> None:
    from earvae.training.excerpts import VORBIS_QUALITY, pack_excerpts
    from earvae.training.shards import INDEX

    packed = pack_excerpts(tracks, root, folder, seconds, size, filters, codec, tell=typer.echo)
    count, done = len(packed.excerpts), len(packed.index["sources"])
    rest = "24-bit FLAC" if codec == "flac" else f"Vorbis of quality {VORBIS_QUALITY}"
    typer.echo(
        f"{count} excerpts of {done} tracks ({packed.copied} copied, {count - packed.copied} as "
        f"{rest}), {packed.seconds / 60:.1f} min, {packed.bytes / 1e6:.2f} MB, "
        f"{packed.bytes / packed.seconds:.0f} bytes for a second; train on {folder / INDEX}"
    )
    for line in packed.refused:
        typer.echo(f"left out: {line}")
    if packed.refused:
        typer.echo(f"{len(packed.refused)} tracks refused by the filters")
    if packed.short:
        typer.echo(f"{packed.short} tracks shorter than an excerpt")
    if packed.silent:
        typer.echo(f"{packed.silent} silent excerpts passed over")
    finish(unusable + packed.left_out, done)
