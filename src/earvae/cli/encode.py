"""``earvae encode``: audio files to latent files, and music libraries to latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earvae.cli import options
from earvae.cli.batch import Job, plan, run, to_one_file
from earvae.cli.errors import finish

if TYPE_CHECKING:
    from earvae.files import Progress, Report

MANY = 1_000  # files after which resuming is worth a word


def encode(
    inputs: options.Inputs = None,
    output: options.Output = None,
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = None,
    sample: options.Sample = False,
    seed: options.Seed = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16 latents.")] = False,
    downmix: options.Downmix = False,
    chunk_seconds: options.ChunkSeconds = 10.0,
    library: Annotated[
        bool,
        typer.Option(
            "--library",
            help="Resumable: what is done stays, and source, hash, mask and settings are "
            "recorded. Implied by a .jsonl manifest as IN, by --shards and by --npy.",
        ),
    ] = False,
    shards: Annotated[
        bool,
        typer.Option(
            "--shards", help="Library as WebDataset tars: KEY.safetensors (or .npy) + KEY.json."
        ),
    ] = False,
    npy: Annotated[
        bool,
        typer.Option(
            "--npy",
            help="Library as .npy [channels, frames] + .json, as stable-audio-tools' pre-encoded "
            "dataset reads them.",
        ),
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Of a library: mean (the default), mean+std (a second tensor `std`), or sample "
            "(the same as --sample; needs a --seed, and each file has noise of its own).",
        ),
    ] = None,
    segment_seconds: Annotated[
        float | None,
        typer.Option(
            "--segment-seconds",
            min=0.1,
            help="Of a library: cut latents into entries of this length, in whole frames; the "
            "last of a track is padded with encoded silence and masked. Default: whole tracks.",
        ),
    ] = None,
    normalise: Annotated[
        Path | None,
        typer.Option(
            "--normalise",
            metavar="STATS",
            help="Of a library: store (latents - mean) / std by channel, with a latent_stats.json "
            "that `earvae stats` wrote. Every file says so, and `earvae decode` undoes it.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Of a manifest: lines with this `split` only. Of a folder: train or "
            "validation, which is a twentieth of its tracks."
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="This process, from 0. Default: torchrun, SLURM.")
    ] = None,
    world_size: Annotated[
        int | None, typer.Option("--world-size", help="Processes in all, each with its --rank.")
    ] = None,
    block_files: Annotated[
        int,
        typer.Option(
            "--block-files",
            min=1,
            help="Of a library: consecutive files that one rank batches and, with --shards, packs "
            "into one shard.",
        ),
    ] = 256,
    batch_seconds: Annotated[
        float | None,
        typer.Option(
            "--batch-seconds",
            min=0.1,
            help="Of a library: audio computed at a time. Default: 10 on a CPU, 60 on a GPU.",
        ),
    ] = None,
    padding: Annotated[
        float | None,
        typer.Option(
            "--padding",
            min=0.0,
            help="Of a library: files of different lengths share a batch if the longest is at "
            "most this share longer. Default: 0 on a CPU, which gains nothing by it; else 0.15.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Of a library: threads that decode ahead.")
    ] = 2,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Encode a library again that was encoded with other settings."
        ),
    ] = False,
) -> None:
    """Encode music to latents, one .safetensors file a track.

    A file holds the tensor `latents` [64, frames] and, as metadata, the rates, the true length,
    the channels, the hop, the model's identity, and whether it is the posterior mean or a sample
    and of which seed. `earvae decode` turns it into audio again.

    \b
    earvae encode song.flac -o song.safetensors
    earvae encode album/ -o latents/ --half

    With --library (or --shards, --npy, a manifest) a hundred thousand files are as safe as one.
    Kill it at any moment and run the same command again: it goes on, and ends with the same
    bytes. Run it again on a finished library: nothing is done twice, new and changed files are
    encoded. Files that cannot be read are listed in OUT/failures.jsonl, and the status is then 1
    (with several ranks, of the one that finishes last).
    Another model, engine or other settings are refused in the same OUT, unless --replace encodes
    everything again. OUT/index.jsonl lists all entries, OUT/summary.json the counts and the
    speed. The manifest has a JSON object a line, with `file` (relative to it).

    \b
    earvae encode music/ -o latents/ --library
    earvae encode train.jsonl -o shards/ --shards --store mean+std --half
    earvae encode music/ -o sao/ --npy --segment-seconds 30
    torchrun --nproc-per-node 8 -m earvae.cli.main encode music/ -o shards/ --shards
    sbatch --array=0-31 --wrap "earvae encode music/ -o latents/ --library"

    Latents are stored as the model gives them. Only those of --normalise are normalised:

    \b
    earvae encode music/ -o latents/ --library
    earvae stats latents/                              writes latents/latent_stats.json
    earvae encode music/ -o unit/ --library --normalise latents/latent_stats.json
    earvae decode unit/ -o decoded/                    knows, and undoes it
    """
    if not inputs:
        options.usage_error("name at least one file or folder to read")
    if output is None:
        options.usage_error("say where to write: -o OUT")
    own_options = {
        "--store": store, "--segment-seconds": segment_seconds, "--normalise": normalise,
        "--split": split, "--rank": rank, "--world-size": world_size, "--replace": replace or None,
    }  # fmt: skip
    library |= shards or npy or any(entry.suffix == ".jsonl" for entry in inputs)
    if not library:
        given = [name for name, value in own_options.items() if value is not None]
        if given:
            options.usage_error(f"{given[0]} is for libraries; add --library, --shards or --npy")
        _few(
            inputs, output, weights, config, sample_rate, device, engine, precision, sample, seed,
            half, downmix, chunk_seconds,
        )  # fmt: skip
        return

    from earvae.cli.library import LibraryOptions, encode_library

    if store not in (None, "mean", "mean+std", "sample"):
        options.usage_error(f"--store {store}: use mean, mean+std or sample")
    if sample and store not in (None, "sample"):
        options.usage_error(f"--sample and --store {store} contradict each other")
    sample |= store == "sample"
    if seed is not None and not sample:
        options.usage_error("--seed belongs to --sample; add --sample or leave out --seed")
    if sample and seed is None:
        options.usage_error("a library of samples needs a --seed, the same for every run and rank")
    if npy and store == "mean+std":
        options.usage_error("--npy holds one array a file: --store mean or sample, or use --shards")
    encode_library(
        LibraryOptions(
            inputs=inputs, output=Path(output), weights=weights, config=config,
            sample_rate=sample_rate, device=device, engine=engine, precision=precision,
            store="sample" if sample else store or "mean", seed=seed, half=half, downmix=downmix,
            chunk_seconds=chunk_seconds, shards=shards, npy=npy, segment_seconds=segment_seconds,
            normalise=normalise, split=split, rank=rank, world_size=world_size,
            block_files=block_files, batch_seconds=batch_seconds, padding=padding, workers=workers,
            replace=replace,
        )
    )  # fmt: skip


def _few(
    inputs: list[Path],
    output: str,
    weights: str | None,
    config: Path | None,
    sample_rate: int | None,
    device: str,
    engine: str,
    precision: str | None,
    sample: bool,
    seed: int | None,
    half: bool,
    downmix: bool,
    chunk_seconds: float,
) -> None:
    """One file after the other, each replaced."""
    seed = options.seed_of(sample, seed)

    from earvae.files import encode_file
    from earvae.latents.file import SUFFIX

    one_file = to_one_file(inputs, output)
    if one_file and Path(output).suffix != SUFFIX:
        options.usage_error(f"{output}: name a file in {SUFFIX}, or end a folder with a slash")
    planned = plan(inputs, Path(output), SUFFIX, one_file)
    if len(planned.jobs) >= MANY:
        typer.echo(
            f"{len(planned.jobs)} files; with --library this could be stopped and go on", err=True
        )
    vae = options.load_model(weights, config, sample_rate, device)
    vae = options.prepare(vae, engine, precision)

    def work(job: Job, progress: Progress) -> Report:
        return encode_file(
            vae,
            job.source,
            job.target,
            downmix=downmix,
            seed=seed,
            half=half,
            chunk_frames=options.chunk_frames(vae, chunk_seconds),
            progress=progress,
        )

    reports, failures = run(planned.jobs, work)
    for report in reports:
        typer.echo(f"{report.output}: {report.frames} frames, {report.duration:.2f} s")
    if reports and seed is not None:
        typer.echo(f"latents sampled with --seed {seed}")
    finish(planned.failures + failures, len(reports))
