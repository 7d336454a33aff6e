"""``earvae pack``: music into shards or excerpts to train on (``earvae.training.tar_write``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from earvae.cli.errors import finish, one_line, say, usage_error

if TYPE_CHECKING:
    from earvae.training.excerpts import PackedExcerpts
    from earvae.training.tar_write import Packed


def pack(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A folder of music, or a .jsonl manifest.")
    ],
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the pack goes.")
    ],
    split: Annotated[
        str | None,
        typer.Option(help="Only this part: of a folder, train or validation; of a manifest, its."),
    ] = None,
    segment_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Longest piece that a track is cut into. Default: 30."),
    ] = None,
    shard_mb: Annotated[
        float | None,
        typer.Option(min=1, help="Size that ends a shard, in megabytes. Default: 1000."),
    ] = None,
    excerpts: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Pack only excerpts of this length."),
    ] = None,
    megabytes: Annotated[
        float | None, typer.Option(min=0.1, help="Of excerpts: how large the whole may get.")
    ] = None,
    codec: Annotated[
        Literal["vorbis", "flac"] | None,
        typer.Option(help="Of excerpts: Ogg Vorbis or 24-bit FLAC. Default: vorbis."),
    ] = None,
    true_peak: Annotated[
        float | None,
        typer.Option(metavar="DB", help="Leave out tracks with a higher true peak (dBTP)."),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(min=1, metavar="HZ", help="Leave out tracks whose spectrum ends lower."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace a pack that holds other tracks.")
    ] = False,
) -> None:
    """Pack music to train on, for networks and slow disks.

    Tracks go into shards: tar files of a gigabyte, which any store serves well, unlike very many
    small files. They are cut into segments; a training crop fetches one segment and never crosses
    a cut. Over a thin network, shorter segments fetch less: --segment-seconds 10. Audio is kept as
    24-bit FLAC: exact for files of 24 bits or fewer, while lossy formats grow several times.

    FOLDER/index.json lists everything. Train on it, locally or where you have uploaded the
    folder to, with sources: [{tracks: FOLDER/index.json}], or tracks: s3://bucket/x/index.json.
    The webdataset library reads the shards too.

    With --excerpts and --megabytes, as many short excerpts as fit, spread evenly over all
    tracks: music for a machine at the end of a thin line. Ogg Vorbis files are copied where that
    is exact; the rest becomes Vorbis of quality 0.6 at its own rate, or with --codec flac, FLAC.

    --true-peak and --bandwidth judge whole tracks, as the paper does (+1 dBTP).

    Run it again to go on after an interruption. An earlier pack of the same tracks, or some of
    them, is replaced; nothing else in FOLDER is touched. Files that cannot be read are left out and
    listed; the status is then 1.

    \b
    earvae pack album/ -o packed
    earvae pack corpus/manifest.jsonl --split train -o packed/train
    earvae pack album/ -o packed --excerpts 6 --megabytes 40 --true-peak 1
    """
    if (excerpts is None) != (megabytes is None):
        usage_error("--excerpts and --megabytes go together: how long each is, how large all are")
    if excerpts is None and codec is not None:
        usage_error("--codec is for --excerpts; whole tracks are always packed as FLAC")
    if excerpts is not None and (segment_seconds, shard_mb) != (None, None):
        usage_error("--segment-seconds and --shard-mb are for whole tracks, and not for --excerpts")
    if source.suffix == ".json":
        usage_error(f"{source}: is packed already; name a folder or a manifest")

    from earvae import tracks
    from earvae.config import FilterConfig
    from earvae.training.excerpts import pack_excerpts
    from earvae.training.sources import inspect
    from earvae.training.tar_write import INDEX, Packer

    filters = None
    if true_peak is not None or bandwidth is not None:
        filters = FilterConfig(true_peak_db=true_peak, bandwidth_hz=bandwidth)
    music = tracks.find([source], leave_out=folder, split=split)
    for line in music.left_out_lines():
        say(line)
    usable, unusable = inspect(music.files)
    unusable = music.problems + unusable
    if not usable:
        one_line(unusable[0])
    if excerpts is None:
        seconds, size = segment_seconds or 30.0, round((shard_mb or 1000.0) * 1e6)
        packed = Packer(usable, folder, seconds, size, filters, say, replace).pack()
        lines = _lines(packed)
    else:
        size = round(megabytes * 1e6)
        codec = codec or "vorbis"
        packed = pack_excerpts(usable, folder, excerpts, size, filters, codec, say, replace)
        lines = _lines_of_excerpts(packed, codec)
    typer.echo(f"{lines[0]}; train on {folder / INDEX}")
    for line in lines[1:]:
        say(line)
    if packed.refused:
        typer.echo(f"{len(packed.refused)} tracks refused by the filters")
    finish(unusable + packed.left_out, len(packed.index["sources"]))


def _lines(packed: Packed) -> list[str]:
    index = packed.index
    lines = [
        f"{len(index['sources'])} tracks, {packed.seconds / 3600:.2f} h, "
        f"{len(index['shards'])} shards, {packed.bytes / 1e9:.2f} GB"
    ]
    if packed.rounded:
        lines.append(f"{packed.rounded} tracks, float or lossy, were rounded to 24 bits")
    if count := packed.float_samples:
        lines.append(f"{count} segments have peaks beyond full scale and stay float WAV")
    return lines


def _lines_of_excerpts(packed: PackedExcerpts, codec: str) -> list[str]:
    from earvae.training.excerpts import VORBIS_QUALITY

    count = len(packed.index["samples"])
    rest = "24-bit FLAC" if codec == "flac" else f"Vorbis of quality {VORBIS_QUALITY}"
    lines = [
        f"{count} excerpts of {len(packed.index['sources'])} tracks ({packed.copied} copied, "
        f"{count - packed.copied} as {rest}), {packed.seconds / 60:.1f} min, "
        f"{packed.bytes / 1e6:.2f} MB, {packed.bytes / packed.seconds:.0f} bytes for a second"
    ]
    lines += [f"left out: {line}" for line in packed.refused]
    if packed.short:
        lines.append(f"{packed.short} tracks shorter than an excerpt")
    if packed.silent:
        lines.append(f"{packed.silent} silent excerpts passed over")
    return lines
