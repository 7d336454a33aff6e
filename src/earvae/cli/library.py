"""``earvae library``: a music library to latents."""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from earvae.cli import options
from earvae.cli.batch import memory_explained, print_left_out, progress_bar
from earvae.cli.errors import one_line, say, usage_error

if TYPE_CHECKING:
    from earvae.library.encode import Result

LISTED_FAILURES = 20  # on the screen; the file has all
ADDRESS = re.compile(r"auto|local|(\w+://)?[^\s/]+:\d+")  # that --ray takes


def library(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...", show_default=False, help="Folders, manifests (.jsonl) or files."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The folder of the library.")
    ],
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    shards: Annotated[
        bool,
        typer.Option("--shards", help="WebDataset tars: KEY.safetensors (or .npy) + KEY.json."),
    ] = False,
    npy: Annotated[
        bool,
        typer.Option(
            "--npy",
            help="[channels, frames] as .npy + .json, as stable-audio-tools' pre-encoded dataset "
            "reads them.",
        ),
    ] = False,
    store: Annotated[
        Literal["mean", "mean+std", "sample"],
        typer.Option(
            "--store",
            help="mean+std: a second tensor `std`. sample: needs a --seed; each file has noise of "
            "its own.",
        ),
    ] = "mean",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=2**63 - 1,
            help="Of --store sample, the same for every run and every rank.",
        ),
    ] = None,
    half: options.Half = False,
    segment_seconds: Annotated[
        float | None,
        typer.Option(
            "--segment-seconds",
            min=0.1,
            help="Cut latents into entries of this length, in whole frames; the last of a track is "
            "padded with encoded silence and masked. Default: whole tracks.",
        ),
    ] = None,
    normalise: Annotated[
        Path | None,
        typer.Option(
            "--normalise",
            metavar="STATS",
            help="Store (latents - mean) / std by channel, with a latent_stats.json that `earvae "
            "stats` wrote. Every file says so, and `earvae decode` undoes it.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Of a manifest: lines with this `split` only. Of a folder: train or validation, "
            "which is a twentieth of its tracks."
        ),
    ] = None,
    downmix: options.Downmix = False,
    rank: options.RankNumber = None,
    world_size: options.WorldSize = None,
    block_files: Annotated[
        int,
        typer.Option(
            "--block-files",
            min=1,
            help="Consecutive files that one rank batches and, with --shards, packs into a shard.",
        ),
    ] = 256,
    chunk_seconds: options.ChunkSeconds = 10.0,
    batch_seconds: Annotated[
        float | None,
        typer.Option(
            "--batch-seconds",
            min=0.1,
            help="Audio computed at a time. Default: 10 on a CPU, 60 on a GPU.",
        ),
    ] = None,
    padding: Annotated[
        float | None,
        typer.Option(
            "--padding",
            min=0.0,
            help="Files of different lengths share a batch if the longest is at most this share "
            "longer. Default: 0 on a CPU, which gains nothing by it; else 0.15.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Threads that decode ahead.")
    ] = 2,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="On a Ray cluster: HOST:PORT of its head, or local, which starts one on this "
            "machine. Default: RAY_ADDRESS, a cluster that this machine is in, else local.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Encode again what was encoded with other settings."),
    ] = False,
) -> None:
    """Encode a music library to latents: resumable, over several processes.

    A hundred thousand files are as safe as one. Kill it at any moment and run the same command
    again: it goes on, and ends with the same bytes. Run it again on a finished library: nothing is
    done twice, new and changed files are encoded. Files that cannot be read are listed in
    OUT/failures.jsonl, and the status is then 1 (with several ranks, of the one that finishes
    last). Another model, engine or other settings are refused in the same OUT, unless --replace
    encodes everything again. OUT/index.jsonl lists all entries with source, hash, mask and
    lengths, OUT/summary.json the counts and the speed. A manifest has a JSON object a line, with
    `file` (relative to it).

    \b
    earvae library music/ -o latents/
    earvae library train.jsonl -o shards/ --shards --store mean+std --half
    earvae library music/ -o sao/ --npy --segment-seconds 30
    torchrun --nproc-per-node 8 -m earvae library music/ -o shards/ --shards
    sbatch --array=0-31 --wrap "earvae library music/ -o latents/"
    earvae library music/ -o latents/ --ray            on a Ray cluster, with OUT on a shared disk

    Latents are stored as the model gives them. Only those of --normalise are normalised:

    \b
    earvae library music/ -o latents/
    earvae stats latents/                              writes latents/latent_stats.json
    earvae library music/ -o unit/ --normalise latents/latent_stats.json
    earvae decode unit/ -o decoded/                    knows, and undoes it
    """
    if store == "sample" and seed is None:
        usage_error("a library of samples needs a --seed, the same for every run and rank")
    if store != "sample" and seed is not None:
        usage_error("--seed belongs to --store sample; add that or leave out --seed")
    if npy and store == "mean+std":
        usage_error("--npy holds one array a file: --store mean or sample, or leave out --npy")
    if output.is_file():
        usage_error(f"{output}: is a file; a library needs a folder")
    if ray is not None and (rank, world_size) != (None, None):
        usage_error("--ray shares out the work itself; leave out --rank and --world-size")

    from earvae import tracks
    from earvae.latents import statistics
    from earvae.library import cluster, distributed
    from earvae.library.encode import encode_library
    from earvae.library.items import Library
    from earvae.library.plan import Geometry
    from earvae.library.ranks import Rank, find_rank
    from earvae.library.settings import Settings

    own = find_rank(rank, world_size) if ray is None else Rank()
    music = tracks.find(inputs, output, split)
    print_left_out(music)
    if not music.files:
        one_line("; ".join(music.problems))
    items = Library(music.files, block_files)
    stats = None if normalise is None else statistics.read(normalise)
    with ExitStack() as connection:
        if ray is None:
            vae = options.inference_model(weights, config, sample_rate, device, engine)
            on_cpu = next(vae.parameters()).device.type == "cpu"
            chosen = vae.engine, vae.precision
            encode = partial(encode_library, vae, rank=own, workers=workers)
        else:
            connection.enter_context(cluster.connected(ray))
            vae = options.load_model(weights, config, sample_rate, "cpu")
            nodes = cluster.Workers(cluster.device_of(device), engine, cluster.threads_of())
            on_cpu = nodes.device == "cpu"
            chosen = cluster.engine_of(vae, nodes)
            encode = partial(distributed.encode_on_cluster, vae, nodes)
        if stats is not None and (len(stats.mean), stats.model) != (
            vae.latent_channels,
            vae.identity,
        ):
            one_line(
                f"{normalise}: statistics of model {stats.model}, and this is {vae.identity}; make "
                "new ones with `earvae stats`"
            )
        settings = Settings(
            model=vae.identity,
            sample_rate=vae.sample_rate,
            hop_length=vae.hop_length,
            latent_channels=vae.latent_channels,
            engine=chosen[0],
            precision=chosen[1],
            store=store,
            seed=seed,
            half=half,
            downmix=downmix,
            segment_frames=segment_seconds and options.chunk_frames(vae, segment_seconds),
            normalised=stats and stats.digest,
            payload="npy" if npy else "safetensors",
            shard_items=block_files if shards else None,
        )
        context = vae.encoder.context_frames
        geometry = Geometry(
            budget=options.chunk_frames(vae, batch_seconds or (10.0 if on_cpu else 60.0)),
            longest=options.chunk_frames(vae, chunk_seconds) + 2 * context,
            context=context,
            padding=(0.0 if on_cpu else 0.15) if padding is None else padding,
        )
        if own.world > 1:
            typer.echo(f"rank {own.rank} of {own.world} ({own.origin})")
        with (
            memory_explained("out of memory; use a smaller --batch-seconds or --chunk-seconds"),
            progress_bar(own.files(len(music.files), block_files), "encoding") as update,
        ):
            result = encode(
                items,
                output,
                settings,
                geometry,
                statistics=stats,
                replace=replace,
                progress=lambda files: update(advance=files),
            )
    _report(result, output, ray is not None)
    _finish(result, music.problems, output)


def with_address(arguments: list[str]) -> list[str]:
    """The command line with ``auto`` behind a --ray that no address follows."""
    given: list[str] = []
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*given, *arguments[place:]]
        given.append(argument)
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        if argument == "--ray" and not ADDRESS.fullmatch(following):
            given.append("auto")
    return given


def _report(result: Result, folder: Path, on_cluster: bool) -> None:
    summary = result.summary
    if summary.encoded:
        busy = f"the model computed {summary.compute_share:.0%} of the time"
        if on_cluster:
            busy = f"{summary.compute_share:.1f} models computed at a time"
        typer.echo(
            f"encoded {summary.encoded} files, {summary.audio_seconds / 3600:.2f} h of audio, in "
            f"{summary.seconds:.1f} s: {summary.files_per_second:.2f} files a second, "
            f"{summary.speed:.1f} × real time; {busy}"
        )
    if summary.skipped:
        typer.echo(f"{summary.skipped} files were done already")
    if result.counts is None:
        typer.echo(f"{folder}: this rank is done, others are not")
    else:
        entries, files = result.counts["entries"], result.counts["files"]
        typer.echo(f"{folder / 'index.jsonl'}: {entries} entries of {files} files")


def _finish(result: Result, problems: list[str], folder: Path) -> None:
    """List this rank's failures; status 1 if the whole library has any.

    Of several ranks the last leaves with it for all, since launchers such as torchrun stop the
    other ranks as soon as one fails.
    """
    failures = problems + result.summary.failures
    for failure in failures[:LISTED_FAILURES]:
        say(f"error: {failure}", err=True)
    if len(failures) > LISTED_FAILURES:
        typer.echo(f"… and {len(failures) - LISTED_FAILURES} more", err=True)
    if result.counts is None:
        return
    if result.counts["failed"]:
        where = folder / "failures.jsonl"
        typer.echo(f"{result.counts['failed']} failed in all: {where}", err=True)
    if result.counts["failed"] or problems:
        raise typer.Exit(1)
