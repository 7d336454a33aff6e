"""Frequency weighting against scipy, pyloudnorm and the tables of the standards."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from pyloudnorm import Meter

from earvae.objective import AWeighting, KWeighting
from earvae.objective.weighting import k_weighting_sections

BANDS = np.geomspace(20, 20_000, 61)


def decibels(gain) -> np.ndarray:
    return 20 * np.log10(np.abs(gain))


def gain_of_module(module: torch.nn.Module, rate: int) -> np.ndarray:
    """Gain at BANDS from two seconds of impulse response, off the block boundaries."""
    impulse = torch.zeros(1, 2, 2 * rate)
    impulse[0, 0, rate] = 1.0
    response = module(impulse)[0, 0].double().numpy()
    return scipy.signal.freqz(response, worN=BANDS, fs=rate)[1]


def demans_gain(rate: int) -> np.ndarray:
    gain = np.ones(len(BANDS), dtype=complex)
    for stage in Meter(rate, filter_class="DeMan")._filters.values():
        gain *= stage.passband_gain * scipy.signal.freqz(stage.b, stage.a, worN=BANDS, fs=rate)[1]
    return gain


def test_k_weighting_coefficients_at_48_khz_are_the_table_of_bs_1770_4():
    shelf, high_pass = k_weighting_sections(48_000)
    b, a = shelf
    assert b == pytest.approx((1.53512485958697, -2.69169618940638, 1.19839281085285), abs=1e-12)
    assert a == pytest.approx((1.0, -1.69065929318241, 0.73248077421585), abs=1e-12)
    b, a = high_pass
    assert b == (1.0, -2.0, 1.0)
    assert a == pytest.approx((1.0, -1.99004745483398, 0.99007225036621), abs=1e-12)


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_k_weighted_audio_is_within_a_twentieth_decibel_of_demans_design(rate):
    measured = decibels(gain_of_module(KWeighting(rate), rate))
    assert np.abs(measured - decibels(demans_gain(rate))).max() < 0.05


@pytest.mark.parametrize("rate", [16_000, 44_100, 96_000])
def test_k_weighting_equals_the_recursive_filter_on_noise(rate):
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal((2, 2, 30_011))).float()
    sections = np.array([[*b, *a] for b, a in k_weighting_sections(rate)])
    expected = scipy.signal.sosfilt(sections, noise.double().numpy(), axis=-1)
    assert np.abs(KWeighting(rate)(noise).numpy() - expected).max() < 2e-5


def test_k_weighting_of_a_20_hz_sine_has_the_gain_of_the_design():
    time = torch.arange(88_200) / 44_100
    sine = torch.sin(2 * torch.pi * 20 * time).expand(1, 2, -1)
    steady = KWeighting(44_100)(sine)[0, 0, 44_100:]
    assert 20 * torch.log10(steady.square().mean().sqrt() * 2**0.5) == pytest.approx(
        -13.27, abs=0.02
    )


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_weighted_audio_is_within_a_twentieth_decibel_of_the_analogue_filter(rate):
    corners = -2 * np.pi * np.array([20.598997] * 2 + [107.65265, 737.86223] + [12194.217] * 2)
    at = 2 * np.pi * np.append(BANDS, 1000.0)
    gain = np.abs(scipy.signal.freqs_zpk(np.zeros(4), corners, 1.0, worN=at)[1])
    expected = decibels(gain[:-1] / gain[-1])
    assert np.abs(decibels(gain_of_module(AWeighting(rate), rate)) - expected).max() < 0.05


def test_a_weighting_has_the_values_of_the_table_in_iec_61672():
    measured = decibels(gain_of_module(AWeighting(48_000), 48_000))
    table = {31.623: -39.4, 100.0: -19.1, 1000.0: 0.0, 10_000.0: -2.5}
    exact = {f: np.interp(np.log(f), np.log(BANDS), measured) for f in table}
    assert exact == pytest.approx(table, abs=0.1)


@pytest.mark.parametrize("filter_class", [KWeighting, AWeighting])
@pytest.mark.parametrize("samples", [1, 100, 12_289, 40_000])
def test_weighting_keeps_the_shape_and_is_linear_in_every_sample(filter_class, samples):
    module = filter_class(44_100).double()
    audio = torch.randn(2, 2, samples, dtype=torch.float64, requires_grad=True)
    out = module(audio)
    assert out.shape == audio.shape
    probe = torch.randn_like(out)
    out.backward(probe)
    # <filter(x), p> = <x, gradient>: the gradient is the transposed filter
    assert (out.detach() * probe).sum() == pytest.approx((audio.detach() * audio.grad).sum().item())


def test_weighting_runs_in_float32_under_bf16_autocast():
    audio = torch.randn(1, 2, 8000)
    with torch.autocast("cpu", torch.bfloat16):
        inside = KWeighting(44_100)(audio)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, KWeighting(44_100)(audio))
