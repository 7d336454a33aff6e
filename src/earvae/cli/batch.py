"""Many files in one command: which becomes which, one after the other, past the bad ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from earvae import tracks
from earvae.cli import pipes
from earvae.cli.errors import usage_error
from earvae.cli.pipes import STANDARD
from earvae.cli.progress import progress_bar
from earvae.errors import EarvaeError, about, visible

if TYPE_CHECKING:
    from rich.console import Console

    from earvae.files import Report


@dataclass(frozen=True)
class Job:
    """One input file and the output it becomes; either may be ``-``. ``ending`` is the output's
    suffix, ``latents`` are what the input holds, if not sound, and ``part`` which of them."""

    source: Path
    target: Path
    ending: str
    latents: bool = False
    part: object = None


@dataclass(frozen=True)
class Plan:
    """The jobs of a command, and one line for every input that yields none."""

    jobs: list[Job]
    failures: list[str]


def to_one_file(inputs: list[Path], output: str) -> bool:
    """Whether ``output`` names a file: one input, no folder or manifest, and OUT no folder.

    OUT is a folder where it is one already or ends in a slash; also where it has no suffix and
    the input does not exist, so that the input is what gets complained about.
    """
    if len(inputs) != 1 or inputs[0].is_dir() or inputs[0].suffix == tracks.MANIFEST:
        return False
    if Path(output).is_dir() or output.endswith(("/", os.sep)):
        return False
    if STANDARD in (inputs[0], Path(output)):
        return True
    return inputs[0].exists() or Path(output).suffix != ""


def plan(
    inputs: list[Path],
    output: Path,
    new_suffix: str,
    one_file: bool,
    ending: str = "",
    suffixes: frozenset[str] | None = None,
    weights: str | None = None,
) -> Plan:
    """What each input becomes. Nothing is touched yet.

    With ``one_file``, ``output`` is the one input's output; else it is a folder, in which the
    files of folders and manifests (:func:`earvae.tracks.find`) keep their subfolders. Files that
    differ in their suffix alone keep it (:func:`earvae.tracks.stems`): ``song.flac.wav``.
    ``ending`` goes between a name and ``new_suffix``. Two inputs with one output, or an output that
    is an input or a file of the model in ``weights``, are usage errors (status 2).
    """
    latents = suffixes is not None
    pipes.check(inputs, output, one_file)
    if one_file:
        planned = Plan([Job(inputs[0], output, new_suffix, latents)], [])
    else:
        if output.exists() and not output.is_dir():
            usage_error(f"{output}: is a file; several inputs, or a folder, need a folder")
        planned = Plan([], [])
        music: list[tracks.MusicFile] = []
        for entry in inputs:
            try:
                found = tracks.find([entry], output, suffixes=suffixes)
            except tracks.TracksError as error:
                planned.failures.append(str(error))
                continue
            planned.failures.extend(found.problems)
            if suffixes is None:
                print_left_out(found)
            music += found.files
        for file, stem in zip(music, tracks.stems([file.name for file in music]), strict=True):
            below = output / stem
            name = tracks.fitting(below.name, ending + new_suffix) + ending + new_suffix
            planned.jobs.append(Job(Path(file.path), below.parent / name, new_suffix, latents))
    _refuse_collisions(planned.jobs)
    if weights is not None:
        _refuse_the_model(planned.jobs, Path(weights).expanduser())
    return planned


def _refuse_the_model(jobs: list[Job], weights: Path) -> None:
    own = {tracks.identity(weights), tracks.identity(weights / "model.safetensors")}
    for job in jobs:
        if tracks.identity(job.target) in own:
            usage_error(f"{job.target}: is the model that is used; choose another output")


def print_left_out(music: tracks.Music) -> None:
    """A line to standard error for each reason why something that was found is not taken."""
    for line in music.left_out_lines():
        typer.echo(line, err=True)


def _refuse_collisions(jobs: list[Job]) -> None:
    jobs = [job for job in jobs if STANDARD not in (job.source, job.target)]
    inputs = {tracks.identity(job.source): job.source for job in jobs}
    sources: dict[str, Path] = {}  # by target
    for job in jobs:
        if (same := inputs.get(tracks.identity(job.target))) is not None:
            usage_error(f"{job.target}: is the input {same}; choose another output")
        target = os.path.realpath(job.target)
        if (first := sources.get(target)) is not None:
            if tracks.identity(first) == tracks.identity(job.source):
                usage_error(f"{job.source}: is given twice")
            usage_error(
                f"{first} and {job.source} would both become {job.target}; rename one, or run "
                "them into different folders"
            )
        sources[target] = job.source


def run(planned: Plan, work: Callable[..., Report]) -> tuple[list[Report], list[str]]:
    """Do every job by ``work(source, target, progress=…)``, a function of ``earvae.files``; a job
    of a part with ``part=…`` too.

    A file that fails becomes one line after the plan's failures, and the next is done.
    """
    reports: list[Report] = []
    failures = list(planned.failures)
    with progress_bar(len(planned.jobs), "") as update:
        for number, job in enumerate(planned.jobs):
            update(completed=number, description=tracks.printable(job.source.name))

            def progress(share: float, number: int = number) -> None:
                update(completed=number + share)

            try:
                with pipes.files(job.source, job.target, job.ending, job.latents) as own:
                    how = {} if job.part is None else {"part": job.part}
                    reports.append(_done(job, *own, partial(work, progress=progress, **how)))
            except EarvaeError as error:
                failures.append(str(error))
    return reports, failures


def _done(job: Job, source: Path, target: Path, work: Callable[..., Report]) -> Report:
    """The report of a job on files that may stand in for standard input and output. Raises
    EarvaeError, which calls them so."""
    memory = f"{job.source}: out of memory; use a smaller --chunk-seconds"
    try:
        with about(job.source), memory_explained(memory):
            report = work(source, target)
    except EarvaeError as error:
        if STANDARD not in (job.source, job.target):
            raise
        line = str(error).replace(str(source), "standard input")
        raise EarvaeError(line.replace(str(target), "standard output")) from error
    return replace(report, source=str(job.source), output=str(job.target))


def print_table(reports: list[Report]) -> None:
    """One line a file on standard output, or on standard error where a file is piped to that."""
    err = reports[0].output == str(STANDARD)
    scored = any(report.si_sdr is not None for report in reports)
    header = ["written", "samples", "seconds", "× real time", "peak"]
    rows = []
    for report in reports:
        peak = f"{report.peak:.3f}"
        if report.gain != 1:
            peak += f" (× {report.gain:.3f})"
        if report.clamped:
            peak += f" ({report.clamped} clamped)"
        row = [report.output, str(report.samples), f"{report.duration:.2f}", f"{report.speed:.1f}"]
        rows.append([*row, peak])
        if scored:
            rows[-1].append("–" if report.si_sdr is None else f"{report.si_sdr:.2f}")
    print_rows([*header, "SI-SDR dB"] if scored else header, rows, err=err)
    if scaled := sum(report.gain != 1 for report in reports):
        typer.echo(
            f"{scaled} of {len(reports)} went beyond full scale and were scaled down as a whole "
            "(×); float files, such as .wav by default, keep the level",
            err=err,
        )
    if reports[0].seed is not None:
        typer.echo(f"latents sampled with --seed {reports[0].seed}", err=err)


def print_rows(
    header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", err: bool = False
) -> None:
    """A table on standard output, or with ``err`` on standard error; its first column is a name,
    the others are figures.

    Nothing in it is obeyed: names may hold escapes of terminals, or markup.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title)) if title else None)
    for number, heading in enumerate(header):
        figures = number > 0
        justify = "right" if figures else "left"
        table.add_column(Text(visible(heading)), justify=justify, no_wrap=figures, overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console(err).print(table)


@contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Running out of memory, of a CPU or a GPU, becomes an EarvaeError of this line."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and "allocate memory" not in str(error):
            raise
        raise EarvaeError(advice) from None


def stdout() -> Console:
    """A console that wraps nothing where standard output is not a terminal."""
    return console(err=False)


def console(err: bool) -> Console:
    """That of standard output or, with ``err``, of standard error, as :func:`stdout`."""
    from rich.console import Console

    found = Console(stderr=err)
    return found if found.is_terminal else Console(stderr=err, width=200)
