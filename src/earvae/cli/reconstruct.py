"""``earvae reconstruct``: audio files through the codec and back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from earvae.cli import options
from earvae.cli.batch import plan, print_table, run, to_one_file
from earvae.cli.errors import finish, usage_error


def reconstruct(
    inputs: options.OptionalInputs = None,
    output: options.OptionalOutput = None,
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    sample: options.Sample = False,
    seed: options.Seed = None,
    downmix: options.Downmix = False,
    stereo: options.Stereo = False,
    suffix: options.Suffix = None,
    subtype: options.Subtype = None,
    clip: options.Clip = None,
    chunk_seconds: options.ChunkSeconds = 10.0,
    as_json: options.Json = False,
    indir: Annotated[
        Path | None,
        typer.Option("--indir", metavar="FOLDER", help="As IN, as the published script calls it."),
    ] = None,
    outdir: Annotated[
        Path | None,
        typer.Option(
            "--outdir",
            metavar="FOLDER",
            help="As -o FOLDER, with the published script's names, song_MODEL.wav; MODEL is the "
            "name of --weights, or earvae.",
        ),
    ] = None,
) -> None:
    """Send music through the codec and back, to hear what it does.

    Reads WAV, FLAC, Ogg, Opus, MP3 and more, with the extra `media` also M4A, AAC, WMA and the
    sound of videos, at any rate. Writes exactly as many samples as it read, at the same rate:
    float32 WAV unless asked otherwise. Integer files such as FLAC are scaled down as a whole where
    the result exceeds full scale, and a line says so. Uses the posterior mean. A bad file is
    reported at the end and the others are still done; the status is then 1. Files that differ in
    their suffix alone keep it: song.wav and song.flac become song.wav.wav and song.flac.wav.

    \b
    earvae reconstruct song.flac -o out.wav
    earvae reconstruct album/ -o album_vae/ --format flac
    curl -s https://example.org/song.mp3 | earvae reconstruct - -o - | ffplay -
    earvae reconstruct song.wav -o out.wav --weights ear_vae_44k.pyt --device cuda
    """
    sources = [*(inputs or []), *([indir] if indir else [])]
    if not sources:
        usage_error("name the music: IN, or --indir FOLDER")
    if output is None and outdir is None:
        usage_error("say where results go: -o OUT, or --outdir FOLDER")
    if output is not None and outdir is not None:
        usage_error("give --output or --outdir, not both")
    seed = options.seed_of(sample, seed)
    one_file = output is not None and to_one_file(sources, output)
    ending, form = options.output_format(output, one_file, suffix, subtype, clip)

    from earvae.files import reconstruct_file, warm_up

    if output is not None:
        planned = plan(sources, Path(output), ending, one_file)
    else:
        name = "earvae" if weights is None else Path(weights).stem
        planned = plan(sources, outdir, ending, False, f"_{name}")
    vae = options.inference_model(weights, config, sample_rate, device, engine)
    warm_up(vae)

    work = partial(
        reconstruct_file,
        vae,
        output=form,
        downmix=downmix,
        stereo=stereo,
        seed=seed,
        chunk_frames=options.chunk_frames(vae, chunk_seconds),
    )
    reports, failures = run(planned, work)
    if as_json:
        figures = json.dumps([report.values() for report in reports], indent=2)
        typer.echo(figures, err=output == "-")
    elif reports:
        print_table(reports)
    finish(failures, len(reports))
