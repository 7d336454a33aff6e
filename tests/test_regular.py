"""Only regular files are opened, and nothing waits."""

import os
import socket
import time
from pathlib import Path

import pytest

from earvae.regular import ReadError, check_regular, open_regular, read_regular


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("ä", encoding="utf-8")
    (tmp_path / "link.json").symlink_to("a.json")
    for name in ("a.json", "link.json"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == "ä".encode()
        with open_regular(tmp_path / name, "r", encoding="utf-8") as file:
            assert file.read() == "ä"
        assert check_regular(tmp_path / name).st_size == 2


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "link", "missing", "loop"])
def test_anything_else_is_refused_at_once_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "x.wav"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        socket.socket(socket.AF_UNIX).bind("x.wav")
    elif kind == "folder":
        path.mkdir()
    elif kind in ("device", "link", "loop"):
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to({"device": "/dev/zero", "link": "pipe", "loop": "x.wav"}[kind])
    words = {
        "folder": "is a folder", "missing": "no such file", "loop": "cannot be read",
    }  # fmt: skip
    began = time.monotonic()
    for read in (open_regular, check_regular, lambda path: read_regular(path, 9)):
        with pytest.raises(ReadError, match=f"x.wav: {words.get(kind, 'is a pipe, device')}"):
            read(path)
    assert time.monotonic() - began < 5


def test_a_file_that_becomes_a_pipe_between_looking_and_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(b"a")
    os.mkfifo(tmp_path / "pipe")
    before = (tmp_path / "a.wav").stat()
    (tmp_path / "pipe").rename(tmp_path / "a.wav")
    monkeypatch.setattr(os, "stat", lambda path: before)
    with pytest.raises(ReadError, match="a.wav: is a pipe"):
        open_regular(tmp_path / "a.wav")


def test_no_more_is_read_than_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_regular(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ReadError, match="a: has more than 4 bytes"):
        read_regular(tmp_path / "a", 4)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("a\0b", "\ud800", "x" * 300):
        with pytest.raises(ReadError, match="cannot be read|no such"):
            open_regular(tmp_path / name)


def test_nothing_is_opened_for_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for reading"):
        open_regular(tmp_path / "a", "w")
    assert not (tmp_path / "a").exists()
