"""THD+N of signals whose distortion is known."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch

from earvae.evaluation.systems import System
from earvae.evaluation.systems.checks import Check
from earvae.evaluation.thdn import (
    FREQUENCIES,
    HARMONICS,
    NOTCH_Q,
    analyse,
    measure_thdn,
    percent,
    plot,
    write_csv,
)

RATE = 44_100


def sine(hertz: float, db: float = 0.0, channels: int = 2) -> np.ndarray:
    signal = 10 ** (db / 20) * np.sin(2 * math.pi * hertz * np.arange(RATE) / RATE + 0.3)
    return np.tile(signal, (channels, 1))


def notch_db(ratio: float) -> float:
    """The analogue notch's magnitude at ``ratio`` times its frequency."""
    s = 1j * ratio
    return 20 * math.log10(abs((s**2 + 1) / (s**2 + s / NOTCH_Q + 1)))


class Cubic(System):
    """x + k x³, which gives a sine of amplitude a the third harmonic k a³/4."""

    name, description = "cubic", "a cubic curve"

    def __init__(self, k: float) -> None:
        self.k = k

    @property
    def settings(self) -> dict:
        return {"k": self.k}

    def round_trip(self, audio: torch.Tensor) -> torch.Tensor:
        return audio + self.k * audio**3


@pytest.mark.parametrize("hertz", [20, 997, 5000])
def test_third_harmonic_at_minus_40_db_reads_as_1_percent(hertz):
    reading = analyse(sine(hertz, -6) + sine(3 * hertz, -46), -6, hertz)
    assert reading.thd_db == pytest.approx(-40, abs=1e-6)
    assert percent(reading.thd_db) == pytest.approx(1, abs=1e-6)
    assert reading.harmonics_db[3] == pytest.approx(-40, abs=1e-6)
    assert reading.output_dbfs == pytest.approx(-6, abs=1e-6)
    over_all = -40 - 10 * math.log10(1 + 1e-4)
    assert reading.residual_db == pytest.approx(over_all, abs=1e-6)
    assert reading.thdn_db == pytest.approx(over_all + notch_db(3), abs=1e-6)
    assert percent(reading.thdn_db) == pytest.approx(1, rel=0.02)  # the notch takes 0.15 dB of it


@pytest.mark.parametrize("hertz", [20, 997, 8000, 16_000])
def test_pure_tone_reads_below_minus_120_db(hertz):
    reading = analyse(sine(hertz, -1), -1, hertz)
    assert reading.residual_db < -200
    assert reading.thdn_db < -200


def test_white_noise_reads_as_its_share_of_the_band():
    noise = 10 ** (-60 / 20) * np.random.default_rng(0).standard_normal((2, RATE))
    reading = analyse(sine(997) + noise, 0, 997)
    in_band = -60 + 10 * math.log10(19_980 / 22_050)
    signal = 10 * math.log10(0.5)
    assert reading.residual_db == pytest.approx(in_band - signal, abs=0.15)
    notched = 19_980 - math.pi / 2 * 997 / NOTCH_Q  # hertz of noise that the notch leaves
    expected = -60 + 10 * math.log10(notched / 22_050) - signal
    assert reading.thdn_db == pytest.approx(expected, abs=0.15)


def test_noise_beside_the_tone_is_seen_by_the_fit_and_not_by_the_notch():
    """Slow modulation: sidebands at 8 kHz ± 5 Hz of -46 dB each."""
    signal = sine(8000) * (1 + 0.01 * np.sin(2 * math.pi * 5 * np.arange(RATE) / RATE))
    reading = analyse(signal, 0, 8000)
    assert reading.residual_db == pytest.approx(20 * math.log10(0.01 / math.sqrt(2)), abs=0.01)
    assert reading.thdn_db < reading.residual_db - 40


def test_what_lies_outside_the_band_does_not_count():
    assert analyse(sine(997) + sine(21_000, -20) + 0.1, 0, 997).residual_db < -200


def test_silence_has_no_ratios():
    reading = analyse(np.zeros((2, RATE)), -1, 997)
    assert reading.thdn_db is reading.thd_db is reading.output_dbfs is None
    assert percent(reading.thdn_db) is None


def test_lost_tone_that_leaves_noise_reads_0_db():
    noise = np.random.default_rng(0).standard_normal((2, RATE))
    assert analyse(noise, -1, 100).thdn_db == pytest.approx(0, abs=0.1)


def test_distortion_of_a_curve_is_found_through_a_codec_at_every_level():
    """For a = level, harmonic over fundamental is (k a²/4) / (1 + 3 k a²/4)."""
    k = 0.04
    readings = measure_thdn(Cubic(k), levels=(-6.0, -20.0), frequencies=(100, 997, 5000))
    assert [(r.level_dbfs, r.frequency_hz) for r in readings[:2]] == [(-6.0, 100), (-6.0, 997)]
    assert len(readings) == 6
    for reading in readings:
        square = 10 ** (reading.level_dbfs / 10)
        expected = 20 * math.log10((k * square / 4) / (1 + 0.75 * k * square))
        assert reading.thd_db == pytest.approx(expected, abs=0.01)


def test_identity_in_single_precision_is_better_than_minus_120_db():
    readings = measure_thdn(Check("identity"), levels=(-1.0,), frequencies=(20, 997, 16_000))
    assert all(reading.residual_db < -120 for reading in readings)
    assert readings[2].thd_db is None and readings[2].harmonics_db == {}


def test_csv_and_plot(tmp_path):
    readings = {"cubic": measure_thdn(Cubic(0.1), levels=(-6.0,), frequencies=(997, 16_000))}
    write_csv(readings, tmp_path / "new" / "thdn.csv")
    with (tmp_path / "new" / "thdn.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["frequency_hz"] for row in rows] == ["997", "16000"]
    assert float(rows[0]["thd_percent"]) == pytest.approx(percent(readings["cubic"][0].thd_db))
    assert rows[1]["h2_db"] == "" and f"h{HARMONICS[-1]}_db" in rows[0]
    plot("cubic", readings["cubic"], tmp_path / "cubic.png")
    assert (tmp_path / "cubic.png").read_bytes().startswith(b"\x89PNG")


def test_steps_that_cannot_be_measured_are_refused():
    with pytest.raises(ValueError, match="whole hertz"):
        measure_thdn(Check("identity"), frequencies=(19,))
    with pytest.raises(ValueError, match="from -120 to 0"):
        measure_thdn(Check("identity"), levels=(3.0,))
    assert min(FREQUENCIES) == 20 and 997 in FREQUENCIES
