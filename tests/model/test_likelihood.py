"""The likelihood of music under an expected mean and noise, against torch's own normal law."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from earvae.config import CompactConfig
from earvae.model.compact import transform
from earvae.model.envelope import EarBands
from earvae.model.likelihood import MASKING, QUIET_POWER, SEEN, SURPRISING, Expected, Surprise
from earvae.model.tones import stored_tones
from earvae.model.transform import mid_side
from tests.small import build, compact_config

SMALL = compact_config(width=16)
TRANSFORM = transform(SMALL)
FEATURES = TRANSFORM.features
LOW, HIGH = stored_tones(TRANSFORM, SMALL.tones_hz, SMALL.sample_rate)
NO_TONES = torch.full((1, 1, 2, LOW.count), -1e4)
NO_HIGH = torch.full((1, 1, 2, HIGH.count), -1e4)


@pytest.fixture
def surprise() -> Surprise:
    return of_frames(SMALL)


def of_frames(config: CompactConfig) -> Surprise:
    own = transform(config)
    bands = EarBands(own, config.sample_rate)
    frequencies = own.frequencies(config.sample_rate)[: own.features // 2]
    tones = stored_tones(own, config.tones_hz, config.sample_rate)
    return Surprise(bands, frequencies, tones)


def expected(mean=0.0, texture=0.0, level=0.0, frames=3) -> Expected:
    """The same in all coefficients; ``texture`` and ``level`` may be pairs for both halves."""

    def full(value):
        pair = value if isinstance(value, tuple) else (value, value)
        halves = [torch.full((2, frames, FEATURES // 2), float(v)) for v in pair]
        return torch.cat(halves, dim=-1).requires_grad_()

    tones = NO_TONES.expand(2, frames, -1, -1).clone().requires_grad_()
    high = NO_HIGH.expand(2, frames, -1, -1).clone().requires_grad_()
    return Expected(full(mean), full(texture), tones, high, full(level))


@pytest.mark.parametrize("texture, level", [
    ((0.5, -1.0), (-2.0, -3.0)), ((-1.0, -2.5), (0.0, -1.5)), ((-3.0, -3.0), (0.0, 0.0)),
])  # fmt: skip
def test_it_is_the_mean_negative_log_density_of_a_bivariate_normal(surprise, texture, level):
    """Music with what it masks, averaged over the masked noise: the density's logarithm at the
    music, plus half the trace of the masked noise against the covariance."""
    torch.manual_seed(0)
    frames = 0.01 * torch.randn(2, 3, FEATURES)
    guess = expected(0.003, texture, level)
    ears = mid_side(frames - guess.mean, -1)
    masked = MASKING * surprise.bands.spread(surprise.bands.power(frames)) + QUIET_POWER
    turn = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double() * math.sqrt(0.5)
    scale = torch.diag(torch.tensor(level).double().exp())
    noise = scale @ turn @ torch.diag((2 * torch.tensor(texture).double()).exp()) @ turn.T @ scale
    own = torch.diag_embed(torch.stack(masked.double().chunk(2, -1), -1))  # [2, 3, hop, 2, 2]
    covariance = noise + own
    points = torch.stack(ears.double().chunk(2, -1), -1)
    law = MultivariateNormal(torch.zeros(2).double(), covariance)
    trace = torch.linalg.solve(covariance, own).diagonal(dim1=-2, dim2=-1).sum(-1)
    each = -law.log_prob(points) - math.log(2 * math.pi) + trace / 2
    ratio = each - covariance.logdet() / 2
    assert ratio.max() < SURPRISING  # where nothing is made milder
    each = SEEN * covariance.logdet() / 2 + ratio
    torch.testing.assert_close(
        surprise(guess, frames).double(), (each * surprise.share).sum(-1).mean(),
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip


def test_the_least_surprising_noise_has_the_power_of_what_the_mean_leaves(surprise):
    """Gaussian music, quieter by 40 dB in one ear and partly alike in both: the texture and level
    that are found give back the covariance of both ears."""
    torch.manual_seed(1)
    middle, side = (
        0.3 * torch.randn(1, 400, FEATURES // 2),
        0.1 * torch.randn(1, 400, FEATURES // 2),
    )
    ears = mid_side(torch.cat([middle, side], -1), -1)
    ears = ears * torch.tensor([1.0, 0.01]).repeat_interleave(FEATURES // 2)
    frames = mid_side(ears, -1)
    texture = torch.zeros(2, requires_grad=True)
    level = torch.tensor([-1.0, -3.0], requires_grad=True)
    optimiser = torch.optim.Adam([texture, level], lr=0.1)
    for _ in range(120):
        optimiser.zero_grad()
        of_noise, of_ears = (v.repeat_interleave(FEATURES // 2) for v in (texture, level))
        guess = [part.expand(1, 400, -1) for part in (of_noise, of_ears)]
        guess = Expected(torch.zeros_like(frames), guess[0], NO_TONES, NO_HIGH, guess[1])
        surprise(guess, frames).backward()
        optimiser.step()
    noise = of_noise.detach().exp() * torch.randn(1, 4000, FEATURES)
    drawn = mid_side(noise, -1) * of_ears.detach().exp()
    for signal in (drawn, ears):
        left, right = signal.chunk(2, -1)
        assert left.std() == pytest.approx(math.sqrt(0.05), rel=0.05)
        assert right.std() == pytest.approx(0.01 * math.sqrt(0.05), rel=0.05)
        alike = (left * right).mean() / (left.std() * right.std())
        assert alike.item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("spread_db, most_db", [(0.0, 0.3), (5.0, 2.1), (7.0, 3.5)])
def test_noise_of_unknown_level_is_drawn_near_the_level_in_the_middle(surprise, spread_db, most_db):
    """Levels spread normally in decibels: the mean power is 2.9 dB above the middle of 5 dB, 5.6 dB
    above that of 7 dB. All bands of a frame have the same level."""
    torch.manual_seed(3)
    loudness = 10 ** (spread_db / 20 * torch.randn(1, 6000, 1))
    frames = 0.1 * loudness * torch.randn(1, 6000, FEATURES)
    none, tones = torch.zeros_like(frames), NO_TONES.expand(1, 6000, -1, -1)
    high = NO_HIGH.expand(1, 6000, -1, -1)
    candidates = torch.arange(-24.0, -14.0, 0.2)

    def surprise_at(level_db: float) -> float:
        level = none + level_db * math.log(10) / 20
        return surprise(Expected(none, none, tones, high, level), frames).item()

    best = min(candidates.tolist(), key=surprise_at)
    assert abs(best + 20) < most_db  # 0.1 in each coefficient of either ear


def test_a_mean_within_what_is_masked_brings_no_more_than_that():
    """From an error of -23 dB to none at all there is less to gain than from all the power to half
    of it. In frames of the usual size: bands of a few coefficients would have other powers."""
    torch.manual_seed(2)
    surprise, own = of_frames(CompactConfig()), transform(CompactConfig())
    frames = 0.1 * torch.randn(1, 6, own.features)
    no_tones = torch.full((1, 1, 2, surprise.tones.count), -1e4)
    no_high = torch.full((1, 1, 2, surprise.high_tones.count), -1e4)

    def best(error: float) -> float:
        mean, none = (1 - error) * frames, torch.zeros_like(frames)
        return min(
            surprise(Expected(mean, none + log, no_tones, no_high, none), frames).item()
            for log in torch.linspace(-12, 0, 60).tolist()
        )

    half_masked = math.sqrt(MASKING / 2)
    assert best(half_masked) - best(0.0) < 0.5 < best(1.0) - best(0.7)
    assert best(1.0) - best(0.0) == pytest.approx(-math.log(MASKING), abs=0.3)


def test_silence_loudness_and_extreme_levels_are_finite_with_their_gradients(surprise):
    for frames in (torch.zeros(2, 3, FEATURES), torch.full((2, 3, FEATURES), 30.0)):
        for texture in (-8.0, 8.0):
            for level in ((-12.0, 12.0), (12.0, 12.0), (-12.0, -12.0)):
                guess = expected(0.0, texture, level)
                value = surprise(guess, frames)
                value.backward()
                assert value.isfinite()
                assert all(part.grad.isfinite().all() for part in guess)


def test_critical_bands_count_alike_whatever_bins_they_have(surprise):
    """The shares of one ear's coefficients sum to 1, and an octave of the treble has no more of
    them than one of the middle has."""
    assert surprise.share.sum().item() == pytest.approx(1)
    share = of_frames(CompactConfig()).share
    frequency = transform(CompactConfig()).frequencies(44_100)[: len(share)]
    octave = {low: share[(frequency > low) & (frequency < 2 * low)].sum().item()
              for low in (1000, 8000)}  # fmt: skip
    assert octave[8000] == pytest.approx(octave[1000], rel=0.25)


def test_the_model_gives_it_beside_the_same_audio():
    vae = build(SMALL)
    audio = 0.1 * torch.randn(2, 2, 640)
    noise = torch.randn(2, 8, 10)
    drawn, posterior, nll = vae(audio, noise, 3, True)
    plain, same = vae(audio, noise, 3)
    assert torch.equal(drawn, plain) and torch.equal(posterior.mean, same.mean)
    with torch.no_grad():
        decoder = vae.decoder
        expect = decoder.expect(decoder.tell(posterior.at(noise)))
        left_over = audio - decoder.transform.inverse(expect.mean)
        frames = decoder.surprise(expect, decoder.transform(audio))
        fine = decoder.fine_surprise(expect, left_over, audio)
    assert frames != 0 and fine != 0
    torch.testing.assert_close(nll, frames + fine)
