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
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyError), atomic.folder(target) as temporary:
        (temporary / "half").touch()
        raise KeyError
    assert left(target) == ["old"] and left(tmp_path) == ["report"]
    with atomic.folder(target) as temporary:
        (temporary / "new").touch()
    assert left(target) == ["new"] and left(tmp_path) == ["report"]


@pytest.mark.parametrize(
    "write", [lambda p: atomic.write(p, b""), lambda p: atomic.files(p).__enter__()]
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/below"):
        write(tmp_path / "file" / "below")


def test_a_name_that_is_too_long_is_a_line(tmp_path):
    with pytest.raises(WriteError, match="cannot be written"):
        atomic.write(tmp_path / ("x" * 300), "")
    assert left(tmp_path) == []


def test_longest_names_can_be_written(tmp_path):
    atomic.write(tmp_path / ("x" * 255), "whole")
    assert left(tmp_path) == ["x" * 255]


def test_staging_removes_what_a_killed_process_left_and_nothing_of_others(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom earvae import atomic\n"
        "place = atomic.Staging(pathlib.Path(sys.argv[1]) / 'staging')\n"
        "with place.file(pathlib.Path(sys.argv[1]) / 'a') as file:\n"
        "    print(flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    (tmp_path / "staging" / "notes.txt").touch()
    (tmp_path / "staging" / "other-host-1-ab").mkdir()
    assert len(left(tmp_path / "staging")) == 3
    place = atomic.Staging(tmp_path / "staging")
    assert left(tmp_path / "staging") == ["notes.txt", "other-host-1-ab"]
    place.write(tmp_path / "a", "whole")
    place.close()
    assert (tmp_path / "a").read_text() == "whole"
    assert left(tmp_path / "staging") == ["notes.txt", "other-host-1-ab"]
