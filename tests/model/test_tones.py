"""Stored tones: where they sound, how strong, and that they follow from the place in the file."""

import math

import pytest
import torch

from earvae.config import CompactConfig
from earvae.model.compact import transform
from earvae.model.likelihood import FINE, Expected, FineSurprise
from earvae.model.tones import PER_BIN, PERIOD, StoredTones, tone_frequencies
from earvae.model.transform import mid_side

TRANSFORM = transform(CompactConfig())
TONES = StoredTones(TRANSFORM)
BINS, HOP, RATE = TONES.bins, 1024, 44_100


def sounding(strength: torch.Tensor) -> torch.Tensor:
    """Mid of ``strength [frames, 2, bins, PER_BIN]``, ``[samples]``; and Side's."""
    low = TONES(strength[None], 0).flatten(2)
    return mid_side(TRANSFORM.inverse(TRANSFORM.frames_of_long(low))[0], 0)


def one(bin_: int, part: int, frames: int = 3 * PERIOD) -> torch.Tensor:
    strength = torch.zeros(frames, 2, BINS, PER_BIN)
    strength[:, :, bin_, part] = 1
    return strength


@pytest.mark.parametrize("bin_, part", [(10, 0), (50, 2), (88, 3)])
def test_a_tone_is_steady_and_stands_at_its_frequency(bin_, part):
    """Against a sinusoid, fitted by least squares: what it leaves is 30 dB below, and no frame
    differs from the others. Nor does it where the table comes again."""
    both = sounding(one(bin_, part)).double()[:, 2 * HOP : -2 * HOP]
    assert (both[0] * both[1]).mean().abs() < 0.02 * both[0].square().mean()  # a quarter apart
    audio = both[0]
    hertz = tone_frequencies(BINS)[bin_ * PER_BIN + part].item() * RATE / (2 * HOP)
    assert hertz == pytest.approx((bin_ + (part + 0.5) / PER_BIN) * RATE / (2 * HOP))
    angle = 2 * math.pi * hertz / RATE * torch.arange(len(audio), dtype=torch.float64)
    waves = torch.stack([angle.cos(), angle.sin()], dim=1)
    left = audio - waves @ torch.linalg.lstsq(waves, audio).solution
    assert left.square().mean() < 1e-3 * audio.square().mean()
    loudness = audio[: len(audio) // HOP * HOP].view(-1, HOP).square().sum(dim=1)
    torch.testing.assert_close(loudness, torch.ones_like(loudness), atol=0.04, rtol=0)


def random_strength(frames: int) -> torch.Tensor:
    return torch.rand(frames, 2, BINS, PER_BIN, generator=torch.Generator().manual_seed(frames))


def test_tones_follow_from_the_place_in_the_file():
    strength = random_strength(40)
    whole = TONES(strength[None], 5)
    assert torch.equal(TONES(strength[None, 9:21], 14), whole[:, 9:21])
    both = TONES(strength.expand(2, -1, -1, -1, -1), torch.tensor([5, 5 + 3 * PERIOD]))
    assert torch.equal(both, whole.expand(2, -1, -1, -1))
    assert (TONES(strength[None], 6) - whole).abs().max() > 0.1


def test_powers_are_those_of_coefficients_on_average():
    """Of one tone at a time, where no phases meet."""
    for bin_, part in ((0, 0), (1, 2), (50, 3), (BINS - 1, 1)):
        coefficients = TONES(one(bin_, part, PERIOD)[None], 0)
        powers = TONES.power(one(bin_, part, 1)[0, 0])
        torch.testing.assert_close(coefficients.square().mean(dim=(0, 1, 2)), powers)
        dense = one(bin_, part, 1)[0, 0].flatten() @ TONES.dense_power()
        torch.testing.assert_close(dense, powers)
        around = powers[max(0, bin_ - 3) : bin_ + 4]
        assert around.sum() > 0.6 and around.count_nonzero() == powers.count_nonzero()


def test_the_dense_table_gives_the_same():
    strength = random_strength(PERIOD)
    dense = (strength.flatten(2).unsqueeze(2) @ TONES.dense()).squeeze(2)
    torch.testing.assert_close(dense, TONES(strength[None], 0)[0], atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------- the fine spectrum


FINE_SURPRISE = FineSurprise(TRANSFORM, RATE)
SILENT = -1e4


def expected(noise: float, tones: torch.Tensor, frames: int = 400) -> Expected:
    """Noise of one strength in the long blocks, none above; levels of -20 and -26 dB."""
    half = TRANSFORM.features // 2
    texture = torch.full((half,), SILENT)
    texture[:BINS] = noise
    level = torch.tensor([0.1, 0.05]).log().repeat_interleave(half)
    return Expected(
        torch.zeros(1, frames, 2 * half),
        texture.repeat(2).expand(1, frames, -1),
        tones.expand(1, frames, 2, BINS, PER_BIN),
        level.expand(1, frames, -1),
    )


def drawn(guess: Expected) -> torch.Tensor:
    """Left and Right as a decoder would draw them, with long noise that does not come again."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(guess.texture.shape, generator=generator) * guess.texture.exp()
    tones = TRANSFORM.frames_of_long(TONES(guess.pitch.exp(), 0).flatten(2))
    ears = mid_side(noise + tones, -1) * guess.level.exp()
    return TRANSFORM.inverse(mid_side(ears, -1))


@pytest.mark.parametrize("noise, part", [(0.0, None), (SILENT, 2), (-2.0, 1)])
def test_what_a_fine_spectrum_is_expected_to_be_is_what_is_drawn_on_average(noise, part):
    tones = torch.full((BINS, PER_BIN), SILENT)
    if part is not None:
        tones[10::8, part] = 0.0
    guess = expected(noise, tones, 1600)
    found = FINE_SURPRISE._spectra(drawn(guess))[0].mean(dim=0)
    power = FINE_SURPRISE.powers(guess)[0].mean(dim=0)
    strong = power > 1e-2 * power.amax()
    torch.testing.assert_close(found[strong], power[strong], rtol=0.3, atol=0)
    assert found.sum().item() == pytest.approx(power.sum().item(), rel=0.03)


def test_the_surprise_tells_a_tone_from_noise_of_its_power():
    """The same coefficients' variances on average, other fine spectra: the right one of both
    guesses is the less surprised by either sound, and the right tone less than its neighbour."""
    tones = torch.full((BINS, PER_BIN), SILENT)
    tones[40, 2] = 1.0
    noise = expected(-4.0, torch.full((BINS, PER_BIN), SILENT))
    beside = noise.texture.clone()
    beside[..., [40, TRANSFORM.features // 2 + 40]] = 1.0
    tonal, noisy = expected(-4.0, tones), noise._replace(texture=beside)
    neighbour = expected(-4.0, tones.roll(1, dims=1))
    for right, wrong in ((tonal, noisy), (noisy, tonal), (tonal, neighbour)):
        sound = drawn(right)
        own, other = (FINE_SURPRISE(guess, sound, sound) for guess in (right, wrong))
        assert own < other - 0.01


def test_less_than_a_window_says_nothing():
    guess = expected(0.0, torch.zeros(BINS, PER_BIN), frames=FINE - 1)
    audio = torch.zeros(1, 2, (FINE - 1) * HOP)
    assert FINE_SURPRISE(guess, audio, audio) == 0
