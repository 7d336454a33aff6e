"""``earvae decode``: latent files to audio files."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from earvae.cli import options
from earvae.cli.batch import Job, Plan, plan, print_table, run, to_one_file
from earvae.cli.errors import finish, say, usage_error
from earvae.tracks import fitting, inside

if TYPE_CHECKING:
    from earvae import EarVAE
    from earvae.latents.file import Place
    from earvae.latents.statistics import Statistics

SHARD = ".tar"
IN_THE_MODEL = "model"  # where --denormalise finds statistics, besides files


def decode(
    inputs: options.Inputs,
    output: options.Output,
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    stereo: options.Stereo = False,
    force: Annotated[
        bool, typer.Option("--force", help="Decode latents that another model made.")
    ] = False,
    suffix: options.Suffix = None,
    subtype: options.Subtype = None,
    clip: options.Clip = None,
    chunk_seconds: options.ChunkSeconds = 10.0,
    denormalise: Annotated[
        str | None,
        typer.Option(
            "--denormalise",
            metavar="STATS",
            help="Multiply by the std and add the mean of this latent_stats.json, of the one in "
            "this folder, or, for the word `model`, of the model's configuration. Default: latents "
            "that say they are normalised are put back by the latent_stats.json beside or above "
            "them, others are left as they are.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate",
            min=1,
            metavar="HZ",
            help="Of the audio, for latents that do not say it. Default: the model's.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            help="Of the audio, per channel, for latents that do not say it. Default: all there "
            "are.",
        ),
    ] = None,
) -> None:
    """Decode latents to audio, at the original's rate and of the original's length.

    Reads what `earvae encode` and `earvae library` write: .safetensors, .npy with its .json, and
    .tar shards, whose entries become files with the names of their tracks. Also bare arrays and
    tensors of other programs: .npy, .pt, .pth and .safetensors of [64, frames] or [batch, 64,
    frames]; each of a batch becomes a file. They do not say how long, or of what rate and model
    they are: see --samples, --rate and --weights.

    Files of `earvae library --normalise` say that they are normalised, and are put back without
    being asked. Latents that a diffusion model generated in normalised form and saved without
    saying so need --denormalise; do not give it for files that are not normalised.

    \b
    earvae decode song.safetensors -o song.wav
    earvae decode latents/ -o decoded/
    earvae decode generated.pt -o heard/ --denormalise latents/latent_stats.json
    """
    one_file = to_one_file(inputs, output)
    if inputs[0].suffix == SHARD and not Path(output).suffix:
        one_file = False  # a shard is a folder of a kind
    ending, form = options.output_format(output, one_file, suffix, subtype, clip)

    from earvae.files import decode_file, warm_up
    from earvae.latents import bare, file

    suffixes = frozenset({file.SUFFIX, file.NPY, file.SHARD, *bare.PICKLED})
    planned = plan(inputs, Path(output), ending, one_file, suffixes=suffixes)
    planned, silent = _in_parts(planned, one_file)
    vae = options.inference_model(weights, config, sample_rate, device, engine)
    warm_up(vae)

    work = partial(
        decode_file,
        vae,
        output=form,
        stereo=stereo,
        force=force,
        chunk_frames=options.chunk_frames(vae, chunk_seconds),
        statistics=_statistics(denormalise, vae),
        rate=rate,
        samples=samples,
    )
    if planned.jobs:
        warm_up(vae)
    reports, failures = run(planned, work)
    if reports:
        print_table(reports)
    if silent and reports:
        length = "their whole length" if samples is None else f"{samples} samples"
        say(
            f"{silent} of them did not say what they are: decoded as latents of model "
            f"{vae.identity}, {length} at {rate or vae.sample_rate} Hz (--weights, --samples, "
            "--rate)",
            err=output == "-",
        )
    finish(failures, len(reports))


def _statistics(given: str | None, vae: EarVAE) -> Statistics | None:
    from earvae.latents import statistics

    if given is None:
        return None
    if given != IN_THE_MODEL:
        return statistics.read(Path(given).expanduser())
    found = statistics.of_config(vae.config, vae.identity)
    if found is None:
        usage_error(
            f"--denormalise {given}: its configuration holds no statistics; name a "
            f"{statistics.NAME}, or write them with `earvae stats LATENTS --write MODEL`"
        )
    return found


def _in_parts(planned: Plan, one_file: bool) -> tuple[Plan, int]:
    """The plan with a job for each entry of a shard and each of a batch, and how many of its
    jobs are of latents that say nothing of themselves. A file that cannot be read to its end gives
    jobs for what was found, and a failure."""
    from earvae.errors import EarvaeError
    from earvae.latents import bare, file
    from earvae.regular import open_regular

    jobs: list[Job] = []
    taken: set[str] = set()
    silent = 0

    def add(job: Job, target: Path, part: object) -> None:
        target = target.with_name(fitting(target.name, job.ending) + job.ending)
        taken.add(os.path.realpath(target))
        jobs.append(replace(job, target=target, part=part))

    def of_shard(job: Job) -> None:
        with file.named(job.source), open_regular(job.source) as shard:
            for place in file.places(shard):
                member = PurePosixPath(place.name).stem
                target = job.target.parent / (_track(shard, place) or member)
                if os.path.realpath(f"{target}{job.ending}") in taken:
                    target = target.with_name(f"{target.name}-{member}")
                add(job, target, place)

    for job in planned.jobs:
        before = len(jobs)
        try:
            if job.source.suffix == file.SHARD:
                of_shard(job)
            elif job.source.exists() and bare.is_bare(job.source):
                batch = bare.shape(job.source)[0]
                stem = job.target.name.removesuffix(job.ending)
                for number in range(batch) if batch > 1 else ():
                    add(job, job.target.with_name(f"{stem}-{number:04d}"), number)
                silent += batch
                if batch == 1:
                    jobs.append(job)
            else:
                jobs.append(job)
        except EarvaeError as error:
            planned.failures.append(str(error))
        if one_file and len(jobs) - before > 1:
            usage_error(f"{job.source}: holds {len(jobs) - before} latents; end the folder that "
                        f"they become with a slash: -o {job.target.with_suffix('')}/")  # fmt: skip
        if one_file and len(jobs) > before:
            jobs[-1] = replace(jobs[-1], target=job.target)
    return Plan(jobs, planned.failures), silent


def _track(shard: BinaryIO, place: Place) -> str | None:
    """The name of an entry as `earvae library` gives it to one that is in no shard, without
    suffix; None where that is not told, or cannot be read, of which decoding tells."""
    from earvae.errors import EarvaeError
    from earvae.latents import file

    try:
        own = file.stored_at(shard, place).metadata
    except (EarvaeError, ValueError, OSError):
        return None
    if own.source is None or "\0" in own.source or not inside(own.source):
        return None
    name = os.path.splitext(inside(own.source))[0]
    return name if own.segment is None else f"{name}-{own.segment:04d}"
