import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st

from earvae.model.transform import MDCT, TwoResolutions, mid_side


def textbook_mdct(audio: np.ndarray, block: int, index: int) -> np.ndarray:
    """Block ``index`` of the windowed-cosine definition, for blocks away from the ends."""
    n, k = np.arange(2 * block) + 0.5, np.arange(block) + 0.5
    window = np.sin(np.pi * n / (2 * block))
    basis = np.sqrt(2 / block) * np.cos(np.pi / block * np.outer(n - block / 2, k))
    start = index * block - block // 2
    return (audio[start : start + 2 * block] * window) @ basis


def test_inner_blocks_equal_the_windowed_cosine_definition():
    audio = np.random.default_rng(0).standard_normal(64 * 5)
    ours = MDCT(64)(torch.from_numpy(audio).float())
    for index in (1, 2, 3):
        expected = textbook_mdct(audio, 64, index)
        np.testing.assert_allclose(ours[index].numpy(), expected, atol=2e-6)


def test_a_single_block_is_a_plain_dct_iv():
    audio = np.random.default_rng(1).standard_normal(32)
    expected = scipy.fft.dct(audio, type=4, norm="ortho")
    ours = MDCT(32)(torch.from_numpy(audio).float())[0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)


@given(blocks=st.integers(1, 9), half=st.integers(1, 40))
def test_inverse_returns_the_samples_and_energy_is_kept(blocks, half):
    mdct = MDCT(2 * half)
    audio = torch.randn(2, blocks * 2 * half, generator=torch.Generator().manual_seed(blocks))
    coefficients = mdct(audio)
    assert coefficients.shape == (2, blocks, 2 * half)
    torch.testing.assert_close(mdct.inverse(coefficients), audio, atol=1e-5, rtol=0)
    torch.testing.assert_close(coefficients.square().sum(), audio.square().sum())


def test_mono_has_no_side_and_mid_side_is_its_own_inverse():
    mono = torch.randn(1, 1, 50).expand(1, 2, 50)
    assert mid_side(mono)[:, 1].abs().max() == 0
    stereo = torch.randn(1, 2, 50)
    torch.testing.assert_close(mid_side(mid_side(stereo)), stereo)


# --------------------------------------------------------------------------- two resolutions

RATE, HOP = 44_100, 1024
BOTH = TwoResolutions(HOP, 256, 2000.0, RATE)


def test_kept_bins_are_those_of_the_whole_transform_and_the_others_zero():
    audio = torch.randn(2, 64 * 5, generator=torch.Generator().manual_seed(1))
    whole, some = MDCT(64), MDCT(64, slice(3, 20))
    coefficients = whole(audio)
    torch.testing.assert_close(some(audio), coefficients[..., 3:20])
    coefficients[..., :3], coefficients[..., 20:] = 0, 0
    torch.testing.assert_close(some.inverse(some(audio)), whole.inverse(coefficients))


@pytest.mark.parametrize("hop, short, split", [(1024, 256, 2000), (64, 16, 4000), (64, 64, 9000)])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_two_resolutions_lose_only_what_leaks_over_the_split(hop, short, split, frames):
    transform = TwoResolutions(hop, short, split, RATE)
    generator = torch.Generator().manual_seed(frames)
    audio = torch.randn(3, 2, frames * hop, generator=generator)
    coefficients = transform(audio)
    assert coefficients.shape == (3, frames, transform.features)
    lost = (transform.inverse(coefficients) - audio).square().mean().item()
    assert lost < 10 ** (-50 / 10)
    energy = audio.square().sum().item()
    assert coefficients.square().sum().item() == pytest.approx(energy, rel=1e-3)


@pytest.mark.parametrize("hertz", [150, 1000, 1990, 2010, 2100, 8000])
def test_no_sine_is_lost_at_the_split(hertz):
    sine = torch.sin(2 * torch.pi * hertz * torch.arange(20 * HOP) / RATE)
    audio = torch.stack([sine, 0.1 * sine])[None]
    lost = (BOTH.inverse(BOTH(audio)) - audio)[..., 2 * HOP : -2 * HOP]
    assert lost.square().mean() < 10 ** (-38 / 10) * audio.square().mean()


def test_frequencies_are_those_of_the_coefficients():
    for hertz in (500.0, 5000.0):
        sine = torch.sin(2 * torch.pi * hertz * torch.arange(8 * HOP) / RATE)
        energy = BOTH(torch.stack([sine, sine])[None])[0, 2:6].square().sum(dim=0)
        near = (BOTH.frequencies(RATE) - hertz).abs() < (60 if hertz < 2000 else 250)
        assert energy[near].sum() > 0.99 * energy.sum()
        assert energy.chunk(2)[1].sum() < 1e-6 * energy.sum()  # nothing in Side


def test_a_click_of_treble_stays_in_its_short_block_and_its_neighbours():
    """What a long block would spread over 46 ms."""
    audio = torch.zeros(1, 2, 9 * HOP)
    audio[..., 4 * HOP + 400 :: 9 * HOP] = 1.0  # in the second short block of frame 4
    high = BOTH(audio)[0].unflatten(1, (2, -1))[:, 0, BOTH.long.bins :]
    energy = high.unflatten(1, (4, -1)).square().sum(dim=2).flatten()
    assert energy[4 * 4 : 4 * 4 + 3].sum() > 0.98 * energy.sum()
