"""Faults × measures, on music: each measure reacts to the fault it is for, and to no other."""

import importlib.util
import sys
from pathlib import Path

import pytest

from earvae.audio import read_audio

TOOL = Path(__file__).parents[2] / "tools" / "faults.py"
spec = importlib.util.spec_from_file_location("faults", TOOL)
faults = sys.modules["faults"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)


@pytest.fixture(scope="module")
def piece():
    return faults.panned(read_audio(faults.CLIPS[1], faults.RATE)[:, : 4 * faults.RATE])


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_each_measure_reacts_to_its_fault_and_to_no_other(piece, fault):
    figures = faults.figures_of(fault, piece)
    reactions = {key for key in faults.PERFECT if faults.reacts(key, figures[key])}
    assert fault.meant in reactions, figures
    assert reactions <= {fault.meant, *fault.also}, figures


def test_every_measure_has_a_fault_and_music_as_it_is_has_none(piece):
    assert {fault.meant for fault in faults.FAULTS} == faults.PERFECT.keys()
    nothing = faults.Fault("nothing", lambda part: part, "")
    figures = faults.figures_of(nothing, piece)
    assert not any(faults.reacts(key, figures[key]) for key in faults.PERFECT)
    assert figures["sdr"] is None or figures["sdr"] > 80


def test_faults_stay_in_their_band(piece):
    for fault in faults.FAULTS:
        rest = fault.given_to(piece) - piece
        outside = rest - faults.band(rest)
        assert outside.square().mean() < 0.05 * rest.square().mean(), fault.name
