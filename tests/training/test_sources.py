"""Which recordings a source holds, how long they are, and what is left out by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from earvae.audio.containers.ogg import pages
from earvae.config import ConfigError
from earvae.errors import EarvaeError
from earvae.training.crops import read_crop
from earvae.training.filters import DROP_REASONS
from tests.small import RATE
from tests.small import white as noise
from tests.training.music import dataset, listed, save


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
    (folder / "video.avi").touch()
    save(folder / "other.caf", noise(1))
    tracks, left_out = listed(folder)
    assert [track.below for track in tracks] == ["a.wav", "b.flac", "other.caf", "sub/c.ogg"]
    assert len(left_out) == 2 and ".trash" in left_out[0] and "video.avi" in left_out[1]


def test_folders_and_files_are_drawn_in_the_order_of_their_names(folder):
    """The order decides which crops a seed draws."""
    save(folder / "z.wav", noise(1))
    assert [track.below for track in listed(folder)[0]][-2:] == ["sub/c.ogg", "z.wav"]


def test_a_manifest_that_tells_lengths_saves_opening_the_files(tmp_path):
    told = {"duration": 1.0, "rate": RATE, "channels": 2}
    (tmp_path / "text.wav").write_text("this is not audio " * 9)
    save(tmp_path / "good.wav", noise(1))
    entries = [
        {"file": "good.wav"} | told,
        {"file": "text.wav"} | told,
        {"file": "text.wav", "duration": 1.0},  # does not tell enough
        {"file": "good.wav", "duration": "1", "rate": RATE, "channels": 2},  # no number
        {"file": "text.wav", "duration": float("nan"), "rate": RATE, "channels": 2},  # no JSON
        {"file": "text.wav"} | told | {"duration": 1e9},  # more than its bytes can hold
        {"file": "gone.wav"} | told,
        {"file": "surround.wav", "duration": 1, "rate": RATE, "channels": 6},
    ]
    (tmp_path / "surround.wav").touch()
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    tracks, left_out = listed(manifest)
    assert [track.path.name for track in tracks] == ["good.wav", "text.wav", "good.wav"]
    assert [line.split(": ")[0].rsplit("/")[-1] for line in left_out] == [
        "manifest.jsonl", "text.wav", "text.wav", "gone.wav", "surround.wav"
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
    assert [track.frames for track in data.tracks] == 10 * [RATE]
    assert not data.left_out
    crops = [data[index] for index in range(60)]
    assert all(crop["audio"].abs().max() > 0.3 for crop in crops)
    assert not sum(crop["dropped"] for crop in crops).any()
    whole = soundfile.read(save(tmp_path / "whole.flac", noise(1, seed=9)), dtype="float32")[0]
    crop = read_crop(data.tracks[-1], 1.0, 5000, RATE)
    assert np.array_equal(crop, whole[-5000:].T)


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
    with path.open("rb") as file:
        all_pages = [page for _, page in pages(file, 0, path.stat().st_size)]
    all_pages[-1] = replace(all_pages[-1], granule=told)
    path.write_bytes(b"".join(page.pack() for page in all_pages))
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
