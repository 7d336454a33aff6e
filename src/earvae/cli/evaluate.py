"""``earvae evaluate``: codecs side by side on someone's music."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from earvae.cli import options
from earvae.cli.errors import finish, one_line

if TYPE_CHECKING:
    from earvae.evaluation.systems import System

Sound = Literal["flac", "opus"]
COMPARISON = "folder:"  # a REF of originals and reconstructions side by side


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="REF",
            show_default=False,
            help="A folder of music, a manifest (.jsonl), or one file; or folder:PATH, see below.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the results.")
    ],
    codec: Annotated[
        list[str] | None,
        typer.Option(
            "--codec", metavar="[NAME=]CODEC", help="Repeat it; see above. Default: earvae."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Of each track; 0: all of it.")] = 30.0,
    start: Annotated[
        str, typer.Option(help="middle, or the second of the track to begin at.")
    ] = "middle",
    split: Annotated[
        str | None,
        typer.Option(help="Of a manifest, or train or validation of a folder. Default: all."),
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Every so many tracks, N at most.")
    ] = None,
    loud: Annotated[
        bool,
        typer.Option("--loud", help="Turned up to −9 LUFS through a soft limiter, as masters are."),
    ] = False,
    judges: Annotated[
        bool,
        typer.Option(
            "--judges", help="Ask Zimtohrli and ViSQOL too: half a minute more a track and codec."
        ),
    ] = False,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
    notes: Annotated[
        str, typer.Option(metavar="TEXT", help="For the page: what this is, for whom.")
    ] = "",
    sound: Annotated[
        Sound,
        typer.Option(
            "--audio", help="Of the page: flac is exact; opus is a fifth in size, 260 kb/s."
        ),
    ] = "flac",
    device: options.Device = "auto",
) -> None:
    """Measure codecs side by side on your music, and make a page to listen on.

    OUT gets results.json, results.csv, results.md, evaluation_results.json (the keys of the
    published evaluation), the aligned audio, and the page (report/index.html). Run it again to go
    on after an interruption, or with more codecs: what is done is kept.

    \b
    codecs:
      earvae              the model that comes with the package
      earvae:WEIGHTS      what --weights takes elsewhere, such as earvae:ear-vae-44k
      folder:PATH         ready reconstructions: song.*, or song_vae_rec.*
      beside:NAME         ready reconstructions: NAME.* beside each reference
      opus:96 mp3:128     through ffmpeg, kilobits a second
      vorbis:96 aac:128
      linear:64           best fixed linear code, 64 numbers a frame
      oobleck:FOLDER      a diffusers AutoencoderOobleck
      dac dac:24khz       Descript Audio Codec (pip install descript-audio-codec)
      encodec:24          EnCodec, stereo, 3, 6, 12 or 24 kb/s (pip install encodec)
      FILE.py:FUNCTION    yours: (audio [2, samples], rate) to the same; also
                          python:MODULE:FUNCTION
      identity flip mono  the reference itself, flipped, folded to mono

    folder:PATH as REF compares what lies there: folders with an original.* (or reference.*) and
    reconstructions of it, one a system, named by it. Nothing else is compared unless --codec says
    so. Tracks that not all systems have come in tables of their own.

    \b
    earvae evaluate album/ --codec earvae --codec opus:96 -o results/
    earvae evaluate folder:their_page/ --codec earvae --seconds 0 -o out/
    earvae evaluate corpus/manifest.jsonl --split test --codec mine=earvae:runs/compact/ema -o out/
    """
    from earvae import tracks
    from earvae.cli import batch
    from earvae.evaluation import tables
    from earvae.evaluation.evaluate import claimed
    from earvae.evaluation.evaluate import evaluate as run
    from earvae.evaluation.excerpts import Span, evenly, references
    from earvae.evaluation.metrics.judges import versions
    from earvae.evaluation.systems.folder import compared
    from earvae.evaluation.systems.registry import offered

    try:
        import pyloudnorm  # noqa: F401
    except ModuleNotFoundError as error:
        one_line(f"evaluation needs the package {error.name}: pip install 'earvae[eval]'")
    if judges:
        versions()
    span = Span(seconds or None, _start(start), loud)
    comparison = str(source).startswith(COMPARISON)
    source = Path(str(source).removeprefix(COMPARISON)).expanduser() if comparison else source
    music = tracks.find([source], leave_out=output, split=split)
    batch.print_left_out(music)
    specs: list[str | System] = [*(codec or ([] if comparison else ["earvae"]))]
    if comparison:
        found, stems = compared(music.files)
        specs = [*offered(stems), *specs]
        nothing = f"{source}: no folder there has an original.* and reconstructions beside it"
    else:
        found = references(music.files)
        nothing = f"{source}: holds nothing but reconstructions"
    if not found or not specs:
        finish(music.problems or [nothing], 0)
    found = evenly(found, most)
    systems, failures = systems_of(specs, device)
    failures += music.problems
    with claimed(output).alone(lambda line: typer.echo(line, err=True)):
        with batch.progress_bar(len(found) * len(systems), "") as update:
            results, more = run(
                found,
                systems,
                output,
                span,
                lambda done, doing: update(completed=done, description=doing[-50:]),
                judges,
            )
        failures += more
        tables.write_all(results, output)
        for part in tables.parts(results):
            batch.print_rows(*tables.compact_table(part), f"mean over {tables.which(part)}")
            batch.print_rows(*tables.hearing_table(part))
        page = _page(output, title, notes, sound) if results.tracks else None
    typer.echo(f"written: {page or output / 'results.md'}")
    finish(failures, sum(result.error is None for result in results.results))


def systems_of(specs: list[str | System], device: str) -> tuple[list[System], list[str]]:
    """What ``--codec`` names, and a line for each that cannot be set up; leaves if none can."""
    from earvae.evaluation.systems.registry import SpecError, make_all

    try:
        systems, failures = make_all(specs, options.device_of(device))
    except SpecError as error:
        options.usage_error(str(error))
    if not systems:
        finish(failures, 0)
    return systems, failures


def _start(text: str) -> float | None:
    if text == "middle":
        return None
    try:
        start = float(text)
    except ValueError:
        start = -1.0
    if not 0 <= start < 1e9:
        options.usage_error(f"--start {text}: give middle, or seconds from 0 on")
    return start


def _page(output: Path, title: str | None, notes: str, audio: Sound) -> Path | None:
    """The listening page, where what draws it is installed."""
    try:
        from earvae.evaluation import report
    except ModuleNotFoundError as error:
        name = error.name
        typer.echo(
            f"no listening page: it needs the package {name}: pip install 'earvae[eval]'", err=True
        )
        return None
    own = {"title": title} if title else {}
    return report.build(output, report.Presentation(**own, notes=notes, audio=audio))
