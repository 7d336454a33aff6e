"""Whole or not at all: what is on the disk after success, failure and a kill."""

import os
import signal
import subprocess
import sys

import pytest

from earvae import atomic
from earvae.errors import WriteError


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic.file(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and left(target.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic.file(target) as temporary:
        temporary.write_text("ha")
        raise KeyError
    assert target.read_text() == "old" and left(tmp_path) == ["a.txt"]


def test_several_files_replace_their_namesakes_only(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "c").write_text("theirs")
    with atomic.files(tmp_path) as temporary:
        (temporary / "a").write_text("new")
        (temporary / "b").write_text("new")
    assert left(tmp_path) == ["a", "b", "c"]
    assert (tmp_path / "a").read_text() == "new" and (tmp_path / "c").read_text() == "theirs"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "report"
    with atomic.folder(target) as temporary:
        (temporary / "old").touch()
    with pytest.raises(KeyError), atomic.folder(target) as temporary:
        (temporary / "half").touch()
        raise KeyError
    assert left(target) == [atomic.CONTENTS, "old"] and left(tmp_path) == ["report"]
    with atomic.folder(target) as temporary:
        (temporary / "media").mkdir()
        (temporary / "media" / "new").touch()
    assert left(target) == [atomic.CONTENTS, "media"] and left(tmp_path) == ["report"]
    assert (target / atomic.CONTENTS).read_text() == "media/new\n"


@pytest.mark.parametrize("what", ["their folder", "added to ours", "file", "link"])
def test_a_folder_that_holds_anything_of_others_is_never_replaced(tmp_path, what):
    target, theirs = tmp_path / "report", tmp_path / "theirs"
    theirs.mkdir()
    if what == "their folder":
        target.mkdir()
        (target / "thesis.txt").touch()
    elif what == "added to ours":
        with atomic.folder(target) as temporary:
            (temporary / "index.html").touch()
        (target / "media").mkdir()
        (target / "media" / "thesis.txt").touch()
    elif what == "file":
        target.touch()
    else:
        target.symlink_to(theirs)
    before = sorted(tmp_path.glob("**/*"))
    with pytest.raises(WriteError, match="was not written by earvae"):
        with atomic.folder(target):
            pytest.fail("it must be refused before anything is made")
    assert sorted(tmp_path.glob("**/*")) == before


def test_what_appears_in_a_folder_while_it_is_made_anew_stays(tmp_path):
    target = tmp_path / "report"
    with pytest.raises(WriteError, match="late.txt"), atomic.folder(target):
        target.mkdir()
        (target / "late.txt").touch()
    assert left(target) == ["late.txt"] and left(tmp_path) == ["report"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_are_as_open_as_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        atomic.write(tmp_path / "a", "")
        with atomic.files(tmp_path) as temporary:
            (temporary / "b").touch(0o600)  # as libraries do
        with atomic.folder(tmp_path / "c") as temporary:
            (temporary / "d").touch()
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b", "c", "c/d")]
    assert modes == [0o666 & ~umask, 0o666 & ~umask, 0o777 & ~umask, 0o666 & ~umask]


@pytest.mark.parametrize(
    "write", [lambda p: atomic.write(p, b""), lambda p: atomic.files(p).__enter__()]
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/below"):
        write(tmp_path / "file" / "below")


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe", "link to a folder"])
@pytest.mark.parametrize("way", ["file", "files"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind, way):
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "p")
    target = tmp_path / {"pipe": "p", "folder": "d"}.get(kind, "a")
    if kind.startswith("link"):
        target.symlink_to("p" if kind.endswith("pipe") else "d")
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    with pytest.raises(WriteError, match=f"{target.name}: is a .*name another"):
        if way == "file":
            atomic.write(target, "text")
        else:
            with atomic.files(tmp_path) as temporary:
                (temporary / target.name).touch()
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before


def test_a_working_folder_that_is_gone_is_a_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(WriteError, match="b: cannot be written"):
        atomic.write("a/b", "text")
    monkeypatch.chdir(tmp_path)


def test_a_name_that_is_too_long_is_a_line(tmp_path):
    with pytest.raises(WriteError, match="cannot be written"):
        atomic.write(tmp_path / ("x" * 300), "")
    assert left(tmp_path) == []


def test_longest_names_can_be_written(tmp_path):
    atomic.write(tmp_path / ("x" * 255), "whole")
    assert left(tmp_path) == ["x" * 255]


def begun(tmp_path, what):
    """A process that has begun to write and goes on until it is killed."""
    code = (
        "import sys, time, pathlib\nfrom earvae import atomic\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        f"with {what} as place:\n    print(flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    child.stdout.readline()
    return child


WAYS = ["atomic.file(folder / 'a')", "atomic.files(folder)", "atomic.folder(folder / 'a')"]


@pytest.mark.parametrize("what", WAYS)
def test_what_a_killed_process_left_is_swept_and_what_is_being_written_stays(tmp_path, what):
    child = begun(tmp_path, what)
    (partial,) = left(tmp_path)
    atomic.sweep(tmp_path)
    assert left(tmp_path) == [partial]
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    (tmp_path / ".earvae-notes.txt").touch()  # others' hidden files
    (tmp_path / ".earvae-link.partial").symlink_to(tmp_path / "precious")
    atomic.write(tmp_path / "b", "whole")  # the first writing there sweeps
    assert left(tmp_path) == [".earvae-link.partial", ".earvae-notes.txt", "b"]


def test_staging_removes_what_a_killed_process_left_and_nothing_that_is_in_use(tmp_path):
    staging = "atomic.Staging(folder / 'staging').file(folder / 'a')"
    killed, alive = begun(tmp_path, staging), begun(tmp_path, staging)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (tmp_path / "staging" / "notes.txt").touch()
    (tmp_path / "staging" / "host-1-ab").mkdir()  # of an earlier version
    assert len(left(tmp_path / "staging")) == 4
    place = atomic.Staging(tmp_path / "staging")
    assert len(left(tmp_path / "staging")) == 2
    place.write(tmp_path / "a", "whole")
    place.close()
    os.kill(alive.pid, signal.SIGKILL)
    alive.wait()
    atomic.Staging(tmp_path / "staging").close()
    assert (tmp_path / "a").read_text() == "whole" and left(tmp_path / "staging") == ["notes.txt"]
