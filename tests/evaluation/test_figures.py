"""The one table of what is measured."""

from __future__ import annotations

import pytest
import torch

from earvae.evaluation import figures
from earvae.evaluation.figures import BY_KEY, FIGURES, HIGHER, ZERO, Figure, measure
from earvae.evaluation.metrics import Signal


def noise(seed: int) -> Signal:
    generator = torch.Generator().manual_seed(seed)
    return Signal(0.1 * torch.randn(2, 44_100, generator=generator))


def crest_difference(reconstruction: Signal, target: Signal) -> float:
    """A metric as somebody may add it: one number."""
    ours, theirs = (x.audio.abs().max() / x.audio.square().mean().sqrt() for x in
                    (reconstruction, target))  # fmt: skip
    return float(20 * torch.log10(ours / theirs))


def test_every_key_has_one_figure_and_every_figure_a_meaning():
    assert len(BY_KEY) == sum(len(figure.keys) for figure in FIGURES)
    assert all(figure.meaning and figure.label for figure in FIGURES)


def test_a_line_in_the_table_is_all_that_a_new_figure_takes(monkeypatch):
    crest = Figure("crest", "Crest factor", "dB", ZERO, 2, "Peak over RMS", crest_difference)
    monkeypatch.setattr(figures, "FIGURES", (*FIGURES, crest))
    monkeypatch.setattr(figures, "BY_KEY", {**BY_KEY, "crest": crest})
    assert measure(noise(0), noise(0))["crest"] == 0
    doubled = noise(0).audio.clone()
    doubled[0, 100] = 2 * noise(0).audio.abs().max()
    assert measure(Signal(doubled), noise(0))["crest"] == pytest.approx(6, abs=0.1)


def test_each_metric_runs_once_and_a_target_is_analysed_once(monkeypatch):
    calls = []

    def loudness_like(audio: torch.Tensor, sample_rate: int) -> float:
        calls.append(sample_rate)
        return float(audio.abs().max())

    def difference(reconstruction: Signal, target: Signal) -> dict[str, float]:
        a, b = (x.once(loudness_like) for x in (reconstruction, target))
        return {"one": a - b, "two": a + b}

    rows = tuple(Figure(key, key, "", ZERO, 2, "x", difference) for key in ("one", "two"))
    monkeypatch.setattr(figures, "FIGURES", rows)
    monkeypatch.setattr(figures, "BY_KEY", {figure.key: figure for figure in rows})
    target = noise(0)
    for seed in (1, 2):
        assert measure(noise(seed), target).keys() == {"one", "two"}
    assert len(calls) == 3


def test_directions_rank_values_and_words_say_so():
    assert BY_KEY["si_sdr"].best is HIGHER and BY_KEY["si_sdr"].best.arrow == "↑"
    assert BY_KEY["si_sdr"].merit(3) > BY_KEY["si_sdr"].merit(2)
    assert BY_KEY["mel"].merit(0.2) > BY_KEY["mel"].merit(0.3)
    assert BY_KEY["lufs_difference"].merit(-0.1) > BY_KEY["lufs_difference"].merit(0.2)
    assert BY_KEY["mel"].shown_merit(0.1001) == BY_KEY["mel"].shown_merit(0.1002)
