"""``earvae encode``: audio files to latent files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earvae.cli import options
from earvae.cli.batch import Job, plan, run, to_one_file
from earvae.cli.errors import finish

if TYPE_CHECKING:
    from earvae.files import Progress, Report


def encode(
    inputs: options.Inputs = None,
    output: options.Output = None,
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    device: options.Device = "auto",
    sample: options.Sample = False,
    seed: options.Seed = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16 latents.")] = False,
    downmix: options.Downmix = False,
    chunk_seconds: options.ChunkSeconds = 10.0,
) -> None:
    """Encode music to latents, one .safetensors file a track.

    A file holds the tensor `latents` [64, frames] and, as metadata, the rates, the true length,
    the channels, the hop, the model's identity, and whether it is the posterior mean or a sample
    and of which seed. `earvae decode` turns it into audio again.

    \b
    earvae encode song.flac -o song.safetensors
    earvae encode album/ -o latents/ --half
    """
    if not inputs:
        options.usage_error("name at least one file or folder to read")
    if output is None:
        options.usage_error("say where to write: -o OUT")
    seed = options.seed_of(sample, seed)

    from earvae.audio import READABLE_SUFFIXES
    from earvae.files import SUFFIX, encode_file

    one_file = to_one_file(inputs, output)
    if one_file and Path(output).suffix != SUFFIX:
        options.usage_error(f"{output}: name a file in {SUFFIX}, or end a folder with a slash")
    planned = plan(inputs, Path(output), READABLE_SUFFIXES, SUFFIX, one_file)
    vae = options.load_model(weights, config, sample_rate, device)
    identity = vae.identity

    def work(job: Job, progress: Progress) -> Report:
        return encode_file(
            vae,
            job.source,
            job.target,
            identity,
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
