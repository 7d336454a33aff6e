"""``earvae listeners``: what the listeners of a report said, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earvae.cli.errors import finish, one_line, say


def listeners(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="JSON...",
            show_default=False,
            help="Files that the MUSHRA and ABX tests of one report saved.",
        ),
    ],
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write every MUSHRA rating here, a line each."),
    ] = None,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Leave nobody out of the MUSHRA scores.")
    ] = False,
) -> None:
    """Put listeners' files together: MUSHRA scores and ABX results.

    MUSHRA: median, quartiles and mean of each version, with the 95 % interval of the mean over
    listeners. Left out, as ITU-R BS.1534-3 says, is who rates the hidden reference below 90, or
    the anchor at 7 kHz above 90, on more than 15 % of the tracks. ABX: right answers by pair and
    listener, with the one-sided binomial p-value; tests that were ended early do not count.

    \b
    earvae listeners mushra_*.json abx_*.json
    earvae listeners answers/*.json --csv ratings.csv
    """
    from earvae import atomic
    from earvae.evaluation import listeners as said

    try:
        import scipy  # noqa: F401
    except ModuleNotFoundError as error:
        one_line(f"intervals need the package {error.name}: pip install 'earvae[eval]'")
    tests, failures = said.read_all(files)
    found = said.opinions(tests)
    reasons = {} if keep_all else said.screened(found)
    if found:
        _print_scores([o for o in found if o.listener not in reasons], len(reasons))
        for listener, reason in reasons.items():
            say(f"left out: {listener}, who {reason} (--keep-all keeps them)")
    _print_guesses(tests)
    if table:
        atomic.write(table, said.csv_text(found, reasons))
        say(f"written: {table}")
    finish(failures, len(files) - len(failures))


def _print_scores(found: list, left_out: int) -> None:
    from earvae.cli.batch import print_rows
    from earvae.evaluation.listeners import scores

    rows = []
    for row in scores(found):
        cells = [row.name, f"{row.median:.1f}", "{:.1f} … {:.1f}".format(*row.quartiles)]
        interval = "{:.1f} … {:.1f}".format(*row.interval) if row.interval else "–"
        rows.append([*cells, f"{row.mean:.1f}", interval, str(row.listeners), str(row.ratings)])
    if not rows:
        say("no MUSHRA scores: every listener is left out")
        return
    header = ["version", "median", "quartiles", "mean", "95 % of the mean", "listeners", "ratings"]
    print_rows(header, rows, f"MUSHRA, {left_out} left out" if left_out else "MUSHRA")


def _print_guesses(tests: list) -> None:
    from earvae.cli.batch import print_rows
    from earvae.evaluation.listeners import Abx, guesses

    rows = [
        [f"{g.a} – {g.b}", g.listener or "all", f"{g.right} of {g.trials}", f"{g.p:.4f}"]
        for g in guesses(tests)
    ]
    if rows:
        print_rows(["A – B", "listener", "right", "p"], rows, "ABX")
    early = sum(isinstance(test, Abx) and not test.completed for test in tests)
    if early:
        say(f"ended before their planned trials, and not counted: {early} ABX tests")
