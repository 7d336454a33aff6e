"""``earvae decode``: latent files to audio files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from earvae.cli import options
from earvae.cli.batch import plan, print_table, run, to_one_file
from earvae.cli.errors import finish


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
        Path | None,
        typer.Option(
            "--denormalise",
            metavar="STATS",
            help="Multiply by the std and add the mean of this latent_stats.json (or of the one "
            "in this folder). Default: latents that say they are normalised are put back by the "
            "latent_stats.json beside or above them, others are left as they are.",
        ),
    ] = None,
) -> None:
    """Decode latents to audio, at the original's rate and of the original's length.

    Files of `earvae library --normalise` say that they are normalised, and are put back without
    being asked. Latents that a diffusion model generated in normalised form and saved without
    saying so need --denormalise; do not give it for files that are not normalised.

    \b
    earvae decode song.safetensors -o song.wav
    earvae decode latents/ -o decoded/
    earvae decode generated/ -o heard/ --denormalise latents/latent_stats.json
    """
    one_file = to_one_file(inputs, output)
    ending, form = options.output_format(output, one_file, suffix, subtype, clip)

    from earvae.files import decode_file
    from earvae.latents import file, statistics

    stats = None if denormalise is None else statistics.read(denormalise)
    suffixes = frozenset({file.SUFFIX, file.NPY, file.SHARD})
    planned = plan(inputs, Path(output), ending, one_file, suffixes=suffixes)
    if tars := [job for job in planned.jobs if job.source.suffix == file.SHARD]:
        planned.failures.append(
            f"{tars[0].source}: shards ({len(tars)} .tar here) are not decoded yet; unpack them, "
            "or make the library without --shards"
        )
        planned.jobs[:] = [job for job in planned.jobs if job not in tars]
    vae = options.inference_model(weights, config, sample_rate, device, engine)

    work = partial(
        decode_file,
        vae,
        output=form,
        stereo=stereo,
        force=force,
        chunk_frames=options.chunk_frames(vae, chunk_seconds),
        statistics=stats,
    )
    reports, failures = run(planned, work)
    if reports:
        print_table(reports)
    finish(failures, len(reports))
