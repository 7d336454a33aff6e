"""One bad entry among good ones fails alone, by a name that no terminal obeys, in every verb."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from earvae import files
from earvae.cli.batch import print_rows

LONG = "é" * 125 + "x.wav"  # 255 bytes, all that file systems take: outputs need more


def bad_folder(folder: Path, music) -> Path:
    """Two good files, one of them with all odd things that a name can have, and bad ones."""
    music(folder / "a.wav", samples=3000)
    os.link(folder / "a.wav", folder / LONG)
    os.link(folder / "a.wav", os.fsencode(folder) + b"/caf\xe9\x1b[31m\n[b].wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(folder / "pipe.wav")
    (folder / "noise.wav").write_bytes(b"RIFF\xff\xff\xff\xffWAVE")
    return folder


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "library", "pack"])
def test_a_bad_entry_fails_alone(tmp_path, earvae, music, verb):
    folder = bad_folder(tmp_path / "music", music)
    result = earvae(verb, folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 3, result.stderr
    assert all(
        any(name in line for line in lines) for name in ("loop.wav", "pipe.wav", "noise.wav")
    )
    assert "\x1b" not in result.stdout + result.stderr
    if verb == "pack":
        assert len(json.loads((tmp_path / "out" / "index.json").read_text())["sources"]) == 3
    else:
        suffix = ".wav" if verb == "reconstruct" else ".safetensors"
        assert len(list((tmp_path / "out").glob(f"*{suffix}"))) == 3


def test_names_of_a_table_are_shown_and_not_obeyed(capsys):
    print_rows(["written", "[b]"], [["[/x]\x1b[2J\n.wav", "[red]1"]], "[/]")
    text = capsys.readouterr().out
    assert "[/x]\\x1b[2J\\x0a.wav" in text and "[red]1" in text and "[/]" in text


def test_a_defect_met_in_a_file_is_a_line_and_the_next_is_done(
    tmp_path, earvae, music, monkeypatch
):
    for name in "ab":
        music(tmp_path / "music" / f"{name}.wav", samples=3000)
    real = files.reconstruct_file

    def faulty(vae, source, *arguments, **how):
        if source.name == "a.wav":
            raise KeyError("nobody thought of it")
        return real(vae, source, *arguments, **how)

    monkeypatch.setattr(files, "reconstruct_file", faulty)
    with pytest.raises(AssertionError, match=r"a\.wav: KeyError: .* \(a fault in earvae"):
        earvae("reconstruct", tmp_path / "music", "-o", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["b.wav"]


def test_a_name_that_is_taken_by_a_folder_fails_alone(tmp_path, earvae, music):
    music(tmp_path / "music" / "a" / "x.wav", samples=3000)
    music(tmp_path / "music" / "b.wav", samples=3000)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("a file where a folder is needed")
    result = earvae("library", tmp_path / "music", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "out/a" in result.stderr
    assert (tmp_path / "out" / "b.safetensors").exists()
    assert "1 entries of 2 files" in result.stdout


def test_a_manifest_with_bad_lines_is_encoded_but_for_these(tmp_path, earvae, music):
    music(tmp_path / "a.wav", samples=3000)
    lines = [
        b'{"file": "a.wav", "title": "x\xe2\x80\xa8y"}',
        b"[" * 9999,
        b"\xff",
        b'{"file": "."}',
    ]
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    result = earvae("library", tmp_path / "m.jsonl", "-o", tmp_path / "out")
    assert result.exit_code == 1 and result.stderr.count("error: ") == 3
    assert (tmp_path / "out" / "a.safetensors").exists()


def test_music_a_thousand_folders_deep_is_encoded(tmp_path, earvae, music):
    music(tmp_path / "in" / "a.wav", samples=3000)
    place = os.open(tmp_path / "in", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.link(tmp_path / "in" / "a.wav", "deep.wav", dst_dir_fd=place)
    os.close(place)
    result = earvae("library", tmp_path / "in", "-o", tmp_path / "out")
    subprocess.run(["rm", "-r", tmp_path / "in", tmp_path / "out"], check=True)  # pytest recurses
    assert result.exit_code == 0 and "2 entries of 2 files" in result.stdout


def test_a_defect_met_while_music_is_packed_leaves_out_one_file(
    tmp_path, earvae, music, monkeypatch
):
    from earvae.training import tar_write

    for name in "ab":
        music(tmp_path / "music" / f"{name}.wav", samples=3000)
    real = tar_write.AudioSource

    def faulty(path):
        if path.name == "a.wav":
            raise KeyError("nobody thought of it")
        return real(path)

    monkeypatch.setattr(tar_write, "AudioSource", faulty)
    with pytest.raises(AssertionError, match=r"a\.wav: KeyError: .* \(a fault in earvae"):
        earvae("pack", tmp_path / "music", "-o", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [source["path"] for source in index["sources"]] == ["b.wav"]
