"""``earvae thdn``: distortion and noise of codecs, after AES17."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earvae.cli import options
from earvae.cli.errors import finish, one_line


def thdn(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for thdn.csv and plots.")
    ],
    codec: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            metavar="[NAME=]CODEC",
            help="Repeat it; as in `earvae evaluate --help`. Default: earvae.",
        ),
    ] = None,
    level: Annotated[
        list[float] | None,
        typer.Option(metavar="DBFS", help="Of the tones; repeat it. Default: -1 and -20."),
    ] = None,
    frequency: Annotated[
        list[int] | None,
        typer.Option(
            metavar="HZ", help="Whole hertz, 20 to 20000; repeat it. Default: thirds of octaves."
        ),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Measure distortion and noise with a stepped sine (AES17).

    OUT gets thdn.csv (per codec, level and frequency: THD+N, harmonics) and a plot per codec,
    thdn_NAME.png.

    \b
    earvae thdn --codec earvae --codec opus:96 -o thdn/
    earvae thdn --codec earvae --level -6 --frequency 100 --frequency 997 -o thdn/
    """
    from earvae.cli.evaluate import systems_of
    from earvae.evaluation import thdn as aes17
    from earvae.evaluation.systems import UnusableSystem
    from earvae.owned import THDN, Owned

    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        one_line(f"plots need the package {error.name}: pip install 'earvae[eval]'")
    systems, failures = systems_of(codec or ["earvae"], device)
    levels = tuple(level) if level else aes17.LEVELS
    frequencies = tuple(frequency) if frequency else aes17.FREQUENCIES
    Owned(output, THDN).claim("thdn.csv", *(f"thdn_{system.name}.png" for system in systems))
    readings: dict[str, list[aes17.Reading]] = {}
    for system in systems:
        try:
            readings[system.name] = aes17.measure_thdn(system, levels, frequencies)
        except ValueError as error:
            options.usage_error(str(error))
        except UnusableSystem as error:
            failures.append(str(error))
        else:
            aes17.plot(system.name, readings[system.name], output / f"thdn_{system.name}.png")
    if readings:
        aes17.write_csv(readings, output / "thdn.csv")
        _print_table(readings)
        typer.echo(f"written: {output / 'thdn.csv'}")
    finish(failures, len(readings))


def _print_table(readings: dict) -> None:
    """THD+N in dB at a few frequencies, by codec and level."""
    from earvae.cli.batch import print_rows

    frequencies = list(dict.fromkeys(s.frequency_hz for steps in readings.values() for s in steps))
    shown = [f for f in (100, 997, 5000, 10_000) if f in frequencies] or frequencies[:4]
    rows = []
    for name, steps in readings.items():
        by_place = {(step.level_dbfs, step.frequency_hz): step.thdn_db for step in steps}
        for level in dict.fromkeys(step.level_dbfs for step in steps):
            values = [by_place[level, frequency] for frequency in shown]
            cells = ["–" if value is None else f"{value:.1f}" for value in values]
            rows.append([name, f"{level:g}", *cells])
    header = ["codec", "dBFS", *(f"{frequency} Hz" for frequency in shown)]
    print_rows(header, rows, "THD+N in dB (AES17)")
