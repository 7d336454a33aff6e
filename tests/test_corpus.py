"""The corpus builder, on small packages made here."""

import json
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile

from earvae import corpus
from earvae.training.data import list_tracks

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def music(path, seconds=21, rate=44_100, channels=2, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal((seconds * rate, channels))
    soundfile.write(path, 0.1 * noise, rate)


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
        ["dpkg-deb", "--build", tree, folder / f"{name}_1.0_all.deb"],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def debs(tmp_path):
    folder = tmp_path / "debs"
    folder.mkdir()

    def one(root):
        music(root / "music" / "a.flac", seed=1)
        music(root / "music" / "copy_of_a.flac", seed=1)
        music(root / "sounds" / "short.flac", seconds=2, seed=2)
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
                   "shorter than 20 s: 1", "unreadable: 1"):  # fmt: skip
        assert reason in report
    lines = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    assert {line["package"] for line in lines} == {"one-music", "two-music"}
    for line in lines:
        assert (root / line["file"]).is_file()
        assert (root / line["licence"]).read_text() == "CC0"
        assert line["duration"] == 21 and line["rate"] == 44_100 and line["channels"] == 2
        assert line["split"] == corpus.split_of(line["sha256"])
    assert len(list_tracks(root / "manifest.jsonl")[0]) == 2
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
    left = root / ".one-music.unfinished"
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


def test_without_apt_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(corpus.CorpusError, match="apt-get not found"):
        corpus.fetch("some-music", tmp_path)
