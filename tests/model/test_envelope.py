import pytest
import torch

from earvae.model.envelope import Bands, band_weights

BINS, RATE, BLOCKS = 512, 44_100, 4
BANDS = Bands(BINS, BLOCKS, RATE)


@pytest.mark.parametrize("bins,rate", [(512, 44_100), (1024, 48_000), (64, 44_100), (8, 8000)])
def test_weights_interpolate(bins, rate):
    weights = band_weights(bins, rate)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(bins))
    assert (weights >= 0).all()
    assert ((weights > 0).sum(dim=0) <= 2).all()
    assert (weights.sum(dim=1) > 0).all(), "a band without bins has no power to measure"


def test_a_level_of_all_bins_is_read_in_every_band_and_block():
    gains = torch.tensor([1.0, 0.1, 10.0, 0.5])
    signs = torch.randn(3, BLOCKS * BINS).sign()
    powers = BANDS.power(signs * gains.repeat_interleave(BINS))
    expected = gains.square().repeat_interleave(BANDS.levels // BLOCKS)
    torch.testing.assert_close(powers, expected.expand(3, -1))
    torch.testing.assert_close(
        BANDS.spread(powers.sqrt()), gains.repeat_interleave(BINS).expand(3, -1)
    )


def test_a_treble_that_is_cut_off_stays_cut_off():
    """Beside the two bands around a 40 dB edge at 16 kHz, every bin is within 1 dB of its level."""
    frequency = (torch.arange(BINS) + 0.5) * RATE / 2 / BINS
    block = torch.where(frequency < 16_000, 1.0, 1e-2)
    gain = BANDS.spread(BANDS.power(block.repeat(BLOCKS)).log() / 2).exp()[:BINS]
    far = (frequency - 16_000).abs() > 1200
    assert (20 * (gain / block).log10())[far].abs().max() < 1
