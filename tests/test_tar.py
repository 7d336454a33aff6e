"""Tar files are read as far as they are plain and whole; anything else is said, not expanded."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from earvae import tar


def written(path, *members):
    with path.open("wb") as file:
        for name, data in members:
            tar.append(file, name, data)
        tar.end(file)
    return path


def names(path) -> list[str]:
    with path.open("rb") as file:
        found = []
        for member in tar.members(file):
            file.seek(member.offset_data)
            found.append((member.name, file.read(member.size)))
        return found


def special(path, **fields):
    """A tar of one plain member and one with these fields of a TarInfo."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        plain = tarfile.TarInfo("a")
        plain.size = 1
        archive.addfile(plain, io.BytesIO(b"x"))
        odd = tarfile.TarInfo("odd")
        for name, value in fields.items():
            setattr(odd, name, value)
        archive.addfile(odd)
    return path


SPARSE = {
    "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0",
    "GNU.sparse.size": str(10**14), "GNU.sparse.realsize": str(10**14),
}  # fmt: skip


def test_members_are_those_written_and_what_others_write_is_read_too(tmp_path):
    members = [("a.npy", b"1" * 700), ("b.json", b""), ("c" * 90, b"2")]
    assert names(written(tmp_path / "x.tar", *members)) == members
    with tarfile.open(tmp_path / "y.tar", "w") as archive:  # with extended headers, and a folder
        archive.add(tmp_path / "x.tar", "folder/" + "ä" * 120)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    ((name, data),) = names(tmp_path / "y.tar")
    assert name == "folder/" + "ä" * 120 and data == (tmp_path / "x.tar").read_bytes()


@pytest.mark.parametrize("fields", [
    {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    {"type": tarfile.LNKTYPE, "linkname": "a"},
    {"type": tarfile.CHRTYPE}, {"type": tarfile.FIFOTYPE}, {"pax_headers": SPARSE},
    {"size": 10**15},
], ids=str)  # fmt: skip
def test_what_is_no_plain_file_is_refused(tmp_path, fields):
    path = special(tmp_path / "x.tar", **fields)
    with pytest.raises(tarfile.TarError, match="odd is no plain file|cut off"):
        names(path)


def test_a_header_without_end_is_not_read(tmp_path):
    path = special(tmp_path / "x.tar", pax_headers={"comment": "x" * 2 * tar.MOST_HEADER_BYTES})
    with pytest.raises(tarfile.TarError, match="endless"):
        names(path)


def test_compressed_files_are_refused(tmp_path):
    whole = written(tmp_path / "x.tar", ("a", bytes(10**6))).read_bytes()
    (tmp_path / "x.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(tarfile.TarError):
        names(tmp_path / "x.tar")


@pytest.mark.parametrize("place", ["in a header", "between members", "in a member", "at the end"])
def test_a_file_that_is_cut_off_is_never_taken_for_a_shorter_one(tmp_path, place):
    """``tarfile`` alone ends quietly in the first two."""
    path = written(tmp_path / "x.tar", ("a", b"1" * 512), ("b", b"2" * 512))
    cut = {"in a header": 1100, "between members": 1024, "in a member": 1600, "at the end": 2048}
    path.write_bytes(path.read_bytes()[: cut[place]])
    with pytest.raises(tarfile.TarError):
        names(path)


def test_a_damaged_header_and_a_second_tar_are_not_taken_for_the_end(tmp_path):
    path = written(tmp_path / "x.tar", ("a", b"1" * 512), ("b", b"2" * 512))
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    with pytest.raises(tarfile.TarError, match="more follows"):
        names(path)
    path.write_bytes(whole[:1030] + b"?" + whole[1031:])
    with pytest.raises(tarfile.TarError, match="damaged after byte 1024"):
        names(path)
