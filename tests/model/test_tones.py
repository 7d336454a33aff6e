"""Stored tones: where they sound, how strong, and that they follow from the place in the file."""

import math

import pytest
import torch

from earvae.config import CompactConfig
from earvae.model.compact import transform
from earvae.model.likelihood import FINE, Expected, FineSurprise
from earvae.model.tones import HIGH_PER_BIN, PER_BIN, PERIOD, stored_tones
from earvae.model.transform import OVERLAP, mid_side
from tests.small import build, compact_config

TRANSFORM = transform(CompactConfig())
HOP, RATE = 1024, 44_100
LOW, HIGH = stored_tones(TRANSFORM, 4000.0, RATE)
BINS = TRANSFORM.long.bins
SHORT = TRANSFORM.sections[1]


def sounding(tones, strength: torch.Tensor) -> torch.Tensor:
    """Mid and Side, ``[2, samples]``, of strengths ``[frames, 2, tones]``."""
    frames = [torch.zeros(1, len(strength), 2, size) for size in TRANSFORM.sections]
    frames[tones is HIGH] = tones(strength[None], 0)
    return mid_side(TRANSFORM.inverse(torch.cat(frames, dim=3).flatten(2))[0], 0)


def one(tones, tone: int, frames: int = 3 * PERIOD) -> torch.Tensor:
    strength = torch.zeros(frames, 2, tones.count)
    strength[:, :, tone] = 1
    return strength


@pytest.mark.parametrize("bin_, part", [(10, 0), (50, 2), (88, 3)])
def test_a_tone_is_steady_and_stands_at_its_frequency(bin_, part):
    """Against a sinusoid, fitted by least squares: what it leaves is 30 dB below, and no frame
    differs from the others. Nor does it where the turns come again."""
    hertz = LOW.frequencies[bin_ * PER_BIN + part].item() * RATE / (2 * HOP)
    assert hertz == pytest.approx((bin_ + (part + 0.5) / PER_BIN) * RATE / (2 * HOP))
    check_sinusoid(sounding(LOW, one(LOW, bin_ * PER_BIN + part)), hertz)


def check_sinusoid(both: torch.Tensor, hertz: float) -> None:
    both = both.double()[:, 2 * HOP : -2 * HOP]
    assert (both[0] * both[1]).mean().abs() < 0.02 * both[0].square().mean()  # a quarter apart
    audio = both[0]
    angle = 2 * math.pi * hertz / RATE * torch.arange(len(audio), dtype=torch.float64)
    waves = torch.stack([angle.cos(), angle.sin()], dim=1)
    left = audio - waves @ torch.linalg.lstsq(waves, audio).solution
    assert left.square().mean() < 1e-3 * audio.square().mean()
    loudness = audio[: len(audio) // HOP * HOP].view(-1, HOP).square().sum(dim=1)
    torch.testing.assert_close(loudness, torch.ones_like(loudness), atol=0.04, rtol=0)


@pytest.mark.parametrize("tone", [0, 1, 5, 100, HIGH.count - 1])
def test_a_high_tone_in_short_blocks_is_as_steady(tone):
    hertz = HIGH.frequencies[tone].item() * RATE / (2 * HOP)
    assert hertz == pytest.approx((BINS + (tone + 0.5) / HIGH_PER_BIN) * RATE / (2 * HOP))
    assert 2000 < hertz < 4010
    check_sinusoid(sounding(HIGH, one(HIGH, tone)), hertz)


@pytest.mark.parametrize("tones", [LOW, HIGH])
def test_tones_follow_from_the_place_in_the_file(tones):
    strength = torch.rand(40, 2, tones.count, generator=torch.Generator().manual_seed(0))
    whole = tones(strength[None], 5)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(tones(strength[None, 9:21], 14), whole[:, 9:21], **close)
    both = tones(strength.expand(2, -1, -1, -1), torch.tensor([5, 5 + 3 * PERIOD]))
    torch.testing.assert_close(both, whole.expand(2, -1, -1, -1), **close)
    assert (tones(strength[None], 6) - whole).abs().max() > 0.1


@pytest.mark.parametrize("tones", [LOW, HIGH])
def test_powers_are_those_of_coefficients_on_average(tones):
    """Of one tone at a time, where no phases meet; nearly all of it in the tone's own bin and its
    neighbours."""
    for tone in (0, 6, 90, 203 % tones.count, tones.count - 1 - PER_BIN):
        coefficients = tones(one(tones, tone, PERIOD)[None], 0)
        powers = tones.power(one(tones, tone, 1)[0, 0])
        torch.testing.assert_close(
            coefficients.square().mean(dim=(0, 1, 2)), powers, atol=1e-6, rtol=1e-3
        )
        by_bin = powers.view(tones.blocks, -1).sum(dim=0)
        own = int(tones.owner[tone])
        assert by_bin[max(0, own - 1) : own + 2].sum() > 0.9
        assert powers.sum().item() == pytest.approx(1, abs=1e-3 if tones is HIGH else 0.06)


# --------------------------------------------------------------------------- shares of power


def test_a_short_bin_shares_its_power_with_the_tones_within_it():
    """Whatever the blocks' textures and the tones' pitch. Owners are told by their frequencies."""
    torch.manual_seed(0)
    noise = torch.randn(3, 5, 2, TRANSFORM.blocks, TRANSFORM.short.bins)
    pitch = 3 * torch.randn(3, 5, 2, HIGH.count)
    left, tones = HIGH.shares(noise.flatten(-2), pitch)
    left = left.unflatten(-1, (TRANSFORM.blocks, -1))
    owner = HIGH.frequencies.div(TRANSFORM.blocks).long() - (256 - TRANSFORM.short.bins)
    before, after, own = ((2 * part).exp() for part in (noise, left, tones))
    after, total = after.sum(dim=-2), before.sum(dim=-2)
    torch.testing.assert_close(after.index_add(-1, owner, own), total)
    share = after / total
    for bin_ in (owner[0], owner[-1], owner[90]):  # six, four and eight tones
        weights = pitch[..., owner == bin_].exp().sum(dim=-1)
        torch.testing.assert_close(share[..., bin_], 1 / (1 + weights))
    assert torch.equal(left[..., : owner[0]], noise[..., : owner[0]])
    assert torch.equal(left[..., owner[-1] + 1 :], noise[..., owner[-1] + 1 :])
    one_share = (left - noise).diff(dim=-2).abs().max()
    assert one_share < 1e-5  # the same in all blocks: attacks stay as they are


@torch.no_grad()
@pytest.mark.parametrize("tones_hz", [4000.0, 0.0])
def test_all_tones_of_a_bin_begin_with_the_same_share(tones_hz):
    """Whether the bin is long or short and has many or few."""
    decoder = build(CompactConfig(width=8, tones_hz=tones_hz)).decoder
    decoder.pitch.weight.zero_()
    high = decoder.high_tones
    assert (decoder.pitch_high is None) == (not high.count) == (tones_hz == 0)
    weights = [decoder.pitch.bias.view(2, BINS, PER_BIN).exp().sum(dim=2)]
    if high.count:
        own = decoder.pitch_high.bias.view(2, -1).exp()
        weights.append(torch.zeros(2, high.owners).index_add(1, high.owner - high.lowest, own))
    torch.testing.assert_close(
        torch.cat(weights, dim=1), torch.full((2, BINS + high.owners), 4 * math.exp(-3))
    )


def test_no_high_tones_where_there_is_no_room_and_none_beyond_the_last_bin():
    for tones_hz, split_hz, count in (
        (3000.0, 4000.0, 0), (4000.0, 4000.0, 0), (1e6, 22_000.0, 0), (1e6, 4000.0, 2 * (64 - 12)),
        (1e6, 0.0, 2 * 63), (1000.0, 0.0, 2 * 2),
    ):  # fmt: skip
        vae = build(compact_config(tones_hz=tones_hz, split_hz=split_hz))
        assert vae.decoder.high_tones.count == count
        assert ("decoder.pitch_high.weight" in vae.state_dict()) == (count > 0)
        assert vae.decode(torch.randn(1, 8, 10)).isfinite().all()


# --------------------------------------------------------------------------- the fine spectrum


FINE_SURPRISE = FineSurprise(TRANSFORM, (LOW, HIGH), RATE)
SILENT = -1e4
NONE_HIGH = torch.full((HIGH.count,), SILENT)


def expected(
    noise: float, tones: torch.Tensor, high: torch.Tensor = NONE_HIGH, frames: int = 400
) -> Expected:
    """Noise of one strength in all blocks; levels of -20 and -26 dB."""
    half = TRANSFORM.features // 2
    texture = torch.full((half,), noise)
    level = torch.tensor([0.1, 0.05]).log().repeat_interleave(half)
    return Expected(
        torch.zeros(1, frames, 2 * half),
        texture.repeat(2).expand(1, frames, -1),
        tones.flatten(-2).expand(1, frames, 2, LOW.count),
        high.expand(1, frames, 2, HIGH.count),
        level.expand(1, frames, -1),
    )


def drawn(guess: Expected) -> torch.Tensor:
    """Left and Right as a decoder would draw them, with noise that does not come again."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(guess.texture.shape, generator=generator) * guess.texture.exp()
    tones = LOW(guess.pitch.exp(), 0), HIGH(guess.high_pitch.exp(), 0)
    ears = mid_side(noise + torch.cat(tones, dim=3).flatten(2), -1) * guess.level.exp()
    return TRANSFORM.inverse(mid_side(ears, -1))


@pytest.mark.parametrize("noise, part", [(0.0, None), (SILENT, 2), (-2.0, 1)])
def test_what_a_fine_spectrum_is_expected_to_be_is_what_is_drawn_on_average(noise, part):
    tones, high = torch.full((BINS, PER_BIN), SILENT), NONE_HIGH.clone()
    if part is not None:
        tones[10::8, part] = 0.0
        high[part::14] = 0.0
    guess = expected(noise, tones, high, 1600)
    if part is None:  # texture and level fall from block to block, which would modulate a tone
        slope = torch.linspace(0.3, -0.3, TRANSFORM.blocks).repeat_interleave(SHORT // 4)
        slope = torch.cat([torch.zeros(BINS), slope]).repeat(2)
        guess = guess._replace(texture=guess.texture + slope, level=guess.level + slope)
    found = FINE_SURPRISE._spectra(drawn(guess))[0].mean(dim=0)
    power = FINE_SURPRISE.powers(guess)[0].mean(dim=0)
    strong = power > 1e-2 * power.amax()
    torch.testing.assert_close(found[strong], power[strong], rtol=0.3, atol=0)
    low = FINE_SURPRISE.fine < FINE // 2 * BINS
    assert FINE_SURPRISE.fine.amax() * RATE / (FINE * HOP) > 3990
    for part in (low, ~low):
        whole = power[..., part].sum().item()
        assert found[..., part].sum().item() == pytest.approx(whole, rel=0.03)


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


def test_music_of_3_khz_is_less_of_a_surprise_as_a_tone_than_as_noise_of_its_power():
    """And noise of a short bin less as that than as tones."""
    silent, high = torch.full((BINS, PER_BIN), SILENT), NONE_HIGH.clone()
    tone = int((HIGH.frequencies - 3000 * 2 * HOP / RATE).abs().argmin())
    owner, half = int(HIGH.owner[tone]), TRANSFORM.features // 2
    high[tone] = 1.0
    own = BINS + owner + TRANSFORM.short.bins * torch.arange(TRANSFORM.blocks)
    tonal, noisy = expected(-4.0, silent, high), expected(-4.0, silent)
    beside = noisy.texture.clone()
    beside[..., torch.cat([own, half + own])] = 1.0 - math.log(TRANSFORM.blocks) / 2
    noisy = noisy._replace(texture=beside)
    time = torch.arange(tonal.texture.shape[1] * HOP) / RATE
    wave = (2 * math.pi * HIGH.frequencies[tone] * RATE / (2 * HOP) * time).sin()
    hiss = drawn(expected(-4.0, silent))
    loud = drawn(tonal).square().mean().sqrt() * 2**0.5
    for music, right, wrong in ((hiss + loud * wave, tonal, noisy), (drawn(noisy), noisy, tonal)):
        own, other = (FINE_SURPRISE(guess, music, music) for guess in (right, wrong))
        assert own < other - 0.01


def test_what_the_surprise_takes_for_variances_is_what_is_drawn_on_average():
    """In every coefficient, of noise and tones together, before their level."""
    decoder = build(CompactConfig(width=8)).decoder
    generator = torch.Generator().manual_seed(0)
    texture = -1 + torch.rand(TRANSFORM.features, generator=generator)
    pitch, high = torch.full((2, BINS, PER_BIN), SILENT), torch.full((2, HIGH.count), SILENT)
    pitch[:, 5::9, 1], high[:, 4::20] = 0.5, 0.5
    guess = expected(0.0, pitch, high, 64 * PERIOD)
    guess = guess._replace(texture=texture.expand_as(guess.texture))
    whole = guess._replace(level=torch.zeros_like(guess.level))
    found = TRANSFORM.forward(drawn(whole))[0, 2:-2].square().mean(dim=0)
    middle, side = (part[0, 0] for part in decoder.surprise.variances(guess))
    expect = torch.cat([middle, side]).view(2, -1)
    # Around the split long and short blocks hold a part of each other's.
    short = torch.arange(SHORT)
    short = short[short % TRANSFORM.short.bins > OVERLAP + 2]
    apart = torch.cat([torch.arange(BINS - 4 * OVERLAP - 8), BINS + short])
    found, expect = found.view(2, -1)[:, apart], expect[:, apart]
    torch.testing.assert_close(found, expect, rtol=0.25, atol=0)
    assert found.sum().item() == pytest.approx(expect.sum().item(), rel=0.01)


def test_less_than_a_window_says_nothing():
    guess = expected(0.0, torch.zeros(BINS, PER_BIN), frames=FINE - 1)
    audio = torch.zeros(1, 2, (FINE - 1) * HOP)
    assert FINE_SURPRISE(guess, audio, audio) == 0
