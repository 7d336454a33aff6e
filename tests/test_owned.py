"""A list of what is ours decides what may be replaced and removed."""

import subprocess
import sys
from pathlib import Path

import pytest

from earvae.errors import WriteError
from earvae.owned import PACK, Owned, listed


def test_what_is_claimed_is_ours_for_good(tmp_path: Path) -> None:
    Owned(tmp_path / "new", PACK).claim("a.tar", "b.tar")
    (tmp_path / "new" / "a.tar").touch()
    again = Owned(tmp_path / "new", PACK)
    again.claim("a.tar", "c.tar")
    again.remove("a.tar")
    assert (tmp_path / "new" / PACK).read_text() == "a.tar\nb.tar\nc.tar\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == [PACK]


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_others_hold_is_refused_by_name_and_nothing_is_claimed(
    tmp_path: Path, kind: str
) -> None:
    theirs = tmp_path / "b.tar"
    if kind == "file":
        theirs.touch()
    elif kind == "folder":
        theirs.mkdir()
        (theirs / "thesis.txt").touch()
    else:
        theirs.symlink_to("nowhere")
    owned = Owned(tmp_path, PACK)
    with pytest.raises(WriteError, match="b.tar: is there already"):
        owned.claim("a.tar", "b.tar")
    owned.remove("b.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]


def test_an_empty_folder_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Owned(tmp_path, PACK).claim("a")


def test_results_from_before_there_were_lists_are_ours_too(tmp_path: Path) -> None:
    (tmp_path / "old.tar").touch()
    Owned(tmp_path, PACK, before=["old.tar"]).claim("old.tar", "new.tar")
    assert listed(tmp_path / PACK) == {"old.tar", "new.tar"}
    (tmp_path / "theirs.tar").touch()
    with pytest.raises(WriteError, match="theirs"):  # what older results say counts no more
        Owned(tmp_path, PACK, before=["theirs.tar"]).claim("theirs.tar")


def test_a_list_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / PACK).write_text(f"../precious\n..\n{tmp_path}/precious\n\na.tar\n")
    owned = Owned(tmp_path / "out", PACK)
    for name in ("../precious", str(tmp_path / "precious")):
        owned.remove(name)
    assert owned.names - {""} == {"a.tar"} and (tmp_path / "precious").exists()


def test_another_process_may_have_claimed_it(tmp_path: Path) -> None:
    early = Owned(tmp_path, PACK)
    Owned(tmp_path, PACK).claim("a.tar")
    (tmp_path / "a.tar").touch()
    early.claim("a.tar")
    assert (tmp_path / PACK).read_text() == "a.tar\n"


def test_the_second_of_two_waits_and_says_so(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom earvae.owned import PACK, Owned\n"
        "with Owned(pathlib.Path(sys.argv[1]), PACK).alone(print):\n"
        "    print('in', flush=True); sys.stdin.read(1)\n"
    )
    command = [sys.executable, "-uc", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == "in\n"
        with subprocess.Popen(command, **pipes) as second:
            assert "waiting" in second.stdout.readline()
            first.communicate("x")
            assert second.stdout.readline() == "in\n"
            second.communicate("x")
    assert (first.returncode, second.returncode) == (0, 0)
