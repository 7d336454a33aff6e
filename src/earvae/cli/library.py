"""What ``earvae encode`` does with a library: options to settings, progress, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from earvae.cli import options
from earvae.cli.batch import print_left_out, tidy_when_terminated
from earvae.cli.errors import one_line

if TYPE_CHECKING:
    from earvae.engine import InferenceVAE
    from earvae.latents.statistics import Statistics
    from earvae.library.encode import Result
    from earvae.library.plan import Geometry
    from earvae.library.settings import Settings

LISTED_FAILURES = 20  # on the screen; the file has all


@dataclass(frozen=True)
class LibraryOptions:
    """The options of the command, under their names."""

    inputs: list[Path]
    output: Path
    weights: str | None
    config: Path | None
    sample_rate: int | None
    device: str
    engine: str
    precision: str | None
    store: str
    seed: int | None
    half: bool
    downmix: bool
    chunk_seconds: float
    shards: bool
    npy: bool
    segment_seconds: float | None
    normalise: Path | None
    split: str | None
    rank: int | None
    world_size: int | None
    block_files: int
    batch_seconds: float | None
    padding: float | None
    workers: int
    replace: bool


def encode_library(given: LibraryOptions) -> None:
    """Encode this rank's share and report.

    Leaves with status 1 if anything failed; of several ranks the last does so for all, since
    launchers such as torchrun stop the other ranks as soon as one fails.
    """
    import torch

    from earvae import tracks
    from earvae.latents import statistics
    from earvae.library import encode, items
    from earvae.library.ranks import find_rank

    if given.output.is_file():
        options.usage_error(f"{given.output}: is a file; a library needs a folder")
    try:
        rank = find_rank(given.rank, given.world_size)
        music = tracks.find(given.inputs, given.output, given.split)
        print_left_out(music)
        library = items.Library(music.files)
        stats = None if given.normalise is None else statistics.read(given.normalise)
        if not len(library):
            one_line("; ".join(music.problems))
        device = own_device(given.device)
        source = options.load_model(given.weights, given.config, given.sample_rate, device)
        vae = options.prepare(source, given.engine, given.precision)
        settings = _settings(given, vae, stats)
        if rank.world > 1:
            typer.echo(f"rank {rank.rank} of {rank.world} ({rank.origin})")
        own = _own_files(len(library), given.block_files, rank.takes)
        with tidy_when_terminated(), progress_bar(own, "encoding") as progress:
            result = encode.encode_library(
                vae,
                library,
                given.output,
                settings,
                _geometry(given, vae),
                given.block_files,
                rank,
                given.workers,
                stats,
                given.replace,
                progress,
            )
    except (MemoryError, torch.OutOfMemoryError):
        one_line("out of memory; use a smaller --batch-seconds or --chunk-seconds")
    _report(result, given.output)
    _finish(result, music.problems, given.output)


@contextmanager
def progress_bar(files: int, what: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of files just done; silent without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), Remaining()
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task(what, total=files)
        yield lambda done: bar.advance(task, done)


def own_device(device: str) -> str:
    """With several GPUs and --device auto, each process of a machine takes one of its own."""
    import torch

    from earvae.library.ranks import local_rank

    count = torch.cuda.device_count()
    return f"cuda:{local_rank() % count}" if device == "auto" and count > 1 else device


def _settings(given: LibraryOptions, vae: InferenceVAE, statistics: Statistics | None) -> Settings:
    from earvae.library.items import LibraryError
    from earvae.library.settings import Settings

    identity = vae.identity
    if statistics is not None:
        if len(statistics.mean) != vae.latent_channels or statistics.model != identity:
            raise LibraryError(
                f"{given.normalise}: statistics of model {statistics.model}, and this is "
                f"{identity}; make new ones with `earvae stats`"
            )
    frames = None
    if given.segment_seconds is not None:
        frames = options.chunk_frames(vae, given.segment_seconds)
    return Settings(
        model=identity,
        sample_rate=vae.sample_rate,
        hop_length=vae.hop_length,
        latent_channels=vae.latent_channels,
        engine=vae.engine,
        precision=vae.precision,
        store=given.store,  # type: ignore[arg-type]
        seed=given.seed,
        half=given.half,
        downmix=given.downmix,
        segment_frames=frames,
        normalised=None if statistics is None else statistics.digest,
        payload="npy" if given.npy else "safetensors",
        shard_items=given.block_files if given.shards else None,
    )


def _geometry(given: LibraryOptions, vae: InferenceVAE) -> Geometry:
    from earvae.library.plan import Geometry

    on_cpu = next(vae.parameters()).device.type == "cpu"
    seconds = given.batch_seconds or (10.0 if on_cpu else 60.0)
    padding = given.padding if given.padding is not None else (0.0 if on_cpu else 0.15)
    context = vae.encoder.context_frames
    return Geometry(
        budget=options.chunk_frames(vae, seconds),
        longest=options.chunk_frames(vae, given.chunk_seconds) + 2 * context,
        context=context,
        padding=padding,
    )


def _own_files(files: int, block: int, takes: Callable[[int], bool]) -> int:
    blocks = range(-(-files // block))
    return sum(min(block, files - number * block) for number in blocks if takes(number))


def _report(result: Result, folder: Path) -> None:
    summary = result.summary
    if summary.encoded:
        speed = summary.audio_seconds / summary.seconds
        typer.echo(
            f"encoded {summary.encoded} files, {summary.audio_seconds / 3600:.2f} h of audio, in "
            f"{summary.seconds:.1f} s: {summary.files_per_second:.2f} files a second, "
            f"{speed:.1f} × real time; the model computed {summary.compute_share:.0%} of the time"
        )
    if summary.skipped:
        typer.echo(f"{summary.skipped} files were done already")
    if result.counts is None:
        typer.echo(f"{folder}: this rank is done, others are not")
    else:
        entries, files = result.counts["entries"], result.counts["files"]
        typer.echo(f"{folder / 'index.jsonl'}: {entries} entries of {files} files")


def _finish(result: Result, problems: list[str], folder: Path) -> None:
    """List this rank's failures; status 1 if the whole library has any."""
    failures = problems + result.summary.failures
    for failure in failures[:LISTED_FAILURES]:
        typer.echo(f"error: {failure}", err=True)
    if len(failures) > LISTED_FAILURES:
        typer.echo(f"… and {len(failures) - LISTED_FAILURES} more", err=True)
    if result.counts is None:
        return
    if result.counts["failed"]:
        where = folder / "failures.jsonl"
        typer.echo(f"{result.counts['failed']} failed in all: {where}", err=True)
    if result.counts["failed"] or problems:
        raise typer.Exit(1)
