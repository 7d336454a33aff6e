"""Loudness against ffmpeg's ebur128 and the test signals of EBU Tech 3341 and 3342."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from earvae.evaluation.metrics.loudness import Loudness, loudness
from earvae.true_peak import true_peak_db

CLIPS = sorted((Path(__file__).parents[1] / "clips").glob("*.flac"))
RATE = 44_100
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def ebur128(path: Path) -> Loudness:
    """What ffmpeg's meter says, to three decimals."""
    graph = "ebur128=peak=true:metadata=1,ametadata=mode=print:file=-"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-af", graph, "-f", "null"]
    text = subprocess.run([*command, "-"], capture_output=True, text=True, check=True).stdout

    def last(key: str) -> float:
        return float(re.findall(rf"r128\.{key}=(\S+)", text)[-1])

    peaks = [last(f"true_peaks_ch{channel}") for channel in (0, 1)]
    return Loudness(last("I"), last("LRA"), 20 * math.log10(max(peaks)))


def tones(*steps: tuple[float, float], hertz: float = 1000.0) -> torch.Tensor:
    """Stereo steps of (dBFS, seconds), the phase going on."""
    levels = np.concatenate([np.full(round(s * RATE), 10 ** (db / 20)) for db, s in steps])
    signal = levels * np.sin(2 * math.pi * hertz * np.arange(len(levels)) / RATE)
    return torch.from_numpy(np.stack([signal, signal]).astype(np.float32))


@needs_ffmpeg
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_clips_read_as_ffmpeg_reads_them(path):
    audio, rate = soundfile.read(path, dtype="float32")
    ours, theirs = loudness(torch.from_numpy(audio.T.copy()), rate), ebur128(path)
    assert ours.lufs == pytest.approx(theirs.lufs, abs=0.1)
    assert ours.lra == pytest.approx(theirs.lra, abs=0.1)
    assert ours.true_peak_db == pytest.approx(theirs.true_peak_db, abs=0.1)


TECH_3341 = {
    "1": (-23.0, [(-23, 20)]),
    "2": (-33.0, [(-33, 20)]),
    "3": (-23.0, [(-36, 10), (-23, 60), (-36, 10)]),
    "4": (-23.0, [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)]),
    "5": (-23.0, [(-26, 20), (-20, 20.1), (-26, 20)]),
}


@pytest.mark.parametrize("case", TECH_3341)
def test_integrated_loudness_of_tech_3341(case):
    expected, steps = TECH_3341[case]
    assert loudness(tones(*steps), RATE).lufs == pytest.approx(expected, abs=0.1)


TECH_3342 = {
    "1": (10, [(-20, 20), (-30, 20)]),
    "2": (5, [(-20, 20), (-15, 20)]),
    "3": (20, [(-40, 20), (-20, 20)]),
    "4": (15, [(-50, 20), (-35, 20), (-20, 20), (-35, 20), (-50, 20)]),
}


@pytest.mark.parametrize("case", TECH_3342)
def test_loudness_range_of_tech_3342(case):
    expected, steps = TECH_3342[case]
    assert loudness(tones(*steps), RATE).lra == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    "divisor,degrees,amplitude,expected",
    [(4, 0, 0.5, -6), (4, 45, 0.5, -6), (6, 60, 0.5, -6), (8, 67.5, 0.5, -6), (4, 45, 1.41, 3)],
)
def test_true_peak_of_tech_3341(divisor, degrees, amplitude, expected):
    """Cases 15 to 19, whose samples miss the peaks; the tolerance is the standard's."""
    phase = 2 * math.pi / divisor * np.arange(RATE) + math.radians(degrees)
    ramp = np.clip(np.minimum(np.arange(RATE), np.arange(RATE)[::-1]) / 2000, 0, 1)
    signal = torch.from_numpy((amplitude * ramp * np.sin(phase)).astype(np.float32))
    assert expected - 0.4 <= true_peak_db(signal.expand(2, -1).numpy()) <= expected + 0.2


@needs_ffmpeg
def test_generated_tones_read_as_ffmpeg_reads_them(tmp_path):
    ramp = torch.linspace(0, 1, 1000)
    for name, steps in {"a": [(-23, 4)], "b": [(-30, 6), (-12, 6)]}.items():
        audio = tones(*steps, hertz=441 * 7.3)
        audio[:, :1000] *= ramp
        audio[:, -1000:] *= ramp.flip(0)
        soundfile.write(tmp_path / f"{name}.wav", audio.numpy().T, RATE, subtype="FLOAT")
        ours, theirs = loudness(audio, RATE), ebur128(tmp_path / f"{name}.wav")
        assert ours.lufs == pytest.approx(theirs.lufs, abs=0.1)
        assert ours.true_peak_db == pytest.approx(theirs.true_peak_db, abs=0.1)


def test_gain_shifts_loudness_and_peak_by_exactly_that_and_the_range_by_nothing():
    audio, _ = soundfile.read(CLIPS[0], dtype="float32", frames=6 * RATE)
    audio = torch.from_numpy(audio.T.copy())
    plain, quiet = loudness(audio, RATE), loudness(audio * 10 ** (-6 / 20), RATE)
    assert quiet.lufs - plain.lufs == pytest.approx(-6, abs=1e-3)
    assert quiet.true_peak_db - plain.true_peak_db == pytest.approx(-6, abs=1e-3)
    assert quiet.lra == pytest.approx(plain.lra, abs=1e-3)


def test_silence_reads_nothing():
    assert loudness(torch.zeros(2, 5 * RATE), RATE) == Loudness(None, None, None)


def test_what_is_too_quiet_for_the_gate_has_a_peak_only():
    reading = loudness(tones((-90, 5)), RATE)
    assert (reading.lufs, reading.lra) == (None, None)
    assert reading.true_peak_db == pytest.approx(-90, abs=0.1)


def test_clips_too_short_for_a_block_read_nothing():
    assert loudness(tones((-20, 0.39)), RATE).lufs is None
    second = loudness(tones((-20, 1)), RATE)
    assert second.lufs == pytest.approx(-20, abs=0.1) and second.lra is None


def test_one_sided_and_mono_signals_are_three_decibels_below_both_sides():
    both = tones((-20, 2))
    assert loudness(both[:1], RATE).lufs == pytest.approx(-23.01, abs=0.1)
    one_sided = both * torch.tensor([[0.0], [1.0]])
    assert loudness(one_sided, RATE).lufs == pytest.approx(-23.01, abs=0.1)
