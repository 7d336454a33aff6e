"""Random changes of crops: each is what its name says, as often as asked for."""

import numpy as np
import pytest
import torch

from earvae.config import AugmentationConfig
from earvae.training.augment import (
    AUGMENTATIONS,
    CEILING,
    FADED,
    MIX_DB,
    OCTAVES,
    at_speeds,
    compress,
    draw_changes,
    equalise,
    limit,
    make_changes,
    mix,
    samples_to_read,
    saturate,
)
from tests.small import RATE
from tests.small import white as noise
from tests.training.music import dataset, items, within_four_deviations


def changed(audio, **options) -> tuple[np.ndarray, np.ndarray]:
    """``[2, samples]`` with random changes, and which were made."""
    changes = draw_changes(AugmentationConfig(**options), np.random.default_rng(0))
    batch = torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None]
    return make_changes(batch, [changes], RATE)[0].numpy(), changes.applied()


def test_augmentation_is_off_by_default():
    audio = noise(0.1).T
    out, applied = changed(audio)
    assert np.array_equal(out, audio) and not applied.any()


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"gain_db": (-6.0206, -6.0206)}, "gain", lambda a: a / 2),
        ({"swap_channels": 1.0}, "swap_channels", lambda a: a[::-1]),
        ({"flip_polarity": 1.0}, "flip_polarity", lambda a: -a),
        ({"mono": 1.0}, "mono", lambda a: np.stack([(a[0] + a[1]) / 2] * 2)),
        ({"width_db": (-6.0206, -6.0206)}, "width", lambda a: 0.75 * a + 0.25 * a[::-1]),
    ],
)
def test_each_augmentation_does_what_its_name_says_and_is_reported(options, name, expected):
    audio = noise(0.1).T
    out, applied = changed(audio, **options)
    np.testing.assert_allclose(out, expected(audio), rtol=1e-4, atol=1e-8)
    assert applied.tolist() == [other == name for other in AUGMENTATIONS]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"bass_db": (3, 3)}, "bass"),
        ({"treble_db": (3, 3)}, "treble"),
        ({"equaliser_db": 3.0}, "equaliser"),
        ({"limit": 1.0}, "limit"),
        ({"compress": 1.0}, "compress"),
        ({"saturate": 1.0}, "saturate"),
    ],
)
def test_what_shapes_the_sound_is_reported(options, name):
    audio = noise(0.1).T
    out, applied = changed(audio, **options)
    assert not np.allclose(out, audio)
    assert applied.tolist() == [other == name for other in AUGMENTATIONS]


def test_the_shelves_lift_their_end_of_the_spectrum_and_leave_the_other():
    """Whole gain at 0 Hz and half of the extra amplitude at the corner; so the treble, whose far
    end lies beyond half the rate."""
    time = torch.arange(RATE, dtype=torch.float64) / RATE
    corner_db = 20 * np.log10((1 + 10 ** (9 / 20)) / 2)
    for shelf, places in (
        ("bass", {0: 9, 150: corner_db, 5000: 0}),
        ("treble", {150: 0, 6000: corner_db}),
    ):
        for frequency, gain_db in places.items():
            cosine = torch.cos(2 * torch.pi * frequency * time).expand(1, 2, -1)
            out = equalise(
                cosine, torch.zeros(1, len(OCTAVES)), RATE, **{shelf: 10 ** (9 / 20) - 1}
            )
            expected = 10 ** (gain_db / 20) * cosine  # no phase shift either
            torch.testing.assert_close(out, expected, atol=2e-3, rtol=0)


def test_the_equaliser_has_its_gains_at_octaves_and_the_mean_of_two_between_them():
    time = np.arange(RATE) / RATE
    gains = torch.zeros(1, len(OCTAVES))
    gains[0, 5:7] = torch.tensor([6.0, -4.0])  # at 1 and 2 kHz
    for frequency, expected_db in ((500, 0), (1000, 6), (2000, -4), (2000 * 2**0.5, -2), (8000, 0)):
        cosine = torch.from_numpy(np.cos(2 * np.pi * round(frequency) * time)).float()
        out = equalise(cosine.expand(1, 2, -1), gains, RATE)
        np.testing.assert_allclose(out[0, 1], 10 ** (expected_db / 20) * cosine, atol=2e-3)


def test_changes_of_a_batch_are_those_of_each_item():
    audio = torch.from_numpy(np.stack([noise(0.1, seed=n).T for n in range(8)]))
    config = AugmentationConfig(
        gain_db=(-12, 6),
        swap_channels=0.5,
        flip_polarity=0.5,
        mono=0.3,
        bass_db=(-3, 9),
        treble_db=(-3, 6),
        limit=0.4,
        equaliser_db=3,
        width_db=(-6, 3),
        compress=0.5,
        saturate=0.5,
    )
    random = np.random.default_rng(0)
    changes = [draw_changes(config, random) for _ in audio]
    each = [make_changes(a[None], [c], RATE)[0] for a, c in zip(audio, changes, strict=True)]
    torch.testing.assert_close(make_changes(audio, changes, RATE), torch.stack(each))


def test_augmentations_are_drawn_within_their_range_as_often_as_asked(folder):
    plain = items(dataset(folder), range(0, 200))["audio"]
    config = {"gain_db": (-9.0, -3.0), "flip_polarity": 0.3}
    changed = items(dataset(folder, augmentation=config), range(0, 200))
    factors = (changed["audio"] * plain).sum((1, 2)) / plain.square().sum((1, 2))
    torch.testing.assert_close(changed["audio"], factors[:, None, None] * plain)
    gains_db = 20 * factors.abs().log10()
    assert -9 <= gains_db.min() < -8 and -4 < gains_db.max() <= -3
    reported = dict(zip(AUGMENTATIONS, changed["augmented"].T, strict=True))
    assert torch.equal(reported["flip_polarity"], factors < 0)
    assert reported["gain"].all() and not reported["mono"].any()
    assert within_four_deviations(int((factors < 0).sum()), 200, 0.3)


# ------------------------------------------------------------------------------ as masters are


def tone(frequency: float, seconds=1.0, amplitude=0.5) -> torch.Tensor:
    """``[1, 2, samples]``, alike in both channels, a whole number of periods if it is whole."""
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (amplitude * torch.sin(2 * torch.pi * frequency * time)).float().expand(1, 2, -1)


def amplitude(audio: torch.Tensor, frequency: int) -> float:
    """Of a partial of the left channel of one second."""
    return float(torch.fft.rfft(audio[0, 0].double()).abs()[frequency] * 2 / audio.shape[-1])


def test_the_compressor_leaves_the_quiet_and_divides_what_is_above_its_threshold():
    """20 dB apart at 4:1, the threshold between them: the loud half comes down by three quarters of
    what it is above that, both channels by as much, and sines stay sines."""
    audio = tone(1000) * torch.tensor([1.0, 0.5])[:, None]
    audio[..., : RATE // 2] *= 0.1
    out = compress(audio, 4.0, -6.0, RATE)
    gains_db = 20 * (out / audio).abs()[0, :, 11::441].log10()  # where the sine is not zero
    whole_db = 10 * np.log10((0.1**2 + 1) / 2)
    torch.testing.assert_close(gains_db[0], gains_db[1])
    assert gains_db[0, 2:40].abs().max() < 1e-3
    torch.testing.assert_close(
        gains_db[0, 60:-8], torch.full((32,), -0.75 * (6 - whole_db)), atol=0.02, rtol=0
    )


def test_saturation_adds_odd_harmonics_of_tanh_and_nothing_folds_back():
    sine = tone(1000)
    out = saturate(sine, 0.6)
    phase = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    bent = np.abs(np.fft.rfft(np.tanh(0.6 * 2**0.5 * np.sin(phase))))
    assert amplitude(out, 3000) / amplitude(out, 1000) == pytest.approx(bent[3] / bent[1], rel=1e-3)
    assert amplitude(out, 2000) < 1e-6
    assert float(out.std()) == pytest.approx(float(sine.std()), rel=1e-3)
    high = saturate(tone(9000), 0.6)  # its third harmonic, 27 kHz, would come back as 17.1 kHz
    assert amplitude(high, 17_100) < 1e-5 < 1e-2 < bent[3] / bent[1]


@pytest.mark.parametrize("target", [-14.0, -7.0])
def test_the_limiter_reaches_its_loudness_by_another_meter_below_its_ceiling(target):
    """A chord under drum strokes; the second channel softer. pyloudnorm is the other meter."""
    meter = pytest.importorskip("pyloudnorm").Meter(RATE)
    audio = sum(tone(frequency, 3, 0.01)[0] for frequency in (220, 277, 1320)).clone()
    audio[:, :: RATE // 4] += 0.03
    audio[1] *= 0.5
    out = limit(torch.stack([audio, 10 * audio]), target, RATE)
    assert out.abs().max() <= CEILING + 1e-6
    for item in out:
        assert meter.integrated_loudness(item.numpy().T) == pytest.approx(target, abs=0.2)
        torch.testing.assert_close(item[1] * audio[0], item[0] * audio[1])  # one gain for both


def test_silence_stays_silent_and_every_change_finite():
    silence = torch.zeros(1, 2, 5000)
    for out in (
        compress(silence, 4.0, 0.0, RATE), saturate(silence, 0.5), limit(silence, -9.0, RATE),
        mix(silence, silence, torch.ones(1, 1, 1)),
    ):  # fmt: skip
        assert torch.equal(out, silence)


@pytest.mark.parametrize("speed", [0.8125, 1.1875])
def test_a_faster_crop_is_higher_by_as_much_and_as_loud(speed):
    samples = samples_to_read(RATE, AugmentationConfig(resample=0.2))
    low = tone(1600, samples / RATE).clone()
    out = at_speeds(torch.cat([low, low]), [speed, 1.0], RATE)
    assert out.shape == (2, 2, RATE)
    assert amplitude(out, round(1600 * speed)) == pytest.approx(0.5, rel=2e-4)
    assert float(out[0].std()) == pytest.approx(0.5 / 2**0.5, rel=2e-4)  # and nothing else
    torch.testing.assert_close(out[1], low[0, :, FADED : FADED + RATE], atol=1e-5, rtol=0)


def test_what_a_faster_crop_would_have_above_half_the_rate_is_gone():
    samples = samples_to_read(RATE, AugmentationConfig(resample=0.2))
    assert at_speeds(tone(20_000, samples / RATE), [1.1875], RATE).abs().max() < 2e-3


def test_what_is_mixed_has_its_level_and_the_sum_that_of_the_first():
    first = torch.from_numpy(noise(1, seed=1).T)[None]
    second = torch.from_numpy(noise(1, seed=2).T)[None] * 0.03
    out = mix(first, second, torch.full((1, 1, 1), 0.5))
    assert float(out.std()) == pytest.approx(float(first.std()), rel=0.02)

    def share(of: torch.Tensor) -> float:
        return float((out * of).sum() / of.square().sum()) * float(of.std())

    assert share(second) / share(first) == pytest.approx(0.5, rel=0.05)


def test_what_is_mixed_is_another_crop_every_time(folder):
    """Of white noise, g times as loud, so that the sum is like the first by 1 / sqrt(1 + g²)."""
    plain = items(dataset(folder), range(0, 40))["audio"]
    mixed = items(dataset(folder, augmentation={"mix": 0.5}), range(0, 40))
    alike = torch.nn.functional.cosine_similarity(plain.flatten(1), mixed["audio"].flatten(1))
    reported = mixed["augmented"][:, AUGMENTATIONS.index("mix")]
    assert within_four_deviations(int(reported.sum()), 40, 0.5)
    assert alike[~reported].min() > 1 - 1e-5
    least, most = (1 / (1 + 10 ** (db / 10)) ** 0.5 for db in MIX_DB[::-1])
    assert least - 0.05 < alike[reported].min() and alike[reported].max() < most + 0.02
