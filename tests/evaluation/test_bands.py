"""Figures by band against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch

from earvae.evaluation.metrics import Signal
from earvae.evaluation.metrics.image import OCTAVES, image_figures
from earvae.evaluation.metrics.treble import treble_figures

RATE = 44_100


def band_metrics(reconstruction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    pair = Signal(reconstruction, RATE), Signal(target, RATE)
    return treble_figures(*pair) | image_figures(*pair)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return 0.2 * torch.randn(2, 2 * RATE, generator=torch.Generator().manual_seed(0))


def test_identical_signals_have_no_error_in_any_band(noise):
    figures = band_metrics(reconstruction=noise, target=noise)
    assert figures.pop("mid_si_sdr") > 100 and figures.pop("side_si_sdr") > 100
    assert max(figures.values()) < 1e-6


def test_treble_cut_by_6_db_reads_6_db_of_distance_and_a_bass_cut_reads_none(noise):
    spectrum = torch.fft.rfft(noise)
    hz = torch.linspace(0, RATE / 2, spectrum.shape[-1])
    for region, expected in ((hz > 7000, 20 * math.log10(2)), (hz < 7000, 0.0)):
        ours = torch.fft.irfft(torch.where(region, spectrum / 2, spectrum), n=noise.shape[-1])
        figures = band_metrics(reconstruction=ours, target=noise)
        assert figures["lsd_high"] == pytest.approx(expected, abs=0.02)
        assert figures["band_lsd_high"] == pytest.approx(expected, abs=0.02)
        assert figures["level_high"] == pytest.approx(-expected, abs=0.02)


def test_another_noise_of_the_same_levels_has_distance_by_bin_and_little_by_band(noise):
    """The dB difference of two exponential variables has a standard deviation of
    10/ln 10 · π/√3 = 7.88 dB; that of means over n of them is near 10/ln 10 · √(2/n)."""
    other = 0.2 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    figures = band_metrics(reconstruction=other, target=noise)
    assert figures["lsd_high"] == pytest.approx(7.88, abs=0.1)
    independent = 23 * 2 / 3  # bins of a band; a Hann window makes neighbours alike
    expected = 10 / math.log(10) * math.sqrt(2 / independent)
    assert figures["band_lsd_high"] == pytest.approx(expected, rel=0.15)
    assert figures["level_high"] == pytest.approx(0, abs=0.05)


def test_without_treble_in_the_target_its_figures_have_no_meaning(noise):
    figures = band_metrics(reconstruction=noise, target=torch.zeros_like(noise))
    for name in ("lsd_high", "band_lsd_high", "level_high"):
        assert math.isnan(figures[name])


def test_gain_of_one_channel_is_the_level_error_of_every_octave(noise):
    ours = noise * torch.tensor([[10 ** (3 / 20)], [1.0]])
    figures = band_metrics(reconstruction=ours, target=noise)
    for octave in OCTAVES:
        assert figures[f"level_error_{octave}"] == pytest.approx(3, abs=1e-3)
        assert figures[f"phase_error_{octave}"] < 1e-3
        assert figures[f"coherence_error_{octave}"] < 1e-3


def test_flip_of_one_channel_is_a_phase_error_of_pi(noise):
    figures = band_metrics(reconstruction=noise * torch.tensor([[1.0], [-1.0]]), target=noise)
    for octave in OCTAVES:
        assert figures[f"phase_error_{octave}"] == pytest.approx(math.pi, abs=1e-3)
        assert figures[f"level_error_{octave}"] < 1e-3


def test_error_in_one_octave_is_found_in_that_octave(noise):
    band = scipy.signal.butter(8, (750, 1380), "bandpass", fs=RATE, output="sos")
    octave = scipy.signal.sosfiltfilt(band, noise[0].double().numpy())
    ours = noise.clone()
    ours[0] += torch.from_numpy(octave.astype(np.float32))
    figures = band_metrics(reconstruction=ours, target=noise)
    errors = {octave: figures[f"level_error_{octave}"] for octave in OCTAVES}
    assert max(errors, key=errors.get) == 1000
    assert errors[1000] > 4 and errors[250] < 0.05 and errors[4000] < 0.05


def test_mono_fold_down_takes_the_side_and_leaves_mid_alone(noise):
    mono = noise.mean(0, keepdim=True).expand_as(noise)
    figures = band_metrics(reconstruction=mono, target=noise)
    assert figures["mid_si_sdr"] > 100
    assert figures["side_si_sdr"] == pytest.approx(-80)
    assert all(figures[f"coherence_error_{octave}"] > 0.1 for octave in OCTAVES)


def test_mono_target_has_no_side_and_a_one_sided_one_no_image(noise):
    mono = noise[:1].expand_as(noise)
    assert math.isnan(band_metrics(reconstruction=noise, target=mono)["side_si_sdr"])
    one_sided = noise * torch.tensor([[0.0], [1.0]])
    figures = band_metrics(reconstruction=noise, target=one_sided)
    assert all(math.isnan(figures[f"phase_error_{octave}"]) for octave in OCTAVES)
