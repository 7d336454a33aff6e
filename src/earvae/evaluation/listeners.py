"""What listeners of a report said: their files of MUSHRA and ABX tests, put together."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from earvae import json_files
from earvae.errors import EarvaeError, visible

HIGH = 90  # what a hidden reference should reach, and a mid anchor should not pass
TOLERATED = 0.15  # share of a listener's tracks on which that may fail
TOO_GOOD = 0.25  # share of listeners who pass an anchor: then the track shows no treble to miss
MID_ANCHOR = "Anchor 7 kHz"

Name = Annotated[str, Field(max_length=2000)]


class ListenersError(EarvaeError):
    """A file that holds no test, or one of another report: one line that names it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Rating(_Part):
    """Of one version."""

    kind: Literal["reference", "anchor", "codec"]
    name: Name
    rating: int = Field(ge=0, le=100)


class RatedTrack(_Part):
    """All versions of a track, in the order in which they were shown."""

    track: Name
    ratings: list[Rating] = Field(max_length=100)


class _Test(_Part):
    report: Name = ""
    listener: Name = ""
    started: Name = ""
    equally_loud: bool = False


class Mushra(_Test):
    """A MUSHRA test as the report saves it."""

    format: Literal["earvae-mushra-1"]
    trials: list[RatedTrack] = Field(max_length=10_000)


class Answer(_Part):
    """One trial of an ABX test."""

    x: Literal["A", "B"]
    answer: Literal["A", "B"]


class Abx(_Test):
    """An ABX test as the report saves it."""

    format: Literal["earvae-abx-1"]
    track: Name
    a: Name
    b: Name
    planned: int = Field(ge=1, le=10_000)
    trials: list[Answer] = Field(max_length=10_000)

    @property
    def completed(self) -> bool:
        """Whether it went on to the end that was fixed beforehand."""
        return len(self.trials) >= self.planned


Test = Mushra | Abx
_KINDS: dict[str, type[Test]] = {"earvae-mushra-1": Mushra, "earvae-abx-1": Abx}


@dataclass(frozen=True)
class Opinion:
    """What one listener gave one version of one track; the mean where it was asked for twice."""

    listener: str
    track: str
    kind: str
    name: str
    rating: float


@dataclass(frozen=True)
class Scores:
    """Of one version, over listeners and tracks."""

    name: str
    kind: str
    listeners: int
    ratings: int
    median: float
    quartiles: tuple[float, float]
    mean: float
    interval: tuple[float, float] | None
    """95 %, of the mean over listeners (Student's t); None of one listener."""


@dataclass(frozen=True)
class Guesses:
    """Answers of ABX tests of two versions. ``listener`` is None for all together."""

    a: str
    b: str
    listener: str | None
    right: int
    trials: int

    @property
    def p(self) -> float:
        """How often somebody who guesses is right at least as often: one-sided, binomial."""
        ways = sum(math.comb(self.trials, k) for k in range(self.right, self.trials + 1))
        return ways / 2**self.trials


def read(path: Path) -> list[Test]:
    """The tests in a file that a report saved: one, or a list. Who gave no name is called as the
    file.

    Raises ListenersError.
    """
    try:
        value = json_files.read(path)
        tests = []
        for entry in value if isinstance(value, list) else [value]:
            kind = _KINDS.get(str(entry.get("format"))) if isinstance(entry, dict) else None
            if kind is None:
                raise ListenersError(f"{path}: holds no MUSHRA or ABX test of a listening report")
            test = json_files.typed(kind, entry, str(path))
            named = test.listener.strip() or path.stem
            tests.append(test.model_copy(update={"listener": named}))
        return tests
    except json_files.JsonError as error:
        raise ListenersError(str(error)) from None


def read_all(paths: Iterable[Path]) -> tuple[list[Test], list[str]]:
    """The tests of all files, each once, and a line for each file that cannot be used: damaged, or
    of another report than the first."""
    tests: list[Test] = []
    failures: list[str] = []
    for path in paths:
        try:
            found = read(path)
            for test in found:
                if test.report != (tests or found)[0].report:
                    raise ListenersError(f"{path}: is of another report than the first file")
        except EarvaeError as error:
            failures.append(str(error))
            continue
        tests += [test for test in found if test not in tests]
    return tests, failures


def opinions(tests: Iterable[Test]) -> list[Opinion]:
    """All ratings of MUSHRA tests."""
    given: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for test in tests:
        if isinstance(test, Mushra):
            for trial in test.trials:
                for rating in trial.ratings:
                    key = (test.listener, trial.track, rating.kind, rating.name)
                    given[key].append(rating.rating)
    return [Opinion(*key, sum(values) / len(values)) for key, values in given.items()]


def screened(found: Sequence[Opinion]) -> dict[str, str]:
    """By listener, why ITU-R BS.1534-3 (4.1.2) leaves them out: the hidden reference below 90, or
    the mid anchor above 90, on more than 15 % of their tracks. Tracks whose mid anchor more than a
    quarter of the listeners put above 90 do not count for the second rule."""
    reference, anchor = defaultdict(list), defaultdict(list)
    passed = defaultdict(list)
    for opinion in found:
        if opinion.name == MID_ANCHOR and opinion.kind == "anchor":
            passed[opinion.track].append(opinion.rating > HIGH)
    for opinion in found:
        if opinion.kind == "reference":
            reference[opinion.listener].append(opinion.rating < HIGH)
        elif opinion.name == MID_ANCHOR and opinion.kind == "anchor":
            told = passed[opinion.track]
            if sum(told) <= TOO_GOOD * len(told):
                anchor[opinion.listener].append(opinion.rating > HIGH)
    reasons = {}
    for listener in dict.fromkeys(opinion.listener for opinion in found):
        for failed, what in (
            (reference[listener], f"the hidden reference below {HIGH}"),
            (anchor[listener], f"the anchor at 7 kHz above {HIGH}"),
        ):
            if sum(failed) > TOLERATED * len(failed):
                reasons.setdefault(
                    listener, f"rated {what} on {sum(failed)} of {len(failed)} tracks"
                )
    return reasons


def scores(found: Iterable[Opinion]) -> list[Scores]:
    """The versions, the best median first. Needs scipy."""
    by_version: dict[tuple[str, str], dict[str, list[float]]] = {}
    for opinion in found:
        listeners = by_version.setdefault((opinion.kind, opinion.name), {})
        listeners.setdefault(opinion.listener, []).append(opinion.rating)
    rows = []
    for (kind, name), listeners in by_version.items():
        ratings = np.concatenate([*map(np.array, listeners.values())])
        low, median, high = np.percentile(ratings, (25, 50, 75))
        means = np.array([np.mean(values) for values in listeners.values()])
        interval = _interval(means) if len(means) > 1 else None
        rows.append(
            Scores(
                name,
                kind,
                len(means),
                len(ratings),
                float(median),
                (float(low), float(high)),
                float(means.mean()),
                interval,
            )
        )
    return sorted(rows, key=lambda row: (row.median, row.mean), reverse=True)


def guesses(tests: Iterable[Test]) -> list[Guesses]:
    """Of ABX tests that went on to their end, by pair of versions: each listener, then all."""
    pairs: dict[tuple[str, str], dict[str, list[bool]]] = {}
    for test in tests:
        if isinstance(test, Abx) and test.completed:
            listeners = pairs.setdefault((test.a, test.b), {})
            answers = [answer.x == answer.answer for answer in test.trials]
            listeners.setdefault(test.listener, []).extend(answers)
    rows = []
    for (a, b), listeners in pairs.items():
        rows += [Guesses(a, b, who, sum(given), len(given)) for who, given in listeners.items()]
        if len(listeners) > 1:
            everything = [answer for given in listeners.values() for answer in given]
            rows.append(Guesses(a, b, None, sum(everything), len(everything)))
    return rows


def csv_text(found: Iterable[Opinion], left_out: Iterable[str]) -> str:
    """All ratings, a line each, for other programs; who is left out is marked."""
    text, left_out = io.StringIO(), set(left_out)
    writer = csv.writer(text)
    writer.writerow(["listener", "track", "kind", "version", "rating", "screened_out"])
    for opinion in found:
        names = (opinion.listener, opinion.track, opinion.kind, opinion.name)
        cells = [*map(visible, names), opinion.rating, int(opinion.listener in left_out)]
        writer.writerow(cells)
    return text.getvalue()


def _interval(means: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of values that are independent, within the scale."""
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    mean = float(means.mean())
    return max(0.0, mean - half), min(100.0, mean + half)
