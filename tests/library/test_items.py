"""The order of a library, and the names of its outputs."""

from __future__ import annotations

import json
import os
import sys

import pytest

from earvae.library.items import Library, LibraryError, find, spoken


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_folders_are_searched_in_the_order_of_names(tmp_path):
    touch(
        tmp_path, "b/2.wav", "b/1.flac", "a/z.mp3", "top.ogg", "text.txt", ".hidden.wav", ".h/x.wav"
    )
    touch(tmp_path, "out/shard.wav")
    library = find([tmp_path], tmp_path / "out")
    assert [item.name for item in library] == ["top.ogg", "a/z.mp3", "b/1.flac", "b/2.wav"]
    assert [item.key for item in library] == ["top", "a/z", "b/1", "b/2"]
    assert [item.index for item in library] == [0, 1, 2, 3]
    assert all(os.path.isfile(item.path) for item in library) and library.problems == []


def test_a_manifest_keeps_its_order_and_names_files_relative_to_itself(tmp_path):
    lines = [{"file": "b/2.wav", "split": "train"}, {"file": "../else/1.wav", "split": "test"},
             {"file": str(tmp_path / "music" / "a.wav"), "split": "train"}]  # fmt: skip
    manifest = tmp_path / "music" / "list.jsonl"
    manifest.parent.mkdir()
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    library = find([manifest], tmp_path / "out")
    assert [item.name for item in library] == ["b/2.wav", "../else/1.wav", "a.wav"]
    assert [item.key for item in library] == ["b/2", "else/1", "a"]  # all inside OUT
    assert os.path.normpath(library[1].path) == str(tmp_path / "else" / "1.wav")
    assert [i.name for i in find([manifest], tmp_path / "out", "train")] == ["b/2.wav", "a.wav"]


def test_files_that_differ_in_their_suffix_keep_it_in_the_output():
    names = ["a.wav", "a.flac", "b.wav", "x/A.wav", "x/a.wav", "c.tar.wav", "library.wav"]
    library = Library([(name, name) for name in names if name != "x/a.wav"])
    assert [item.key for item in library] == [
        "a.wav", "a.flac", "b", "x/A", "c.tar", "library.wav"
    ]  # fmt: skip
    with pytest.raises(LibraryError, match="x/A.wav and x/a.wav would have the same output"):
        Library([(name, name) for name in names])  # on file systems that ignore case


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda path: None, "no such file, folder or manifest"),
        (lambda path: path.write_text('{"file": "a.wav"}\n["b.wav"]\n'), "line 2 is not a JSON"),
        (lambda path: path.write_text('{"file": "a.wav"}\n{"file": "./a.wav"}\n'), "listed twice"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_a_bad_manifest_is_one_line(tmp_path, make, message):
    path = tmp_path / "list.jsonl"
    make(path)
    with pytest.raises(LibraryError, match=message) as caught:
        find([path], tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_an_input_without_audio_is_a_problem_and_not_an_end(tmp_path):
    touch(tmp_path, "a/1.wav", "b/text.txt")
    library = find([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert len(library) == 1 and library.problems == [f"{tmp_path / 'b'}: holds no audio files"]


@pytest.mark.skipif(sys.platform != "linux", reason="names elsewhere are Unicode")
def test_names_that_are_not_unicode_can_be_written_down(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.wav", "wb"):
        pass
    (item,) = find([tmp_path], tmp_path / "out")
    assert spoken(item.name) == "caf\\xe9.wav" and os.path.isfile(item.path)
