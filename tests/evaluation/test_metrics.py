"""The metrics against the published evaluation's values and what each is known to do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from earvae.evaluation.metrics import (
    ccpc,
    icpc,
    mel_distance,
    si_sdr,
    stft_distance,
    track_metrics,
)

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "metrics_expected.json").read_text())
DEGRADED = [name for name in EXPECTED if name != "identical"]


@pytest.fixture(scope="module")
def pairs() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "metrics_pairs.safetensors")


@pytest.mark.parametrize("name", DEGRADED)
def test_the_published_evaluations_values_come_out(pairs, name):
    figures = track_metrics(reconstruction=pairs[name], target=pairs["reference"])
    expected = dict(EXPECTED[name])
    assert figures["si_sdr"] == pytest.approx(expected.pop("sisdr"), abs=0.01)
    for metric, value in expected.items():
        # the expected values have four decimals, hence the half of the last one
        assert figures[metric] == pytest.approx(value, rel=1e-3, abs=0.5e-4), metric


def test_identical_signals_have_no_distance(pairs):
    figures = track_metrics(reconstruction=pairs["identical"], target=pairs["reference"])
    assert figures["si_sdr"] == pytest.approx(EXPECTED["identical"]["sisdr"], abs=0.01)
    assert figures["mel"] < 1e-6 and figures["stft"] < 1e-6
    assert figures["icpc"] == pytest.approx(1, abs=1e-6)
    assert figures["ccpc"] == pytest.approx(1, abs=1e-6)
