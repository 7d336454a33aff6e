"""The corpus builder, on small packages made here."""

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earvae.config import SourceConfig
from earvae.training.sources import list_tracks

TOOL = Path(__file__).parents[2] / "tools" / "corpus.py"
spec = importlib.util.spec_from_file_location("corpus", TOOL)
corpus = sys.modules["corpus"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(corpus)

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def music(path, seconds=21, rate=44_100, channels=2, seed=0, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    second = level * np.random.default_rng(seed).standard_normal((rate, channels))
    soundfile.write(path, np.tile(second, (seconds, 1)), rate)


def make_package(folder, name, fill) -> None:
    tree = folder / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <no@body>\n"
        "Description: test\n"
    )
    licence = tree / "usr/share/doc" / name / "copyright"
    licence.parent.mkdir(parents=True)
    licence.write_text("CC0")
    fill(tree / "usr/share" / name)
    subprocess.run(
        ["dpkg-deb", "-Znone", "--build", tree, folder / f"{name}_1.0_all.deb"],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def debs(tmp_path):
    folder = tmp_path / "debs"
    folder.mkdir()

    def one(root):
        music(root / "music" / "a.flac", seed=1)
        music(root / "music" / "copy_of_a.flac", seed=1)
        music(root / "music" / "short.flac", seconds=2, seed=2)
        music(root / "sounds" / "long_effect.flac", seed=6)
        music(root / "music" / "silence.flac", level=1e-5, seed=7)
        music(root / "music" / "mono.flac", channels=1, seed=3)
        music(root / "music" / "low.flac", rate=22_050, seed=4)
        (root / "readme.txt").write_text("not audio")

    def two(root):
        music(root / "b.flac", seed=5)
        with zipfile.ZipFile(root / "music.pk3", "w") as archive:
            archive.write(root / "b.flac", "sound/b.flac")
        (root / "b.flac").unlink()
        (root / "broken.ogg").write_text("not audio")

    make_package(folder, "one-music", one)
    make_package(folder, "two-music", two)
    return folder


@needs_dpkg
def test_music_is_kept_once_and_the_rest_is_told(debs, tmp_path):
    told = []
    root = tmp_path / "corpus"
    tracks = corpus.build(root, ["one-music", "two-music"], debs, told.append)
    assert sorted(t.file.rsplit("/", 1)[1] for t in tracks) == ["a.flac", "b.flac"]
    report = "\n".join(told)
    for reason in ("duplicate: 1", "not stereo: 1", "rate below 44100 Hz: 1",
                   "shorter than 20 s: 1", "unreadable: 1", "in a folder of effects: 1",
                   "silent: 1"):  # fmt: skip
        assert reason in report
    lines = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    assert {line["package"] for line in lines} == {"one-music", "two-music"}
    for line in lines:
        assert (root / line["file"]).is_file()
        assert (root / line["licence"]).read_text() == "CC0"
        assert line["version"] == "1.0"
        assert line["duration"] == 21 and line["rate"] == 44_100 and line["channels"] == 2
        assert line["version"] == "1.0"
        assert line["split"] == corpus.split_of(line["sha256"])
    assert len(list_tracks(SourceConfig(tracks=str(root / "manifest.jsonl")))[0]) == 2
    assert not (root / "one-music/usr/share/one-music/readme.txt").exists()


@needs_dpkg
def test_a_second_run_gives_the_same_manifest(debs, tmp_path):
    root = tmp_path / "corpus"
    corpus.build(root, ["one-music"], debs, lambda line: None)
    before = (root / "manifest.jsonl").read_bytes()
    corpus.build(root, ["one-music"], debs, lambda line: None)
    assert (root / "manifest.jsonl").read_bytes() == before


@needs_dpkg
def test_an_interrupted_unpacking_starts_again(debs, tmp_path):
    root = tmp_path / "corpus"
    left = root / ".earvae-0.partial"
    left.mkdir(parents=True)
    (left / "half.flac").write_text("half")
    corpus.build(root, ["one-music"], debs, lambda line: None)
    assert not left.exists()
    assert not (root / "one-music" / "half.flac").exists()


@needs_dpkg
def test_a_failing_package_is_told_and_left_out(debs, tmp_path):
    (debs / "bad-music_1.0_all.deb").write_text("not a package")
    told = []
    root = tmp_path / "corpus"
    tracks = corpus.build(root, ["bad-music", "one-music"], debs, told.append)
    assert len(tracks) == 1
    assert any(line.startswith("bad-music: left out") for line in told)
    with pytest.raises(corpus.CorpusError, match="no music"):
        corpus.build(tmp_path / "other", ["bad-music"], debs, told.append)


def test_splits_are_ninety_five_five_and_follow_the_content():
    hashes = [f"{index * 2654435761 % 2**32:08x}" for index in range(10_000)]
    splits = [corpus.split_of(value) for value in hashes]
    assert splits.count("train") == pytest.approx(9000, abs=50)
    assert splits.count("validation") == pytest.approx(500, abs=50)
    assert corpus.split_of("00000059ff") == "train"  # 0x59 = 89
    assert corpus.split_of("0000005aff") == "validation"
    assert corpus.split_of("0000005fff") == "test"


def track(file, split, package="one-music"):
    return corpus.Track(file, package, "1.0", 60.0, 44_100, 2, "copyright", "00", split)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("music/menu.opus", "albums/menu_enhanced.opus", True),
        ("music/Frantic.ogg", "music/frantic-old.ogg", True),
        ("songs/armygeddon/guitar.ogg", "songs/armygeddon/song.ogg", True),
        ("songs/armygeddon/guitar.ogg", "songs/chaos_god/guitar.ogg", False),
        ("music/track1.ogg", "music/track10.ogg", False),
        ("music/forest.ogg", "music/forest2.ogg", False),
    ],
)
def test_versions_of_a_piece_are_told_by_their_names(one, other, same):
    pieces = [corpus.piece_of(track(file, "train")) for file in (one, other)]
    assert (pieces[0] == pieces[1]) is same


def test_pieces_that_share_a_recording_are_one():
    names = ("launch3chatstart.ogg", "liftoff.ogg", "ocean.ogg")
    pieces = [corpus.piece_of(track(name, "train", "naev-data")) for name in names]
    assert pieces[0] == pieces[1] != pieces[2]


def test_versions_of_a_piece_share_a_split_and_none_moves_into_test():
    tracks = [
        track("a.ogg", "test"), track("a_remix.ogg", "train"),
        track("b.ogg", "test"), track("b_loop.ogg", "validation"),
        track("c.ogg", "test"), track("c_fast.ogg", "test"),
        track("a.ogg", "test", "two-music"),
    ]  # fmt: skip
    together = corpus.keep_pieces_together(tracks)
    assert [t.split for t in together] == [
        "train", "train", "validation", "validation", "test", "test", "test",
    ]  # fmt: skip
    assert [t.file for t in together] == [t.file for t in tracks]


APT = """#!/bin/sh
[ "$1" = download ] || exit 2
touch "half_1.0_all.deb" "$2_1.0_all.deb"
[ "$2" = good ] && exit 0
echo "E: Unable to locate package $2" >&2; exit 100
"""


def test_a_download_counts_only_when_it_is_complete(tmp_path, monkeypatch):
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(APT)
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/usr/bin:/bin")
    debs = tmp_path / "debs"
    assert corpus.fetch("good", debs) == debs / "good_1.0_all.deb"
    with pytest.raises(corpus.CorpusError, match="bad: .*Unable to locate.*apt-get update"):
        corpus.fetch("bad", debs)
    assert [path.name for path in debs.iterdir()] == ["good_1.0_all.deb"]
    apt.unlink()
    assert corpus.fetch("good", debs) == debs / "good_1.0_all.deb"  # kept, not fetched again


def test_a_version_found_later_never_makes_a_track_a_test_track():
    for old in corpus.SPLITS:
        for new in corpus.SPLITS:
            both = corpus.keep_pieces_together([track("a.ogg", old), track("a_old.ogg", new)])
            assert len({t.split for t in both}) == 1
            assert corpus.SPLITS.index(both[0].split) <= corpus.SPLITS.index(old)


def test_music_that_starts_late_is_not_silent(tmp_path):
    audio = np.zeros((44_100 * 20, 2))
    soundfile.write(tmp_path / "silent.flac", audio, 44_100)
    audio[44_100 * 16 :] = 0.01
    soundfile.write(tmp_path / "late.flac", audio, 44_100)
    assert corpus.is_silent(tmp_path / "silent.flac")
    assert not corpus.is_silent(tmp_path / "late.flac")


@needs_dpkg
def test_a_damaged_archive_leaves_its_package_out(tmp_path):
    folder = tmp_path / "debs"

    def damaged(root):
        root.mkdir(parents=True)
        (root / "music.pk3").write_text("not a zip archive")

    make_package(folder, "zip-music", damaged)
    told = []
    with pytest.raises(corpus.CorpusError, match="no music"):
        corpus.build(tmp_path / "corpus", ["zip-music"], folder, told.append)
    assert "zip-music: left out: File is not a zip file" in told


@needs_dpkg
def test_archives_that_would_become_far_larger_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "SLACK_BYTES", 10_000)
    folder = tmp_path / "debs"

    def zipped(root):
        root.mkdir(parents=True)
        with zipfile.ZipFile(root / "music.pk3", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.ogg", bytes(10**7))

    make_package(folder, "zip-music", zipped)
    told = []
    with pytest.raises(corpus.CorpusError, match="no music"):
        corpus.build(tmp_path / "corpus", ["zip-music"], folder, told.append)
    assert "zip-music: left out: music.pk3: would become far larger" in "\n".join(told)
    assert not list((tmp_path / "corpus").rglob("*.ogg"))


@needs_dpkg
def test_the_command_builds_and_reports(debs, tmp_path, capsys):
    words = [str(tmp_path / "corpus"), "--debs", str(debs), "--package"]
    assert corpus.main([*words, "two-music"]) == 0
    assert "two-music: 0.01 h" in capsys.readouterr().out
    assert (tmp_path / "corpus" / "manifest.jsonl").is_file()
    (debs / "bad-music_1.0_all.deb").write_text("not a package")
    assert corpus.main([*words, "bad-music"]) == 1
    assert capsys.readouterr().err == "error: no music found in any package\n"


def test_without_apt_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(corpus.CorpusError, match="apt-get not found"):
        corpus.fetch("some-music", tmp_path)
