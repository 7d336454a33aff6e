"""The transform against scipy and torch, its transpose, and Mid/Side by linearity."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch

from earvae.objective.spectrum import STFT, mid_side, planes


@pytest.mark.parametrize("length", [128, 1024])
def test_stft_equals_scipys(length):
    audio = np.random.default_rng(0).standard_normal(length * 5)
    window = scipy.signal.get_window("hann", length, fftbins=True)
    _, _, expected = scipy.signal.stft(
        audio, window=window, nperseg=length, noverlap=length * 3 // 4, boundary=None,
        padded=False, scaling="spectrum",
    )  # fmt: skip
    expected = expected.T * window.sum() / np.sqrt((window**2).sum())
    measured = STFT(length)(torch.from_numpy(audio)).numpy()
    assert measured.shape == expected.shape
    assert np.abs(measured - expected).max() < 1e-6


def test_white_noise_has_its_own_power_in_every_bin_at_every_resolution():
    noise = 0.1 * torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    for length in (128, 4096):
        power = STFT(length)(noise)[..., 1:-1].abs().square().mean()
        assert power == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 1000])
def test_every_sample_of_any_length_lies_in_a_frame(samples):
    audio = torch.zeros(samples)
    audio[-1] = 1.0
    transform = STFT(64)
    frames = transform(audio).shape[-2]
    assert (frames - 1) * transform.hop + 64 >= samples
    assert (frames - 1) * transform.hop < max(samples, 1)


@pytest.mark.parametrize("samples", [40, 300, 512])
def test_adjoint_is_the_transpose_of_the_transform(samples):
    transform = STFT(64)
    audio = torch.randn(3, samples, dtype=torch.float64, requires_grad=True)
    spectrum = transform(audio)
    probe = torch.randn_like(spectrum)
    torch.view_as_real(spectrum).backward(torch.view_as_real(probe))
    assert torch.allclose(transform.adjoint(probe.clone(), samples), audio.grad, atol=1e-12)


def test_mid_and_side_spectra_are_those_of_the_mid_and_side_signals():
    audio = torch.randn(2, 2, 4096, dtype=torch.float64)
    left, right = audio.unbind(1)
    channels = torch.stack((left + right, left - right), dim=1) / 2**0.5
    window = torch.hann_window(512, dtype=torch.float64)
    window /= window.square().sum().sqrt()
    expected = torch.stft(
        channels.flatten(0, 1), 512, 128, window=window, center=False, return_complex=True
    ).mT.unflatten(0, (2, 2))
    left_right = planes(torch.view_as_real(STFT(512)(audio)), 1e-5)
    both = mid_side(left_right, 1e-5)
    measured = torch.complex(both.real, both.imag)
    assert (measured - expected).abs().max() < 1e-6
