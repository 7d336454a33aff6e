"""Perceptual judges: what they are given, with stand-ins for the packages and with themselves."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from earvae.evaluation.figures import JUDGES, measure, of_group
from earvae.evaluation.metrics import Signal, judges

RATE = 44_100


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(2, round(seconds * RATE), generator=generator)


@pytest.fixture
def heard(monkeypatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a stand-in for Zimtohrli was given; it says 2, 3, 4 …"""
    given = []

    def opinion(target, reconstruction):
        given.append((target, reconstruction))
        return 1.0 + len(given)

    monkeypatch.setitem(sys.modules, "zimtohrli", SimpleNamespace(mos_from_signals=opinion))
    return given


def test_each_ear_is_judged_at_48_khz_and_the_mean_counts(heard):
    assert judges.zimtohrli_figure(Signal(noise(2, 1)), Signal(noise(2))) == 2.5
    assert [len(x) for pair in heard for x in pair] == [2 * 48_000] * 4
    assert heard[0][0].std() == pytest.approx(0.1, rel=0.1)
    assert not np.array_equal(heard[0][0], heard[0][1])


def test_what_is_alike_in_both_ears_is_judged_once(heard):
    ours, theirs = (noise(2, seed)[:1].repeat(2, 1) for seed in (1, 0))
    assert judges.zimtohrli_figure(Signal(ours), Signal(theirs)) == 2
    assert len(heard) == 1


def test_long_music_is_judged_in_pieces_and_silent_ones_are_not(heard):
    target = noise(90)
    target[:, 29 * RATE : 61 * RATE] = 0
    judges.zimtohrli_figure(Signal(target), Signal(target))
    assert [len(x) for x, _ in heard] == [30 * 48_000] * 4


def test_silence_in_the_place_of_music_is_the_worst_and_no_music_has_no_opinion(heard):
    silence = torch.zeros(2, 2 * RATE)
    assert judges.zimtohrli_figure(Signal(silence), Signal(noise(2))) == 1
    assert math.isnan(judges.zimtohrli_figure(Signal(noise(2)), Signal(silence)))
    assert math.isnan(judges.zimtohrli_figure(Signal(noise(0.9)), Signal(noise(0.9))))
    assert heard == []


@pytest.mark.parametrize("missing", judges.PACKAGES)
def test_a_judge_that_is_not_installed_is_one_line_that_names_the_extra(monkeypatch, missing):
    for module in judges.PACKAGES:
        monkeypatch.setitem(sys.modules, module, None if module == missing else SimpleNamespace())
    package = judges.PACKAGES[missing]
    with pytest.raises(judges.NoJudges, match=rf"package {package}: pip install 'earvae\[judges\]"):
        judges.versions()


def test_judges_are_asked_only_where_they_are_wanted():
    assert not measure(Signal(noise(1)), Signal(noise(1))).keys() & {"zimtohrli", "visqol"}


def test_the_judges_themselves_prefer_the_original_to_a_worse_one():
    pytest.importorskip("zimtohrli")
    pytest.importorskip("visqol")
    target = noise(3)
    wanted = of_group(JUDGES)
    best = measure(Signal(target), Signal(target), wanted)
    worse = measure(Signal(target + 0.5 * noise(3, 1)), Signal(target), wanted)
    assert best["zimtohrli"] == pytest.approx(5, abs=0.01)
    assert best["visqol"] == pytest.approx(4.73, abs=0.01)
    assert all(1 < worse[key] < best[key] - 0.1 for key in best)
    assert "zimtohrli" in judges.versions()
