"""Crops depend on seed, sources and index alone; bad draws are refused, counted and replaced."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr
import torch

from earvae.config import AugmentationConfig, ConfigError, DataConfig, FilterConfig, SourceConfig
from earvae.errors import EarvaeError
from earvae.training import crops as crops_module
from earvae.training.augment import (
    AUGMENTATIONS,
    bass_shelf,
    draw_changes,
    make_changes,
    soft_limit,
)
from earvae.training.crops import ATTEMPTS, CropDataset, read_crop
from earvae.training.filters import DROP_REASONS, reaches, refused
from earvae.training.loader import make_loader, shares
from earvae.training.ogg import pages_of
from earvae.training.sources import list_tracks
from tests.small import RATE
from tests.small import white as noise


def save(path, audio, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "a.wav", noise(2, seed=1))
    save(tmp_path / "b.flac", noise(1, 1, 48_000, seed=2), 48_000)
    save(tmp_path / "sub" / "c.ogg", noise(3, seed=3))
    return tmp_path


def dataset(*folders, **options):
    sources = tuple({"tracks": str(f)} if not isinstance(f, dict) else f for f in folders)
    return CropDataset(DataConfig(sources=sources, **{"crop_samples": 5000} | options), RATE)


def listed(path, split=None):
    return list_tracks(SourceConfig(tracks=str(path), split=split))


def joined(batches) -> dict[str, torch.Tensor]:
    batches = list(batches)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def items(data, indices):
    return joined(make_loader(data, indices.start, indices.stop))


def same(one, other, rows=slice(None)):
    return one.keys() == other.keys() and all(torch.equal(one[k][rows], other[k]) for k in one)


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


def within_four_deviations(count: int, of: int, share: float) -> bool:
    return abs(count - of * share) < 4 * np.sqrt(of * share * (1 - share))


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


# ------------------------------------------------------------------------------ listing


def test_broken_files_are_left_out_by_name(folder):
    (folder / "text.wav").write_text("this is not audio")
    (folder / "empty.flac").touch()
    save(folder / "surround.wav", noise(1, 6))
    tracks, left_out = listed(folder)
    assert [track.path.name for track in tracks] == ["a.wav", "b.flac", "c.ogg"]
    assert len(left_out) == 3
    for name in ("text.wav", "empty.flac", "surround.wav: 6 channels"):
        assert any(name in line for line in left_out)


def test_the_tracks_of_all_sources_are_listed_and_what_is_left_out(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save(other / "d.wav", noise(1))
    (other / "e.wav").touch()
    data = dataset(folder, other)
    assert [track.path.name for track in data.tracks] == ["a.wav", "b.flac", "c.ogg", "d.wav"]
    assert len(data.left_out) == 1 and "e.wav" in data.left_out[0]


def test_a_manifest_gives_its_split(folder):
    lines = [
        {"file": "a.wav", "split": "train"},
        {"file": "sub/c.ogg", "split": "test"},
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [track.path.name for track in listed(manifest, "test")[0]] == ["c.ogg"]
    assert len(listed(manifest)[0]) == 2
    with pytest.raises(ConfigError, match="holds no files of split 'validation'"):
        listed(manifest, "validation")
    manifest.write_text('{"file": "a.wav"}\nnot json\n')
    tracks, left_out = listed(manifest)
    assert len(tracks) == 1 and len(left_out) == 1 and "line 2" in left_out[0]


def test_what_no_other_verb_finds_is_not_trained_on_and_is_named(folder):
    save(folder / ".trash" / "x.wav", noise(1))
    (folder / "video.m4a").touch()
    save(folder / "other.caf", noise(1))
    tracks, left_out = listed(folder)
    assert [track.below for track in tracks] == ["a.wav", "b.flac", "other.caf", "sub/c.ogg"]
    assert len(left_out) == 2 and ".trash" in left_out[0] and "video.m4a" in left_out[1]


def test_folders_and_files_are_drawn_in_the_order_of_their_names(folder):
    """The order decides which crops a seed draws."""
    save(folder / "z.wav", noise(1))
    assert [track.below for track in listed(folder)[0]][-2:] == ["sub/c.ogg", "z.wav"]


def test_a_manifest_that_tells_lengths_saves_opening_the_files(tmp_path):
    told = {"duration": 1.0, "rate": RATE, "channels": 2}
    (tmp_path / "text.wav").write_text("this is not audio")
    save(tmp_path / "good.wav", noise(1))
    entries = [
        {"file": "good.wav"} | told,
        {"file": "text.wav"} | told,
        {"file": "text.wav", "duration": 1.0},  # does not tell enough
        {"file": "good.wav", "duration": "1", "rate": RATE, "channels": 2},  # no number
        {"file": "text.wav", "duration": float("nan"), "rate": RATE, "channels": 2},
        {"file": "gone.wav"} | told,
        {"file": "surround.wav", "duration": 1, "rate": RATE, "channels": 6},
    ]
    (tmp_path / "surround.wav").touch()
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    tracks, left_out = listed(manifest)
    assert [track.path.name for track in tracks] == ["good.wav", "text.wav", "good.wav"]
    assert [line.split(": ")[0].rsplit("/")[-1] for line in left_out] == [
        "text.wav", "text.wav", "gone.wav", "surround.wav"
    ]  # fmt: skip
    data = dataset(manifest)
    dropped = sum(data[index]["dropped"] for index in range(30))
    assert dropped[DROP_REASONS.index("broken")] == dropped.sum() > 0


def test_a_manifest_rounded_up_leads_to_no_read_past_the_end(tmp_path):
    """0.49952 s are told as 0.5 s, in which there are 21 samples more."""
    frames = 22_029
    save(tmp_path / "a.wav", noise(1)[:frames])
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"file": "a.wav", "duration": 0.5, "rate": RATE, "channels": 2})
    )
    track = listed(tmp_path / "m.jsonl")[0][0]
    assert frames - RATE // 1000 <= track.frames <= frames
    assert read_crop(track, 1.0, 30_000, RATE).any()


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nowhere", None, "nowhere: no such file, folder or manifest"),
        ("empty", None, "empty: holds no audio files"),
        ("bad", None, r"bad: no usable audio file \(1 left out; .*b.wav"),
        ("full", "test", "full: has the splits train and validation"),
        ("https://host/music", None, "https://host/music: a remote source must be"),
        ("full/a.wav", "train", "a.wav: a single file has no splits"),
        ("nowhere.json", None, "nowhere.json: cannot be read"),
        ("full/other.json", None, "other.json: is not an index"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(tmp_path, monkeypatch, name, split, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "b.wav").touch()
    save(tmp_path / "full" / "a.wav", noise(1))
    (tmp_path / "full" / "other.json").write_text('{"format": "another"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EarvaeError, match=message) as caught:
        listed(name, split)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ lengths


def with_total(path, total: int):
    """A FLAC file whose header tells ``total`` samples: the last 36 bits before the checksum."""
    data = bytearray(path.read_bytes())
    told = int.from_bytes(data[18:26], "big")
    data[18:26] = (told >> 36 << 36 | total).to_bytes(8, "big")
    path.write_bytes(data)
    return path


def test_nine_good_files_and_one_of_unknown_length_train_on_music(tmp_path):
    for number in range(9):
        save(tmp_path / f"{number}.flac", noise(1, seed=number))
    streamed = with_total(save(tmp_path / "streamed.flac", noise(1, seed=9)), 0)
    assert soundfile.info(streamed).frames == 2**63 - 1
    data = dataset(tmp_path)
    assert [track.frames for track in data.tracks] == 9 * [RATE] + [RATE - 1]
    assert not data.left_out
    crops = [data[index] for index in range(60)]
    assert all(crop["audio"].abs().max() > 0.3 for crop in crops)
    assert not sum(crop["dropped"] for crop in crops).any()
    whole = soundfile.read(save(tmp_path / "whole.flac", noise(1, seed=9)), dtype="float32")[0]
    crop = read_crop(data.tracks[-1], 1.0, 5000, RATE)
    assert np.array_equal(crop, whole[-5001:-1].T)


@pytest.mark.parametrize("total", [RATE + 1, 10 * RATE, 2**36 - 1])
def test_a_flac_that_tells_more_than_it_holds_is_left_out_by_name(tmp_path, total):
    save(tmp_path / "good.flac", noise(1))
    with_total(save(tmp_path / "bad.flac", noise(1, seed=1)), total)
    tracks, left_out = listed(tmp_path)
    assert [track.path.name for track in tracks] == ["good.flac"]
    assert len(left_out) == 1 and f"bad.flac: cut off: {RATE} of {total} samples" in left_out[0]


@pytest.mark.parametrize("told", [10**8, 2**62])
def test_an_ogg_file_of_absurd_length_is_as_long_as_it_decodes(tmp_path, told):
    path = save(tmp_path / "a.ogg", noise(1))
    pages = list(pages_of(path.read_bytes()))
    pages[-1] = replace(pages[-1], granule=told)
    path.write_bytes(b"".join(page.pack() for page in pages))
    assert soundfile.info(path).frames == told
    (track,), left_out = listed(tmp_path)
    assert not left_out and 0 <= track.frames - RATE < 1024  # less than a block is not trimmed
    assert read_crop(track, 1.0, 5000, RATE)[:, :4000].all()


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 10**9])
def test_rates_that_no_music_has_are_left_out_by_name(tmp_path, rate):
    save(tmp_path / "good.wav", noise(1))
    path = save(tmp_path / "bad.wav", noise(1))
    data = bytearray(path.read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    tracks, left_out = listed(tmp_path)
    assert [track.path.name for track in tracks] == ["good.wav"]
    assert len(left_out) == 1 and f"bad.wav: its header says {rate} Hz" in left_out[0]


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


# ------------------------------------------------------------------------------ bandwidth

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


def test_a_bandwidth_that_leaves_nothing_above_it_is_refused(folder):
    with pytest.raises(ConfigError, match="bandwidth_hz: 21000 Hz"):
        dataset(folder, filters={"bandwidth_hz": 21_000})


# ------------------------------------------------------------------------------ augmentation


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
    ],
)
def test_each_augmentation_does_what_its_name_says_and_is_reported(options, name, expected):
    audio = noise(0.1).T
    out, applied = changed(audio, **options)
    np.testing.assert_allclose(out, expected(audio), rtol=1e-4, atol=1e-8)
    assert applied.tolist() == [other == name for other in AUGMENTATIONS]


@pytest.mark.parametrize(
    ("options", "name"), [({"bass_db": (3, 3)}, "bass"), ({"limit": 1.0}, "limit")]
)
def test_the_bass_shelf_and_the_limiter_are_reported(options, name):
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


def test_changes_of_a_batch_are_those_of_each_item():
    audio = torch.from_numpy(np.stack([noise(0.1, seed=n).T for n in range(8)]))
    config = AugmentationConfig(
        gain_db=(-12, 6), swap_channels=0.5, flip_polarity=0.5, mono=0.3, bass_db=(-3, 9), limit=0.4
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


def test_the_limiter_makes_loud_and_stays_below_full_scale():
    quiet = torch.from_numpy(noise(0.5).T * 0.1)
    loud = soft_limit(quiet, 0.3)
    assert loud.abs().max() < 1
    assert float(loud.std()) == pytest.approx(0.3, rel=0.15)
