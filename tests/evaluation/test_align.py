"""The lag of a reconstruction: found, removed, and never invented."""

from __future__ import annotations

import pytest
import torch

from earvae.evaluation.align import AlignmentError, align, find_lag
from tests.small import clip


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    return clip("van_mission2", 3 * 44_100)


def noise(like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def late(audio: torch.Tensor, lag: int) -> torch.Tensor:
    """The audio, ``lag`` samples later (earlier if negative), zeros where nothing is known."""
    moved = torch.zeros_like(audio)
    if lag >= 0:
        moved[:, lag:] = audio[:, : audio.shape[1] - lag]
    else:
        moved[:, :lag] = audio[:, -lag:]
    return moved


@pytest.mark.parametrize("lag", [0, 1, 10, -10, 1105, -2112, 20_000])
def test_lag_is_found_whatever_the_polarity_and_under_noise(music, lag):
    moved = late(music, lag)
    assert find_lag(moved, music) == lag
    assert find_lag(-moved, music) == lag
    assert find_lag(moved * torch.tensor([[-1.0], [1.0]]), music) == lag
    assert find_lag(0.3 * moved, music) == lag
    assert find_lag(moved + moved.std() * noise(moved), music) == lag


def test_delay_of_ten_samples_is_removed(music):
    fitted = align(late(music, 10), music)
    assert fitted.lag == 10
    assert (fitted.first, fitted.last) == (0, music.shape[1] - 10)
    assert torch.equal(fitted.audio[:, :-10], music[:, :-10])
    assert not fitted.audio[:, -10:].any()


def test_samples_that_come_early_are_missed_at_the_beginning(music):
    fitted = align(late(music, -10), music)
    assert fitted.lag == -10 and (fitted.first, fitted.last) == (10, music.shape[1])
    assert torch.equal(fitted.audio[:, 10:], music[:, 10:])


def test_what_fits_is_not_copied(music):
    assert align(music, music).audio.data_ptr() == music.data_ptr()


def test_lead_and_surplus_are_cut_off(music):
    inner = music[:, 30_000:90_000]
    fitted = align(music[:, 29_000:100_000], inner, lead=1000)
    assert fitted.lag == 0 and torch.equal(fitted.audio, inner)
    fitted = align(music[:, 29_500:100_000], inner, lead=1000)
    assert fitted.lag == -500 and torch.equal(fitted.audio, inner)


def test_a_lost_last_frame_is_left_out_of_the_comparison(music):
    fitted = align(music[:, :-272], music)
    assert (fitted.lag, fitted.first, fitted.last) == (0, 0, music.shape[1] - 272)
    assert fitted.audio.shape == music.shape


def test_silence_and_unrelated_signals_have_no_lag(music):
    silence = torch.zeros_like(music)
    assert find_lag(silence, silence) == 0
    assert find_lag(music, silence) == 0
    assert find_lag(silence, music) == 0
    for seed in range(3):
        assert find_lag(noise(music, seed), music) == 0


def test_silent_channel_beside_music_does_not_matter(music):
    one_sided = music * torch.tensor([[1.0], [0.0]])
    assert find_lag(late(one_sided, 77), one_sided) == 77


def test_steady_tone_has_no_lag_of_whole_periods():
    time = torch.arange(3 * 44_100) / 44_100
    tone = torch.sin(2 * torch.pi * 441 * time).repeat(2, 1)
    assert find_lag(tone, tone) == 0


def test_a_short_reconstruction_is_refused(music):
    with pytest.raises(AlignmentError, match="make it again from the whole track"):
        align(music[:, : music.shape[1] // 2], music)
    with pytest.raises(AlignmentError, match="channels"):
        align(music[:1], music)
