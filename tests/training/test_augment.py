"""Random changes of crops: each is what its name says, as often as asked for."""

import numpy as np
import pytest
import torch

from earvae.config import AugmentationConfig
from earvae.training.augment import (
    AUGMENTATIONS,
    OCTAVES,
    bass_shelf,
    draw_changes,
    equalise,
    make_changes,
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


def test_the_bass_shelf_lifts_the_bass_and_leaves_the_treble():
    """Whole gain at DC, half of the extra amplitude at the corner, nothing in the treble."""
    time = np.arange(RATE) / RATE
    at_corner = 20 * np.log10((1 + 10 ** (9 / 20)) / 2)
    for frequency, gain_db, tolerance in ((0, 9, 1e-4), (150, at_corner, 1e-4), (5000, 0, 2e-3)):
        cosine = np.cos(2 * np.pi * frequency * time)[None].repeat(2, 0)
        out = bass_shelf(torch.from_numpy(cosine), 10 ** (9 / 20) - 1, RATE)
        gain = 10 ** (gain_db / 20)
        np.testing.assert_allclose(out, gain * cosine, atol=tolerance)  # no phase shift either


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


