import math

import pytest
import torch

from earvae.model.envelope import POWER_FLOOR, EnvelopeCode, band_weights, fit_envelope_code

BINS, RATE, BLOCKS = 512, 44_100, 4


@pytest.fixture
def code() -> EnvelopeCode:
    return EnvelopeCode(BINS, BLOCKS, RATE, channels=8)


@pytest.mark.parametrize("bins,rate", [(512, 44_100), (1024, 48_000), (64, 44_100), (8, 8000)])
def test_weights_interpolate(bins, rate):
    weights = band_weights(bins, rate)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(bins))
    assert (weights >= 0).all()
    assert ((weights > 0).sum(dim=0) <= 2).all()
    assert (weights.sum(dim=1) > 0).all(), "a band without bins has no power to measure"


def test_a_level_of_all_bins_is_read_in_every_band_and_block(code):
    gains = torch.tensor([1.0, 0.1, 10.0, 0.5])
    signs = torch.randn(3, BLOCKS * BINS).sign()
    levels = code.measure(signs * gains.repeat_interleave(BINS))
    expected = (gains.square() + POWER_FLOOR).log().repeat_interleave(code.levels // BLOCKS)
    torch.testing.assert_close(levels, expected.expand(3, -1))
    torch.testing.assert_close(
        code.spread(levels / 2).exp(), gains.repeat_interleave(BINS).expand(3, -1)
    )


def test_silence_reads_as_the_floor(code):
    levels = code.measure(torch.zeros(1, BLOCKS * BINS))
    torch.testing.assert_close(levels, torch.full_like(levels, math.log(POWER_FLOOR)))


def test_a_treble_that_is_cut_off_stays_cut_off(code):
    """Beside the two bands around a 40 dB edge at 16 kHz, every bin is within 1 dB of its level."""
    frequency = (torch.arange(BINS) + 0.5) * RATE / 2 / BINS
    block = torch.where(frequency < 16_000, 1.0, 1e-2)
    gain = code.spread(code.measure(block.repeat(BLOCKS)) / 2).exp()[:BINS]
    far = (frequency - 16_000).abs() > 1200
    assert (20 * (gain / block).log10())[far].abs().max() < 1


def test_the_code_is_the_best_linear_one(code):
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(2000, 8, generator=generator)
    levels = 3 + sources @ torch.randn(8, code.levels, generator=generator)
    fit_envelope_code(code, levels)
    latents = code.encode(levels)
    torch.testing.assert_close(code.decode(latents), levels, atol=1e-3, rtol=0)  # rank 8 is kept
    covariance = latents.T @ latents / len(latents)
    torch.testing.assert_close(covariance, torch.eye(8), atol=1e-3, rtol=0)


def test_nothing_to_fit_on_is_refused(code):
    with pytest.raises(ValueError, match="no audible frame"):
        fit_envelope_code(code, torch.zeros(0, code.levels))
