"""``earvae encode``: audio files to latent files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from earvae.cli import options
from earvae.cli.batch import plan, run, to_one_file
from earvae.cli.errors import finish, say, usage_error

MANY = 1_000  # files after which resuming is worth a word


def encode(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            show_default=False,
            help="Files, or folders to search. -: standard input.",
        ),
    ],
    output: options.Output,
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    sample: options.Sample = False,
    seed: options.Seed = None,
    half: options.Half = False,
    downmix: options.Downmix = False,
    chunk_seconds: options.ChunkSeconds = 10.0,
) -> None:
    """Encode music to latents, one .safetensors file a track.

    A file holds the tensor `latents` [64, frames] and, as metadata, the rates, the true length,
    the channels, the hop, the model's identity, and whether it is the posterior mean or a sample
    and of which seed. `earvae decode` turns it into audio again.

    For whole music libraries, `earvae library` is the verb: what is done stays, shards, segments,
    several processes.

    \b
    earvae encode song.flac -o song.safetensors
    earvae encode album/ -o latents/ --half
    earvae encode - -o - < song.flac > song.safetensors
    """
    from earvae.files import encode_file, warm_up
    from earvae.latents.file import SUFFIX
    from earvae.tracks import MANIFEST

    seed = options.seed_of(sample, seed)
    if manifests := [entry for entry in inputs if entry.suffix == MANIFEST]:
        usage_error(f"{manifests[0]}: manifests are of libraries: earvae library IN... -o OUT")
    one_file = to_one_file(inputs, output)
    if one_file and Path(output).suffix != SUFFIX and output != "-":
        usage_error(f"{output}: name a file in {SUFFIX}, or end a folder with a slash")
    planned = plan(inputs, Path(output), SUFFIX, one_file, weights=weights)
    if len(planned.jobs) >= MANY:
        typer.echo(f"{len(planned.jobs)} files; `earvae library` could be stopped and go on",
                   err=True)  # fmt: skip
    vae = options.inference_model(weights, config, sample_rate, device, engine)
    warm_up(vae)

    work = partial(
        encode_file,
        vae,
        downmix=downmix,
        seed=seed,
        half=half,
        chunk_frames=options.chunk_frames(vae, chunk_seconds),
    )
    reports, failures = run(planned, work)
    err = output == "-"
    for report in reports:
        say(f"{report.output}: {report.frames} frames, {report.duration:.2f} s", err=err)
    if reports and seed is not None:
        typer.echo(f"latents sampled with --seed {seed}", err=err)
    finish(failures, len(reports))
