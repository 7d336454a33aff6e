"""Finding music: order, splits, links, hidden files, odd names, manifests."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from earvae import tracks
from earvae.tracks import TracksError, find, fitting, held_out, inside, printable, read_manifest


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(music) -> list[str]:
    return [file.name for file in music.files]


def test_files_come_before_folders_and_both_in_the_order_of_their_names(tmp_path):
    touch(tmp_path, "b/x.wav", "a/y.FLAC", "z.mp3", "a/b/c.opus", "cover.jpg")
    assert names(find([tmp_path])) == ["z.mp3", "a/y.FLAC", "a/b/c.opus", "b/x.wav"]


def test_hidden_music_and_other_formats_are_left_out_by_name(tmp_path):
    touch(tmp_path, ".a.wav", ".trash/b.wav", "c.ape", "d.wav", "cover.jpg", ".DS_Store")
    music = find([tmp_path])
    assert names(music) == ["d.wav"] and not music.problems
    lines = "\n".join(music.left_out_lines())
    assert ".a.wav" in lines and ".trash" in lines and "c.ape" in lines
    assert "cover.jpg" not in lines and ".DS_Store" not in lines


@pytest.mark.parametrize("installed", [True, False])
def test_what_pyav_reads_is_taken_with_it_and_named_without(tmp_path, monkeypatch, installed):
    monkeypatch.setattr(tracks, "find_spec", lambda name: installed or None)
    touch(tmp_path, "a.M4A", "b.webm", "c.wav")
    music = find([tmp_path])
    assert names(music) == (["a.M4A", "b.webm", "c.wav"] if installed else ["c.wav"])
    told = [line for line in music.left_out_lines() if "earvae[media]" in line]
    assert len(told) == (0 if installed else 2)


def test_the_folder_of_results_is_no_music_and_no_news(tmp_path):
    touch(tmp_path, "a.wav", "out/b.wav")
    music = find([tmp_path], leave_out=tmp_path / "out")
    assert names(music) == ["a.wav"] and not music.left_out


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/a.wav", "music/b.wav")
    (tmp_path / "music" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music" / "loop").symlink_to(tmp_path / "music")
    (tmp_path / "music" / "self").symlink_to(tmp_path / "music" / "self")
    music = find([tmp_path / "music"])
    assert names(music) == ["b.wav", "linked/a.wav"]
    assert any("loop" in line for line in music.left_out_lines())


def test_what_is_no_regular_file_is_a_problem_and_the_rest_is_found(tmp_path):
    touch(tmp_path, "a.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    music = find([tmp_path])
    assert names(music) == ["a.wav"]
    assert len(music.problems) == 2 and "pipe.wav" in music.problems[1]


def test_folders_a_thousand_deep_are_searched_or_named(tmp_path):
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(os.open("deep.wav", os.O_CREAT, dir_fd=place))
    os.close(place)
    found = names(find([tmp_path]))
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own removal recurses
    assert found == ["d/" * 1200 + "deep.wav"]


def test_names_that_are_not_unicode_stay_usable_and_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(path, "wb"):
        pass
    (found,) = find([tmp_path]).files
    assert os.path.exists(found.path) and os.fsencode(found.path) == path
    assert printable(found.name) == "caf\\xe9.wav"


def test_an_input_without_music_is_a_problem_and_a_missing_one_an_error(tmp_path):
    assert "holds no audio files" in find([tmp_path]).problems[0]
    with pytest.raises(TracksError, match="no such file"):
        find([tmp_path / "nothing"])


def test_only_line_feeds_end_a_line_of_a_manifest(tmp_path):
    lines = [{"file": "a\u2028b.wav", "title": "x\u2028y\x85z"}, {"file": "c.wav", "split": "test"}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\r\n"
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte order mark
    files, problems = read_manifest(tmp_path / "m.jsonl")
    assert [file.name for file in files] == ["a\u2028b.wav", "c.wav"] and not problems
    assert names(find([tmp_path / "m.jsonl"], split="test")) == ["c.wav"]


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[]", '"a"', "{}", '{"file": 3}', '{"file": ""}', '{"file": "a\\u0000"}',
     '{"file": "\\ud800.wav"}', "[" * 100_000, '{"file": "a/.."}', '{"file": "/"}',
     '{"file": "a.wav", "duration": NaN}', "\udcff", '{"file": "' + "a" * 2**20 + '"}',
     '{"file": "' + "a" * 256 + '"}'],
)  # fmt: skip
def test_a_bad_line_is_a_problem_of_its_own(tmp_path, line):
    text = '{"file": "a.wav"}\n' + line + '\n{"file": "b.wav"}\n'
    (tmp_path / "m.jsonl").write_text(text, errors="surrogateescape")
    files, problems = read_manifest(tmp_path / "m.jsonl")
    assert [file.name for file in files] == ["a.wav", "b.wav"]
    assert len(problems) == 1 and "line 2" in problems[0]


def test_what_is_no_manifest_at_all_is_told_in_some_lines(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\n" * 1000)
    (tmp_path / "m").mkdir()
    files, problems = read_manifest(tmp_path / "m.jsonl")
    assert not files and len(problems) == 101 and "900 more" in problems[-1]
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("pipe.jsonl", "m", "nothing.jsonl"):
        with pytest.raises(TracksError, match=name):
            read_manifest(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 300, "loop", "a\0b"])
def test_an_input_with_an_odd_name_is_refused_by_name(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TracksError, match=f"{name[0]}.*: (no such|cannot be used)"):
        find([tmp_path / name])


def test_a_name_with_a_longer_ending_is_cut_and_stays_its_own():
    long = ["é" * 124 + "x.", "é" * 124 + "y."]
    cut = [fitting(stem, ".safetensors") for stem in long]
    assert len(set(cut)) == 2 and all(len(name.encode()) <= 243 for name in cut)
    assert fitting("é" * 121, ".safetensors") == "é" * 121
    assert len(os.fsencode(fitting("\udcff" * 250, ".safetensors"))) <= 243


def test_a_manifest_tells_lengths_only_where_they_make_sense(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        '{"file": "a", "duration": 2, "rate": 44100, "channels": 2}\n'
        '{"file": "b", "duration": -1, "rate": true, "channels": 0}\n'
        '{"file": "c", "duration": 1e10, "rate": 44100.0}\n'
    )
    a, b, c = read_manifest(tmp_path / "m.jsonl")[0]
    assert (a.duration, a.rate, a.channels) == (2.0, 44100, 2)
    assert (b.duration, b.rate, b.channels) == (c.duration, c.rate, c.channels) == (None,) * 3


def test_a_twentieth_of_a_folder_is_its_validation_split(tmp_path):
    touch(tmp_path, *(f"{n:03}.wav" for n in range(400)))
    train, validation = (names(find([tmp_path], split=s)) for s in ("train", "validation"))
    assert sorted(train + validation) == names(find([tmp_path]))
    assert 10 <= len(validation) <= 32  # 20 expected, three deviations either way
    with pytest.raises(TracksError, match="test"):
        find([tmp_path], split="test")


def test_songs_in_two_formats_are_held_out_together_and_small_folders_not_at_all():
    songs = [f"{n}.wav" for n in range(60)]
    out = held_out(songs + [name.replace("wav", "mp3") for name in songs])
    assert out[:60] == out[60:] and any(out)
    assert not any(held_out(songs[:4]))


def test_files_of_other_suffixes_are_found_in_the_same_way(tmp_path):
    touch(tmp_path, "b.npy", "a/x.npy", "song.wav", "c.m4a")
    music = find([tmp_path], suffixes=frozenset({".npy"}))
    assert names(music) == ["b.npy", "a/x.npy"] and not music.left_out
    (problem,) = find([tmp_path / "a"], suffixes=frozenset({".tar"})).problems
    assert "holds no .tar files" in problem


@pytest.mark.parametrize("name", ["a/b.wav", "../a/b.wav", "/a/b.wav", "../../a/b.wav"])
def test_outputs_named_for_inputs_stay_inside_a_folder(name):
    assert inside(name) == "a/b.wav"
