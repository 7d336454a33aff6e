"""Crops depend on seed, sources and index alone; bad draws are refused, counted and replaced."""

import json

import numpy as np
import pytest
import torch

from earvae.config import ConfigError
from earvae.training import crops as crops_module
from earvae.training.augment import (
    AUGMENTATIONS,
)
from earvae.training.crops import ATTEMPTS, read_crop
from earvae.training.filters import DROP_REASONS
from earvae.training.loader import make_loader, shares
from tests.small import RATE
from tests.small import white as noise
from tests.training.music import dataset, items, joined, listed, same, save, within_four_deviations

# ------------------------------------------------------------------------------ determinism


def test_an_item_is_the_same_for_any_number_of_workers_and_any_start(folder):
    options = {"batch_size": 4, "augmentation": {"gain_db": (-6, 6), "mono": 0.5}}
    whole = items(dataset(folder, workers=0, **options), range(0, 12))
    assert whole["audio"].shape == (12, 2, 5000) and whole["audio"].dtype == torch.float32
    assert whole["dropped"].shape == (12, len(DROP_REASONS))
    assert whole["augmented"].shape == (12, len(AUGMENTATIONS))
    assert whole["source"].dtype == whole["dropped"].dtype == torch.int64
    assert whole["augmented"].dtype == torch.bool
    for workers in (1, 2):
        assert same(whole, items(dataset(folder, workers=workers, **options), range(0, 12)))
    late = items(dataset(folder, workers=0, **options), range(5, 12))
    assert same(whole, late, slice(5, None))
    assert not torch.equal(whole["audio"][0], whole["audio"][1])
    other = items(dataset(folder, workers=0, seed=1, **options), range(0, 12))
    assert not torch.equal(whole["audio"], other["audio"])


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_together_have_the_items_of_one_process_in_order(folder, world_size):
    data = dataset({"tracks": str(folder / "sub")}, folder, workers=0, batch_size=2)
    whole = items(data, range(4, 17))
    loaders = [iter(make_loader(data, 4, 17, rank, world_size)) for rank in range(world_size)]
    turns = []
    while batches := [batch for loader in loaders if (batch := next(loader, None))]:
        turns += batches
    assert same(whole, joined(turns))


def test_ranks_share_every_batch_without_overlap():
    one, other = (list(map(list, shares(8, 24, 4, rank, 2))) for rank in (0, 1))
    assert one == [[8, 9, 10, 11], [16, 17, 18, 19]]
    assert sorted(sum(one + other, [])) == list(range(8, 24))
    assert [list(batch) for batch in shares(5, 12, 3)] == [[5, 6, 7], [8, 9, 10], [11]]
    assert not list(shares(5, 7, 2, 1, 2))


# ------------------------------------------------------------------------------ drawing


def test_sources_are_drawn_by_weight_and_tracks_by_duration(tmp_path):
    """Weights 3:1 give 75 %, however long the sources are; within one, 1 s of 5 s gives 20 %."""
    save(tmp_path / "few" / "a.wav", np.full((RATE, 2), 0.1))
    save(tmp_path / "few" / "b.wav", np.full((4 * RATE, 2), 0.2))
    save(tmp_path / "many" / "c.wav", np.full((20 * RATE, 2), 0.3))
    data = dataset(
        {"tracks": str(tmp_path / "few"), "weight": 3.0},
        {"tracks": str(tmp_path / "many")},
        crop_samples=10,
    )
    crops = [data[index] for index in range(2000)]
    sources = np.array([int(crop["source"]) for crop in crops])
    levels = np.array([float(crop["audio"][0, 0]) for crop in crops])
    few = int((sources == 0).sum())
    assert within_four_deviations(few, 2000, 0.75)
    assert within_four_deviations(int(np.isclose(levels, 0.1).sum()), few, 0.2)
    assert np.array_equal(np.isclose(levels, 0.3), sources == 1)


def test_places_are_spread_over_the_whole_track(tmp_path):
    save(tmp_path / "ramp.wav", np.linspace(0, 1, RATE)[:, None].repeat(2, 1))
    data = dataset(tmp_path, crop_samples=100)
    places = sorted(float(data[index]["audio"][0, 0]) for index in range(400))
    expected = (np.arange(400) + 0.5) / 400
    assert np.abs(places - expected).max() < 1.95 / 20  # Kolmogorov-Smirnov, one in a thousand


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_a_sine_keeps_its_frequency_and_level_at_any_rate(tmp_path, rate):
    time = np.arange(2 * rate) / rate
    save(tmp_path / "sine.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), rate)
    tracks, _ = listed(tmp_path)
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
    save(tmp_path / "click.wav", audio, 48_000)
    crop = read_crop(listed(tmp_path)[0][0], 0.0, RATE, RATE)
    assert abs(int(np.argmax(np.abs(crop[0]))) - RATE // 2) <= 1


def test_a_track_shorter_than_a_crop_is_followed_by_zeros(tmp_path):
    save(tmp_path / "short.wav", noise(0.05))
    crop = read_crop(listed(tmp_path)[0][0], 0.7, 5000, RATE)
    assert np.abs(crop[:, :2205]).max() > 0 and not crop[:, 2205:].any()


def test_tracks_shorter_than_a_crop_are_left_out_unless_asked_for(tmp_path):
    """Each by its own rate: 0.1 s are 4410 samples here and 4800 there."""
    save(tmp_path / "long.wav", noise(0.2))
    save(tmp_path / "short.wav", noise(0.09))
    save(tmp_path / "short48.wav", noise(0.09, rate=48_000), 48_000)
    save(tmp_path / "enough48.wav", noise(0.1, rate=48_000), 48_000)
    data = dataset(tmp_path, crop_samples=4410)
    assert [track.path.name for track in data.tracks] == ["enough48.wav", "long.wav"]
    assert [line.split("/")[-1] for line in data.left_out] == [
        "short.wav: 0.09 s, shorter than a crop of 0.10 s",
        "short48.wav: 0.09 s, shorter than a crop of 0.10 s",
    ]
    assert len(dataset(tmp_path, crop_samples=4410, short_tracks="pad").tracks) == 4
    with pytest.raises(ConfigError, match=r"the longest of 4 is 0\.20 s.*short_tracks: pad"):
        dataset(tmp_path, crop_samples=10_000)


# ------------------------------------------------------------------------------ several at once


def test_crops_fetched_together_lie_side_by_side_in_one_track(tmp_path):
    """Of a ramp through the whole track, each begins where the one before ends."""
    for number in (1, 2, 3):
        ramp = number + np.linspace(0, 0.9, RATE)[:, None].repeat(2, 1)
        save(tmp_path / f"{number}.wav", ramp / 4)
    data = dataset(tmp_path, crop_samples=5000, crops_per_fetch=4)
    crops = torch.stack([data[index]["audio"][0] for index in range(48)]).numpy() * 4
    for block in crops.reshape(12, -1):
        assert len({int(value) for value in block}) == 1
        np.testing.assert_allclose(np.diff(block), 0.9 / (RATE - 1), atol=1e-5)
    assert len({int(crop[0]) for crop in crops}) == 3


def test_crops_fetched_together_do_not_depend_on_order_workers_or_ranks(folder):
    options = {"batch_size": 4, "crops_per_fetch": 3, "augmentation": {"gain_db": (-6, 6)}}
    data = dataset(folder, workers=0, **options)
    whole = items(data, range(0, 24))
    backwards = [dataset(folder, **options)[index]["audio"] for index in reversed(range(24))]
    assert torch.equal(whole["audio"], torch.stack(backwards[::-1]))
    assert same(whole, items(dataset(folder, workers=2, **options), range(0, 24)))
    ranks = [list(make_loader(data, 0, 24, rank, 2)) for rank in (0, 1)]
    assert same(whole, joined(batch for pair in zip(*ranks, strict=True) for batch in pair))


def test_a_stretch_is_read_once_for_all_its_crops(folder, monkeypatch):
    reads = []
    original = crops_module.read_crop
    monkeypatch.setattr(
        crops_module, "read_crop", lambda *given: reads.append(given[2]) or original(*given)
    )
    data = dataset(folder, crops_per_fetch=4)
    for index in range(16):
        data[index]
    assert reads == [20_000] * 4


def test_a_stretch_that_is_refused_is_replaced_crop_by_crop(tmp_path):
    save(tmp_path / "good.wav", noise(1))
    save(tmp_path / "silence.wav", np.zeros((RATE, 2)))
    data = dataset(tmp_path, crops_per_fetch=4)
    crops = [data[index] for index in range(32)]
    assert all(crop["audio"].abs().max() > 0.3 for crop in crops)
    assert sum(int(crop["dropped"].sum()) for crop in crops) > 8


# ------------------------------------------------------------------------------ refused draws


@pytest.mark.parametrize("kind", ["silent", "nan", "truncated", "other rate"])
def test_bad_audio_is_drawn_again_and_counted(tmp_path, kind):
    entries = [{"file": "good.wav"}, {"file": "bad.wav"}]
    save(tmp_path / "good.wav", noise(1, seed=5))
    if kind == "silent":
        save(tmp_path / "bad.wav", np.zeros((RATE, 2)))
    elif kind == "nan":
        save(tmp_path / "bad.wav", np.full((RATE, 2), np.nan))
    elif kind == "truncated":
        bad = save(tmp_path / "bad.flac", noise(1, seed=6))
        bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 20])
        entries[1] = {"file": "bad.flac", "duration": 1.0, "rate": RATE, "channels": 2}
    else:
        save(tmp_path / "bad.wav", noise(1, seed=6), 48_000)
        entries[1] |= {"duration": 1.0, "rate": RATE, "channels": 2}
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    data = dataset(tmp_path / "m.jsonl", crop_samples=20_000)
    crops = [data[index] for index in range(12)]
    reason = DROP_REASONS.index("silent" if kind == "silent" else "broken")
    dropped = sum(crop["dropped"] for crop in crops)
    assert dropped[reason] == dropped.sum() > 0
    for crop in crops:
        assert torch.isfinite(crop["audio"]).all() and crop["audio"].abs().max() > 0.05


def test_a_source_of_nothing_but_silence_gives_silence_and_says_how_often_it_tried(tmp_path):
    save(tmp_path / "silence.wav", np.zeros((RATE, 2)))
    crop = dataset(tmp_path, augmentation={"gain_db": (3, 3)})[0]
    assert not crop["audio"].any() and not crop["augmented"].any()
    expected = [ATTEMPTS if reason == "silent" else 0 for reason in DROP_REASONS]
    assert crop["dropped"].tolist() == expected


def test_refused_draws_do_not_change_the_share_of_a_source(tmp_path):
    """Half of one source is silent; both still give as many crops as their weights say."""
    save(tmp_path / "half" / "silence.wav", np.zeros((RATE, 2)))
    save(tmp_path / "half" / "a.wav", np.full((RATE, 2), 0.1))
    save(tmp_path / "whole" / "b.wav", np.full((RATE, 2), 0.2))
    data = dataset(tmp_path / "half", tmp_path / "whole", crop_samples=10)
    crops = [data[index] for index in range(600)]
    half = [crop for crop in crops if crop["source"] == 0]
    assert within_four_deviations(len(half), 600, 0.5)
    assert sum(int(crop["dropped"].sum()) for crop in half) > 200


def test_crops_with_a_higher_true_peak_than_allowed_are_refused(tmp_path):
    time = np.arange(RATE)
    hot = np.sin(np.pi / 2 * time + np.pi / 4) * 1.6  # samples at 1.13, crest at +4.1 dBTP
    save(tmp_path / "hot.wav", hot[:, None].repeat(2, 1))
    save(tmp_path / "good.wav", noise(1))

    def counts(**filters):
        data = dataset(tmp_path, filters=filters)
        return sum(data[index]["dropped"] for index in range(20)).tolist()

    assert counts() == counts(true_peak_db=5.0) == [0, 0, 0, 0]
    refusals = counts(true_peak_db=1.0)
    assert refusals[DROP_REASONS.index("true_peak")] == sum(refusals) > 0


def test_a_bandwidth_that_leaves_nothing_above_it_is_refused(folder):
    with pytest.raises(ConfigError, match="bandwidth_hz: 21000 Hz"):
        dataset(folder, filters={"bandwidth_hz": 21_000})
