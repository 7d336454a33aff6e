"""Files of listeners put together: scores, who is left out, and ABX results."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

pytest.importorskip("scipy", reason="intervals need the eval extra")
from scipy import stats

from earvae.evaluation import listeners

MID = "Anchor 7 kHz"


def mushra(listener: str, *tracks: dict[str, int], report: str = "one", **more) -> dict:
    """A test as the page saves it; tracks are ratings by name."""
    kinds = {"Reference": "reference", MID: "anchor", "Anchor 3.5 kHz": "anchor"}
    trials = [
        {
            "track": f"{number}.flac",
            "seconds": 1.5,
            "ratings": [
                {"kind": kinds.get(name, "codec"), "name": name, "rating": rating}
                for name, rating in ratings.items()
            ],
        }
        for number, ratings in enumerate(tracks)
    ]
    values = {"format": "earvae-mushra-1", "report": report, "listener": listener}
    return values | {"started": listener, "trials": trials} | more


def abx(listener: str, right: int, count: int, planned: int | None = None, **more) -> dict:
    trials = [{"x": "A", "answer": "A" if n < right else "B", "seconds": 1} for n in range(count)]
    values = {"format": "earvae-abx-1", "report": "one", "listener": listener, "track": "0.flac"}
    values |= {"a": "Reference", "b": "mine", "planned": planned or count, "trials": trials}
    return values | {"started": listener} | more


@pytest.fixture
def written(tmp_path):
    """Write values to files in order; their paths."""

    def write(*values):
        paths = [tmp_path / f"{number}.json" for number in range(len(values))]
        for path, value in zip(paths, values, strict=True):
            path.write_text(json.dumps(value))
        return paths

    return write


def test_scores_are_medians_quartiles_and_the_interval_over_listeners(written):
    rated = {"Ada": (60, 80), "Ben": (50, 60), "Cem": (90, 40)}
    paths = written(
        *(mushra(who, {"Reference": 100, "mine": a}, {"Reference": 100, "mine": b})
          for who, (a, b) in rated.items())
    )  # fmt: skip
    tests, failures = listeners.read_all(paths)
    assert not failures
    best, mine = listeners.scores(listeners.opinions(tests))
    assert (best.name, best.median, best.interval) == ("Reference", 100, (100, 100))
    values = np.array([*rated.values()])
    assert mine.quartiles == (np.percentile(values, 25), np.percentile(values, 75))
    assert (mine.median, mine.listeners, mine.ratings) == (60, 3, 6)
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values.mean(1)))
    assert mine.interval == pytest.approx(expected)


def test_a_single_listener_has_no_interval_and_equal_tests_count_once(written):
    one = mushra("Ada", {"mine": 40})
    tests, _ = listeners.read_all(written(one, [one], [one, mushra("Ada", {"mine": 60}, more=1)]))
    (row,) = listeners.scores(listeners.opinions(tests))
    assert (row.mean, row.ratings, row.interval) == (50, 1, None)  # asked twice: the mean


def test_who_does_not_find_the_reference_or_rates_the_anchor_high_is_left_out(written):
    good = {"Reference": 100, MID: 40}
    deaf = {"Reference": 89, MID: 40}
    kind = {"Reference": 100, MID: 91}
    paths = written(
        mushra("good", *[good] * 7),
        mushra("seldom", *[good] * 6, deaf),  # 1 of 7 is 14 %
        mushra("deaf", *[good] * 5, deaf, deaf),
        mushra("kind", kind, kind, *[good] * 5),
        mushra("fifth", *[good] * 7),
    )
    found = listeners.opinions(listeners.read_all(paths)[0])
    assert listeners.screened(found) == {
        "deaf": "rated the hidden reference below 90 on 2 of 7 tracks",
        "kind": "rated the anchor at 7 kHz above 90 on 2 of 7 tracks",
    }
    # A track that hardly has treble says nothing about who hears none missing.
    paths = written(*(mushra(f"{n}", kind if n < 2 else good, good) for n in range(5)))
    assert listeners.screened(listeners.opinions(listeners.read_all(paths)[0])) == {}


def test_abx_answers_are_pooled_and_tests_that_were_ended_early_are_not(written):
    paths = written(abx("Ada", 7, 8), [abx("Ben", 5, 8), abx("Ben", 4, 4, planned=16, started="x")])
    tests, _ = listeners.read_all(paths)
    found = {row.listener: row for row in listeners.guesses(tests)}
    assert [(row.right, row.trials) for row in found.values()] == [(7, 8), (5, 8), (12, 16)]
    for row in found.values():
        expected = stats.binomtest(row.right, row.trials, alternative="greater").pvalue
        assert row.p == pytest.approx(expected)


def test_files_that_cannot_be_used_are_lines_and_the_others_count(written, tmp_path):
    wrong = mushra("Ada", {"mine": 101})
    paths = written(
        mushra("Ada", {"mine": 40}), mushra("Ben", {"mine": 50}, report="two"), {"a": 1}, wrong,
        {"format": []},
    )  # fmt: skip
    tests, failures = listeners.read_all([*paths, tmp_path / "none.json"])
    assert len(tests) == 1
    for failure, path, why in zip(
        failures,
        [*paths[1:], tmp_path / "none.json"],
        [
            "another report",
            "holds no MUSHRA or ABX test",
            "less than or equal to 100",
            "holds no MUSHRA or ABX test",
            "none.json",
        ],  # fmt: skip
        strict=True,
    ):
        assert failure.startswith(f"{path}: ") and why in failure


def test_who_gave_no_name_is_called_as_the_file(written):
    tests, _ = listeners.read_all(written(mushra("", {"mine": 40}), abx(" ", 1, 2)))
    assert [test.listener for test in tests] == ["0", "1"]


def test_the_command_prints_tables_and_writes_the_ratings(written, tmp_path):
    from typer.testing import CliRunner

    from earvae.cli.main import app

    good = {"Reference": 100, MID: 40, "mine": 70}
    deaf = {"Reference": 50, MID: 40, "mine": 20}
    paths = written(mushra("\x1bAda", good), mushra("Ben", deaf), abx("Ada", 8, 8), "no test")
    table = tmp_path / "ratings.csv"
    result = CliRunner().invoke(app, ["listeners", *map(str, paths), "--csv", str(table)])
    assert result.exit_code == 1 and "3.json: holds no MUSHRA or ABX test" in result.stderr
    assert "MUSHRA, 1 left out" in result.stdout and "70.0 … 70.0" in result.stdout
    assert "left out: Ben, who rated the hidden reference below 90" in result.stdout
    assert "8 of 8" in result.stdout and "0.0039" in result.stdout
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["screened_out"] for row in rows] == ["0"] * 3 + ["1"] * 3
    everybody = CliRunner().invoke(app, ["listeners", *map(str, paths[:3]), "--keep-all"])
    assert everybody.exit_code == 0 and "45.0" in everybody.stdout
    assert "left out" not in everybody.stdout and "\x1b" not in everybody.stdout
