"""Silence and bandwidth, of crops."""

import numpy as np
import pytest
import soundfile
import soxr

from earvae.config import FilterConfig
from earvae.training.filters import reaches, refused
from tests.small import RATE

SAMPLES = 65_536


def shaped(gain, seed: int = 0) -> np.ndarray:
    """Noise whose amplitude spectrum is ``gain(frequency)``, ``[2, SAMPLES]``, rms 0.1."""
    white = np.random.default_rng(seed).standard_normal((2, SAMPLES))
    frequency = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    audio = np.fft.irfft(np.fft.rfft(white) * gain(np.maximum(frequency, 20.0)), n=SAMPLES)
    return (0.1 * audio / audio.std()).astype(np.float32)


def pink(frequency):
    return frequency**-0.5


def sixteen_bits(audio: np.ndarray, seed: int = 1) -> np.ndarray:
    """Rounded to 16 bits with triangular dither."""
    random = np.random.default_rng(seed)
    dither = random.random(audio.shape) - random.random(audio.shape)
    return (np.rint(audio * 2**15 + dither) / 2**15).astype(np.float32)


def decaying_tones() -> np.ndarray:
    """Chords with a rich but low spectrum, struck twice a second, ``[2, SAMPLES]``."""
    time = np.arange(SAMPLES) / RATE
    partials = [np.sin(2 * np.pi * 220 * k * time) / k**2 for k in range(1, 20)]
    return (0.3 * np.sum(partials, axis=0) * np.exp(-8 * (time % 0.5)))[None].repeat(2, 0)


@pytest.mark.parametrize("cut", [8_000, 11_000, 13_500])
@pytest.mark.parametrize("slope", [lambda f: 1.0 + 0 * f, pink], ids=["white", "pink"])
@pytest.mark.parametrize("level", [1.0, 0.01], ids=["loud", "quiet"])
@pytest.mark.parametrize("finish", [np.float32, sixteen_bits], ids=["float", "16-bit"])
def test_noise_that_is_cut_off_below_the_bandwidth_is_refused(cut, slope, level, finish):
    audio = finish(level * shaped(lambda f: slope(f) * (f < cut)))
    assert refused(audio, FilterConfig(bandwidth_hz=14_000), RATE) == "bandwidth"
    assert refused(audio, FilterConfig(), RATE) is None


@pytest.mark.parametrize(
    "audio",
    [
        shaped(lambda f: 1.0 + 0 * f),
        shaped(pink),
        0.01 * shaped(pink),
        shaped(lambda f: f < 16_000),  # as MP3 at 128 kb/s
        decaying_tones() + 0.01 * shaped(pink),  # quiet treble: noise at -60 dB of full scale
        sixteen_bits(decaying_tones() + 0.01 * shaped(pink)),
    ],
    ids=["white", "pink", "quiet pink", "cut at 16 kHz", "quiet treble", "quiet treble, 16 bit"],
)
def test_noise_up_to_the_bandwidth_is_kept(audio):
    assert refused(audio, FilterConfig(bandwidth_hz=14_000), RATE) is None


def test_a_cut_at_16_khz_is_found_from_17_khz():
    audio = shaped(lambda f: f < 16_000)
    assert reaches(audio, 15_000, RATE) and not reaches(audio, 17_000, RATE)


def test_neither_a_pilot_tone_nor_moments_of_clipping_are_bandwidth():
    dull = 5 * shaped(lambda f: f < 11_000)
    time = np.arange(SAMPLES) / RATE
    assert not reaches(dull + 0.001 * np.sin(2 * np.pi * 14_500 * time), 14_000, RATE)
    clipped = dull.clip(-2, 2)
    assert 3 < np.count_nonzero(clipped != dull) < 12  # of 127 frames, each touching two
    assert not reaches(clipped, 14_000, RATE)


def test_a_crop_that_is_silent_but_for_a_moment_is_judged_by_that_moment():
    audio = np.zeros((2, SAMPLES), np.float32)
    audio[:, 20_000:24_000] = shaped(pink)[:, :4000]
    assert reaches(audio, 14_000, RATE)
    audio = np.zeros((2, SAMPLES), np.float32)
    audio[:, -1] = 0.5  # in no whole frame
    assert not reaches(audio, 14_000, RATE)


def test_music_that_was_once_at_22_khz_is_told_from_the_original(clips_44k):
    for audio in clips_44k:
        resampled = soxr.resample(soxr.resample(audio.T, RATE, RATE / 2), RATE / 2, RATE).T
        for start in range(0, audio.shape[1] - SAMPLES, 2 * SAMPLES):
            crop = slice(start, start + SAMPLES)
            assert reaches(audio[:, crop], 14_000, RATE)
            assert not reaches(sixteen_bits(resampled[:, crop]), 14_000, RATE)


@pytest.fixture(scope="module")
def clips_44k(request):
    clips = sorted((request.config.rootpath / "tests" / "clips").glob("*.flac"))
    assert clips
    return [soundfile.read(path, dtype="float32")[0].T for path in clips]
