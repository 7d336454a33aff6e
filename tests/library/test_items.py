"""The order of a library, and the names of its outputs."""

from __future__ import annotations

import json
import os

import pytest

from earvae.library.items import Library, LibraryError
from earvae.tracks import MusicFile, find


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def items(library):
    return [item for number in range(library.blocks) for item in library.block(number).items]


def test_items_keep_the_order_in_which_music_is_found(tmp_path):
    touch(tmp_path, "b/2.wav", "b/1.flac", "a/z.mp3", "top.ogg", "text.txt", "out/shard.wav")
    library = Library(find([tmp_path], tmp_path / "out").files, block_files=3)
    assert [len(library.block(number).items) for number in range(library.blocks)] == [3, 1]
    assert [item.name for item in items(library)] == ["top.ogg", "a/z.mp3", "b/1.flac", "b/2.wav"]
    assert [item.key for item in items(library)] == ["top", "a/z", "b/1", "b/2"]
    assert [item.index for item in items(library)] == [0, 1, 2, 3]
    assert all(os.path.isfile(item.path) for item in items(library))


def test_a_manifest_keeps_its_order_and_all_outputs_are_inside_out(tmp_path):
    lines = [{"file": "b/2.wav", "split": "train"}, {"file": "../else/1.wav", "split": "test"},
             {"file": str(tmp_path / "music" / "a.wav"), "split": "train"}]  # fmt: skip
    manifest = tmp_path / "music" / "list.jsonl"
    manifest.parent.mkdir()
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    library = Library(find([manifest]).files)
    assert [item.name for item in items(library)] == ["b/2.wav", "../else/1.wav", "a.wav"]
    assert [item.key for item in items(library)] == ["b/2", "else/1", "a"]
    assert os.path.normpath(library.block(0).items[1].path) == str(tmp_path / "else" / "1.wav")


def test_files_that_differ_in_their_suffix_keep_it_in_the_output():
    names = ["a.wav", "a.flac", "b.wav", "x/A.wav", "x/a.wav", "c.tar.wav", "library.wav"]
    files = [MusicFile(name, name) for name in names]
    library = Library([file for file in files if file.name != "x/a.wav"])
    assert [item.key for item in items(library)] == [
        "a.wav", "a.flac", "b", "x/A", "c.tar", "library.wav"
    ]  # fmt: skip
    with pytest.raises(LibraryError, match="x/A.wav and x/a.wav would have the same output"):
        Library(files)  # on file systems that ignore case


def test_a_file_that_is_listed_twice_is_refused(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"file": "a.wav"}\n{"file": "./a.wav"}\n')
    with pytest.raises(LibraryError, match="a.wav: is listed twice"):
        Library(find([tmp_path / "list.jsonl"]).files)


def test_outputs_stay_out_of_our_own_folder_and_have_names_that_fit():
    names = [".earvae/blocks/000000.wav", ".EARVAE/x.wav", "a/.earvae/y.wav", "é" * 124 + ".wav"]
    keys = [item.key for item in items(Library([MusicFile(name, name) for name in names]))]
    assert keys[:3] == ["_.earvae/blocks/000000", "_.EARVAE/x", "a/.earvae/y"]
    assert len(f"{keys[3]}-0000.safetensors".encode()) <= 255
