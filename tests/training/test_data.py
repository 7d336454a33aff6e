"""Crops depend on seed and index alone; bad files are left out and counted."""

import json

import numpy as np
import pytest
import soundfile
import torch

from earvae.config import AugmentationConfig, ConfigError, DataConfig
from earvae.training.data import (
    CropDataset,
    RangeSampler,
    augment,
    bass_shelf,
    list_tracks,
    make_loader,
    read_crop,
    soft_limit,
)

RATE = 44_100


def noise(seconds: float, channels: int = 2, rate: int = RATE, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return 0.1 * random.standard_normal((int(seconds * rate), channels)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    soundfile.write(tmp_path / "a.wav", noise(2, seed=1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.flac", noise(1, 1, 48_000, seed=2), 48_000)
    soundfile.write(tmp_path / "sub" / "c.ogg", noise(3, seed=3), RATE)
    return tmp_path


def crops(folder, indices, workers=0, **options):
    config = DataConfig(tracks=str(folder), crop_samples=5000, workers=workers, **options)
    loader = make_loader(config, RATE, indices.start, indices.stop)
    return torch.cat([batch["audio"] for batch in loader])


def test_a_crop_is_the_same_for_any_number_of_workers_and_any_start(folder):
    whole = crops(folder, range(0, 12), batch_size=4)
    assert whole.shape == (12, 2, 5000)
    for workers in (1, 2):
        assert torch.equal(whole, crops(folder, range(0, 12), workers=workers, batch_size=4))
    assert torch.equal(whole[5:], crops(folder, range(5, 12), batch_size=4))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, crops(folder, range(0, 12), batch_size=4, seed=1))


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_a_sine_keeps_its_frequency_and_level_at_any_rate(tmp_path, rate):
    time = np.arange(2 * rate) / rate
    soundfile.write(tmp_path / "sine.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), rate)
    tracks, _ = list_tracks(tmp_path)
    crop = read_crop(tracks[0], 0.4, RATE // 2, RATE)
    assert crop.shape == (2, RATE // 2)
    assert np.array_equal(crop[0], crop[1])  # mono is duplicated
    spectrum = np.abs(np.fft.rfft(crop[0] * np.hanning(RATE // 2)))
    assert np.argmax(spectrum) * 2 == pytest.approx(1000, abs=2)  # bins of 2 Hz
    assert crop[0].std() == pytest.approx(0.5 / np.sqrt(2), rel=2e-3)


def test_a_resampled_crop_lies_where_an_unresampled_one_does(tmp_path):
    """A click at half a second of a 48 kHz file is at half a second of the crop."""
    audio = np.zeros(48_000, np.float32)
    audio[24_000] = 1.0
    soundfile.write(tmp_path / "click.wav", audio, 48_000, subtype="FLOAT")
    crop = read_crop(list_tracks(tmp_path)[0][0], 0.0, RATE, RATE)
    assert abs(int(np.argmax(np.abs(crop[0]))) - RATE // 2) <= 1


def test_a_track_shorter_than_a_crop_is_followed_by_zeros(tmp_path):
    soundfile.write(tmp_path / "short.wav", noise(0.05), RATE, subtype="FLOAT")
    crop = read_crop(list_tracks(tmp_path)[0][0], 0.7, 5000, RATE)
    assert np.abs(crop[:, :2205]).max() > 0 and not crop[:, 2205:].any()


def test_broken_files_are_left_out_by_name(folder):
    (folder / "text.wav").write_text("this is not audio")
    (folder / "empty.flac").touch()
    soundfile.write(folder / "surround.wav", noise(1, 6), RATE)
    tracks, left_out = list_tracks(folder)
    assert len(tracks) == 3
    assert len(left_out) == 3
    for name in ("text.wav", "empty.flac", "surround.wav: 6 channels"):
        assert any(name in line for line in left_out)


@pytest.mark.parametrize("kind", ["silent", "nan", "truncated"])
def test_bad_audio_is_drawn_again_and_counted(tmp_path, kind):
    soundfile.write(tmp_path / "good.wav", noise(1, seed=5), RATE, subtype="FLOAT")
    bad = tmp_path / "bad.wav"
    if kind == "silent":
        soundfile.write(bad, np.zeros((RATE, 2)), RATE, subtype="FLOAT")
    elif kind == "nan":
        soundfile.write(bad, np.full((RATE, 2), np.nan), RATE, subtype="FLOAT")
    else:
        bad = tmp_path / "bad.flac"
        soundfile.write(bad, noise(1, seed=6), RATE)
        bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 20])
    tracks, _ = list_tracks(tmp_path)
    assert len(tracks) == 2
    config = DataConfig(tracks=str(tmp_path), crop_samples=20_000)
    dataset = CropDataset(config, RATE, tracks)
    items = [dataset[index] for index in range(12)]
    assert sum(int(item["skipped"]) for item in items) > 0
    for item in items:
        assert torch.isfinite(item["audio"]).all() and item["audio"].abs().max() > 0.05


def test_a_manifest_gives_its_split(folder):
    lines = [
        {"file": "a.wav", "split": "train"},
        {"file": "sub/c.ogg", "split": "test"},
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [t.path.name for t in list_tracks(manifest, "test")[0]] == ["c.ogg"]
    assert len(list_tracks(manifest)[0]) == 2
    with pytest.raises(ConfigError, match="no usable split 'validation'"):
        list_tracks(manifest, "validation")
    manifest.write_text('{"file": "a.wav"}\nnot json\n')
    with pytest.raises(ConfigError, match="line 2"):
        list_tracks(manifest)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        list_tracks(tmp_path / "nowhere")


def test_ranks_share_every_batch_without_overlap():
    shares = [list(RangeSampler(8, 24, 4, rank, 2)) for rank in (0, 1)]
    assert shares[0] == [8, 9, 10, 11, 16, 17, 18, 19]
    assert sorted(shares[0] + shares[1]) == list(range(8, 24))


@pytest.mark.parametrize("stop", [8, 9, 13, 15, 16, 21])
def test_a_share_is_as_long_as_it_says(stop):
    for rank in (0, 1, 2):
        sampler = RangeSampler(5, stop, 2, rank, 3)
        assert len(sampler) == len(list(sampler))


def test_augmentation_is_off_by_default():
    audio = noise(0.1).T
    out = augment(audio, AugmentationConfig(), np.random.default_rng(0), RATE)
    assert np.array_equal(out, audio)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gain_db": (-6.0206, -6.0206)}, lambda a: a / 2),
        ({"swap_channels": 1.0}, lambda a: a[::-1]),
        ({"flip_polarity": 1.0}, lambda a: -a),
    ],
)
def test_each_augmentation_does_what_its_name_says(options, expected):
    audio = noise(0.1).T
    out = augment(audio, AugmentationConfig(**options), np.random.default_rng(0), RATE)
    np.testing.assert_allclose(out, expected(audio), rtol=1e-4)


def test_the_bass_shelf_lifts_the_bass_and_leaves_the_treble():
    """Whole gain at DC, half of the extra amplitude at the corner, nothing in the treble."""
    time = np.arange(RATE) / RATE
    at_corner = 20 * np.log10((1 + 10 ** (9 / 20)) / 2)
    for frequency, gain_db, tolerance in ((0, 9, 1e-4), (150, at_corner, 1e-4), (5000, 0, 2e-3)):
        cosine = np.cos(2 * np.pi * frequency * time)[None].repeat(2, 0)
        out = bass_shelf(cosine, 9.0, RATE)
        gain = 10 ** (gain_db / 20)
        np.testing.assert_allclose(out, gain * cosine, atol=tolerance)  # no phase shift either


def test_augmentations_are_drawn_within_their_range_and_repeatably(folder):
    plain = crops(folder, range(0, 8))
    config = {"gain_db": (-9.0, -3.0), "flip_polarity": 0.5}
    changed = crops(folder, range(0, 8), augmentation=config)
    assert torch.equal(changed, crops(folder, range(0, 8), workers=1, augmentation=config))
    factors = (changed * plain).sum((1, 2)) / plain.square().sum((1, 2))
    torch.testing.assert_close(changed, factors[:, None, None] * plain)
    gains_db = 20 * factors.abs().log10()
    assert -9 <= gains_db.min() < gains_db.max() <= -3
    assert factors.min() < 0 < factors.max()


def test_the_limiter_makes_loud_and_stays_below_full_scale():
    quiet = noise(0.5).T * 0.1
    loud = soft_limit(quiet, 0.3)
    assert np.abs(loud).max() < 1
    assert loud.std() == pytest.approx(0.3, rel=0.15)
