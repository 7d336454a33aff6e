"""``earvae pack``: from a folder or a manifest to something to train on."""

import json

import pytest

from earvae.config import DataConfig
from earvae.training.crops import CropDataset


@pytest.fixture
def album(tmp_path, music):
    for name in ("one.wav", "two.flac", "three.wav"):
        music(tmp_path / "album" / name)
    return tmp_path / "album"


def test_a_folder_becomes_shards_to_train_on(album, tmp_path, earvae):
    result = earvae("pack", album, "-o", tmp_path / "out", "--segment-seconds", "1")
    assert result.exit_code == 0
    assert "3 tracks" in result.stdout and "1 shards" in result.stdout
    index = tmp_path / "out" / "index.json"
    assert str(index) in result.stdout
    data = CropDataset(DataConfig(sources=[{"tracks": str(index)}], crop_samples=4000), 44_100)
    assert len(data.tracks) == 3 and data[0]["audio"].abs().max() > 0.1


def test_only_the_split_of_a_manifest_is_packed(album, tmp_path, earvae):
    lines = [
        {"file": "one.wav", "split": "train"},
        {"file": "two.flac", "split": "test"},
    ]
    manifest = album / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert earvae("pack", manifest, "-o", tmp_path / "out", "--split", "test").exit_code == 0
    sources = json.loads((tmp_path / "out" / "index.json").read_text())["sources"]
    assert [source["path"] for source in sources] == ["two.flac"]


def test_files_that_cannot_be_read_are_listed_at_the_end(album, tmp_path, earvae):
    (album / "text.wav").write_text("this is not audio")
    flac = (album / "two.flac").read_bytes()
    (album / "two.flac").write_bytes(flac[: len(flac) // 2])
    result = earvae("pack", album, "-o", tmp_path / "out")
    assert result.exit_code == 1
    summary = result.stderr.splitlines()
    assert summary[0] == "2 done, 2 failed:"
    assert "text.wav" in summary[1] and "two.flac" in summary[2]
    sources = json.loads((tmp_path / "out" / "index.json").read_text())["sources"]
    assert [source["path"] for source in sources] == ["one.wav", "three.wav"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "no such file, folder or manifest"), ("index.json", "is packed already")],
)
def test_an_input_that_cannot_be_packed_is_one_line(tmp_path, earvae, name, message):
    result = earvae("pack", tmp_path / name, "-o", tmp_path / "out")
    assert result.exit_code == (2 if name.endswith("json") else 1) and message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_place_that_cannot_be_written_is_one_line(album, tmp_path, earvae):
    (tmp_path / "file").touch()
    result = earvae("pack", album, "-o", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1 and "file" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--excerpts", "2"],
        ["--megabytes", "2"],
        ["--codec", "flac"],
        ["--excerpts", "2", "--megabytes", "2", "--shard-mb", "10"],
        ["--excerpts", "2", "--megabytes", "2", "--segment-seconds", "10"],
    ],
)
def test_an_option_that_would_do_nothing_is_an_error(album, tmp_path, earvae, options):
    result = earvae("pack", album, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_pack_itself_is_not_packed_again(album, tmp_path, earvae):
    for _ in range(2):
        assert earvae("pack", album, "-o", album / "out").exit_code == 0
    assert len(json.loads((album / "out" / "index.json").read_text())["sources"]) == 3


@pytest.mark.parametrize(("verb", "instead"), [("shards", "earvae pack"), ("corpus", "corpus.py")])
def test_verbs_of_earlier_versions_name_what_to_use(earvae, verb, instead):
    result = earvae(verb, "music", "-o", "out", "--split", "train")
    assert result.exit_code == 2 and instead in result.stderr
    assert len(result.stderr.splitlines()) == 1
