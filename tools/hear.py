"""Print what the five figures do not hear, beside them: one row a model, medians over excerpts.

    python tools/hear.py song.wav song_decoded.wav other_decoded.wav
    python tools/hear.py --models a=runs/a/ema b=runs/b/ema \\
        --manifest corpus/manifest.jsonl --split validation --csv hear.csv
    python tools/hear.py --masters FOLDER

``--models`` runs models (sources of EarVAE.from_pretrained, or ``shipped``; NAME= may be left out)
with mean latents over the excerpts that ``earvae evaluate`` takes: 30 s from the middle of each
track, ``--jobs`` of them at a time, ``--most`` of them in all. ``--masters`` takes a folder of
folders, each with ``original.*`` and reconstructions that are named after their systems; mono and
stereo tracks are summed up apart. Files are aligned by whole samples first.

Columns: the five figures (docs/paper.md), then by band, 0.2–1 / 1–2 / 2–4 / 4–8 / 8–16 kHz, up
to where a measure reaches: F1 of spectral lines, lines kept and invented per line of the original,
SDR and level of Mid in dB, error of the quieter channel of panned sounds in dB, and
self-similarity at multiples of the hop beyond the original's (earvae.evaluation.hearing). "–":
no excerpt gives the figure a meaning. The CSV has every excerpt's figures. Needs the eval extra.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track as progress
from torch import Tensor

from earvae import EarVAE
from earvae.audio import AudioFileError, AudioSource
from earvae.evaluation.align import AlignmentError, align
from earvae.evaluation.excerpts import (
    SAMPLE_RATE,
    EvaluationError,
    Span,
    Track,
    find_tracks,
    read_excerpt,
    read_stretch,
)
from earvae.evaluation.hearing import HOP, Hearing
from earvae.evaluation.metrics import track_metrics
from earvae.evaluation.models import EarVAECodec
from earvae.evaluation.octaves import BANDS_HZ
from earvae.model.vae import ModelSourceError
from earvae.tracks import SUFFIXES

FIVE = {"si_sdr": "SI-SDR", "mel": "Mel", "stft": "STFT", "icpc": "ICPC", "ccpc": "CCPC"}
BY_BAND = {
    "lines_f1": ("lines F1", ".2f"),
    "kept": ("kept", ".2f"),
    "invented": ("invented", ".2f"),
    "sdr": ("SDR dB", ".1f"),
    "level": ("level dB", "+.1f"),
    "panning": ("panning dB", "+.1f"),
    "repetition": ("repetition", ".2f"),
}
IDENTICAL_CHANNELS = 1e-3  # Side below this is a mono file that was coded with loss


@dataclass(frozen=True)
class Result:
    """Figures of one excerpt through one system; excerpts of a group are summed up together."""

    group: str
    system: str
    excerpt: str
    figures: dict[str, float]


def results_of_models(
    sources: list[str], tracks: list[Track], seconds: float, jobs: int
) -> Iterator[Result]:
    """Every excerpt through every model, in the order of the tracks; ``jobs`` at a time."""
    group = f"{len(tracks)} excerpts of {seconds:g} s"
    with ProcessPoolExecutor(jobs, get_context("spawn"), _load, (sources,)) as pool:
        done = pool.map(partial(_excerpt_through_models, group, Span(seconds or None)), tracks)
        bar = {"console": Console(stderr=True), "description": "excerpts", "total": len(tracks)}
        for results, faults in progress(done, **bar):
            for fault in faults:
                print(fault, file=sys.stderr)
            yield from results


_models: list[EarVAECodec] = []  # of a worker process


def _load(sources: list[str]) -> None:
    torch.set_num_threads(1)  # several threads wait for each other on small transforms
    _models.extend(model(source) for source in sources)


@torch.no_grad()
def _excerpt_through_models(group: str, span: Span, track: Track) -> tuple[list[Result], list[str]]:
    """Results, and a line for each model or track that failed; the others go on."""
    try:
        hearing = Hearing(read_excerpt(track, span).audio)
    except (AudioFileError, ValueError) as error:
        return [], [f"{track.name}: {error}"]
    results, faults = [], []
    for codec in _models:
        hop = round(codec.vae.hop_length * SAMPLE_RATE / codec.vae.sample_rate)
        try:
            figures = compared(codec.round_trip(hearing.target), hearing, hop)
            results.append(Result(group, codec.name, track.name, figures))
        except ValueError as error:  # one that diverged
            faults.append(f"{codec.name}, {track.name}: {error}")
    return results, faults


def results_of_files(
    group: str, excerpt: str, reference: Tensor, files: Iterable[Path]
) -> Iterator[Result]:
    """Ready reconstructions of one reference. Raises AudioFileError and AlignmentError."""
    hearing = Hearing(reference)
    for file in files:
        try:
            fitted = align(read(file), reference)
        except AlignmentError as error:
            raise AlignmentError(f"{file}: {error}") from None
        if (fitted.first, fitted.last) == (0, reference.shape[1]):
            figures = compared(fitted.audio, hearing, HOP)
        else:  # compared where both are there
            shared = slice(fitted.first, fitted.last)
            figures = compared(fitted.audio[:, shared], Hearing(reference[:, shared]), HOP)
        yield Result(group, file.stem, excerpt, figures)


def results_of_masters(folder: Path) -> Iterator[Result]:
    """The reconstructions of every folder of ``folder`` that holds ``original.*``. Raises
    EvaluationError where there is none."""
    originals = sorted(p for p in folder.glob("*/original.*") if p.suffix in SUFFIXES)
    if not originals:
        raise EvaluationError(f"{folder}: no folder in it holds an original.*")
    for original in progress(originals, console=Console(stderr=True), description="tracks"):
        reference = read(original)
        side = (reference[0] - reference[1]).abs().max() / 2
        group = "mono" if side < IDENTICAL_CHANNELS else "stereo"
        files = sorted(p for p in original.parent.iterdir() if p.suffix in SUFFIXES)
        others = (file for file in files if file != original)
        yield from results_of_files(group, original.parent.name, reference, others)


def read(path: Path) -> Tensor:
    """A whole file, ``[2, samples]`` at 44.1 kHz. Raises AudioFileError."""
    return read_stretch(AudioSource(path, downmix=True), 0, None)


def compared(reconstruction: Tensor, hearing: Hearing, hop: int) -> dict[str, float]:
    """The five figures and those of ``Hearing``."""
    five = track_metrics(reconstruction, hearing.target, SAMPLE_RATE)
    return {**{name: five[name] for name in FIVE}, **hearing.figures(reconstruction, hop)}


def table(results: list[Result]) -> str:
    """Markdown: one row a system, medians over the excerpts in which a figure has a meaning."""
    header = ["", *FIVE.values(), *(title for title, _ in BY_BAND.values())]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for system in dict.fromkeys(result.system for result in results):
        own = [result.figures for result in results if result.system == system]
        cells = [system, *(_median(own, name, ".3f") for name in FIVE)]
        for measure, (_, digits) in BY_BAND.items():
            names = [f"{measure}_{band}" for band in BANDS_HZ]
            reached = [name for name in names if name in own[0]]
            cells.append(" / ".join(_median(own, name, digits) for name in reached))
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _median(figures: list[dict[str, float]], name: str, digits: str) -> str:
    values = [each[name] for each in figures if not math.isnan(each[name])]
    return format(statistics.median(values), digits) if values else "–"


def write_csv(results: list[Result], path: Path) -> None:
    """One line for each excerpt and system; empty cells have no meaning."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = list(results[0].figures)
        writer.writerow(["group", "system", "excerpt", *names])
        for result in results:
            values = [result.figures[name] for name in names]
            cells = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
            writer.writerow([result.group, result.system, result.excerpt, *cells])


def model(argument: str) -> EarVAECodec:
    """``NAME=SOURCE`` or ``SOURCE``, which then is the name as well."""
    name, equals, source = argument.partition("=")
    source = source if equals else argument
    vae = EarVAE.from_pretrained(None if source == "shipped" else source)
    return EarVAECodec(vae.eval(), name)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE",
                        help="a reference and its reconstructions")  # fmt: skip
    parser.add_argument("--masters", type=Path, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=[], metavar="[NAME=]SOURCE")
    parser.add_argument("--manifest", type=Path, help="or a folder of music, for --models")
    parser.add_argument("--split", help="of a manifest; default: all")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each track; 0: all of it")
    parser.add_argument("--most", type=int, metavar="N", help="every so many tracks, up to N")
    parser.add_argument("--jobs", type=int, default=1, help="excerpts at a time, for --models")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="figures of every excerpt")
    arguments = parser.parse_args()
    if bool(arguments.files) + bool(arguments.masters) + bool(arguments.models) != 1:
        parser.error("give files, or --masters, or --models")
    if len(arguments.files) == 1:
        parser.error(f"{arguments.files[0]}: name its reconstructions after it")
    if arguments.models and not arguments.manifest:
        parser.error("--models needs --manifest")
    if arguments.csv and not arguments.csv.resolve().parent.is_dir():
        parser.error(f"{arguments.csv}: its folder is not there")

    if arguments.files:
        reference, *others = arguments.files
        found = results_of_files("files", reference.name, read(reference), others)
    elif arguments.masters:
        found = results_of_masters(arguments.masters)
    else:
        names = [argument.partition("=")[0] for argument in arguments.models]
        if len(set(names)) < len(names):
            parser.error("two models have one name; give each its own: NAME=SOURCE")
        try:
            tracks = find_tracks(arguments.manifest, arguments.split)
            for argument in arguments.models:  # a fault in a worker is no line to read
                model(argument)
        except (EvaluationError, ModelSourceError) as error:
            raise SystemExit(str(error)) from None
        tracks = tracks[:: -(-len(tracks) // arguments.most)] if arguments.most else tracks
        found = results_of_models(arguments.models, tracks, arguments.seconds, arguments.jobs)
    torch.set_num_threads(1)
    results, fault = [], None
    try:
        for result in found:
            results.append(result)  # one by one: kept if the next one fails
    except (AudioFileError, AlignmentError, EvaluationError, ValueError) as error:
        fault = str(error)
    for group in dict.fromkeys(result.group for result in results):
        print(f"{group}: medians\n")
        print(table([result for result in results if result.group == group]) + "\n")
    if arguments.csv and results:
        write_csv(results, arguments.csv)
    if fault:  # what was measured before it is printed all the same
        raise SystemExit(fault)


if __name__ == "__main__":
    main()
