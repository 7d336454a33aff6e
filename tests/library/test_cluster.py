"""A library on a small Ray cluster of this machine: the bytes of a local run, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from earvae import tracks
from earvae.cli.library import with_address
from earvae.library import cluster, distributed, stages
from earvae.library.encode import encode_library
from earvae.library.items import Library, LibraryError
from earvae.library.ranks import Rank
from tests.library.small import contents, geometry_of, settings_of, small_model, write_music


@pytest.fixture(scope="module")
def local():
    """One cluster for all: it takes seconds to start."""
    pytest.importorskip("ray")
    if os.name != "posix":
        pytest.skip("processes are found in /proc, and killed")
    with cluster.connected("local"):
        yield


def workers(stage: str) -> list[int]:
    """Processes of a stage's actors, of the cluster that this process started."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = place.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if title.startswith("ray::") and stage in title and _ours(int(place.parts[2])):
            found.append(int(place.parts[2]))
    return found


def _ours(pid: int) -> bool:
    """Whether a process descends from this one."""
    while pid > 1 and pid != os.getpid():
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(status.rpartition(")")[2].split()[1])
    return pid == os.getpid()


@pytest.mark.long
def test_a_cluster_gives_the_bytes_of_a_local_run_though_a_worker_is_killed(
    tmp_path, local, monkeypatch
):
    """And goes on where a local run has stopped."""
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(80):
        write_music(source / f"{number:02d}.wav", 4410 if number % 3 else 3000 + number, number)
    write_music(source / "long.flac", 60_000, 99)
    (source / "bad.flac").write_bytes(b"fLaC and no more")
    vae = small_model()
    settings = settings_of(vae, shard_items=16, store="sample", seed=3)
    library = Library(tracks.find([source], out).files, 16)
    geometry = geometry_of(vae)
    expected = encode_library(vae, library, tmp_path / "one", settings, geometry)
    encode_library(vae, library, out, settings, geometry, Rank(0, 3))

    killed = []

    def kill_one(_files: int) -> None:
        if not killed and (found := workers("Encoding")):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])

    monkeypatch.setattr(distributed, "LONGEST_SENT", 0.1)  # the long one is read by the encoder
    result = distributed.encode_on_cluster(
        vae, cluster.Workers("cpu", threads=1), library, out, settings, geometry, progress=kill_one
    )
    assert killed
    assert contents(out) == contents(tmp_path / "one")
    assert result.counts == expected.counts and result.counts["failed"] == 1
    assert result.summary.failures == expected.summary.failures
    assert (result.summary.files, result.summary.skipped) == (82, 32)
    assert result.summary.encoded == 49 and result.summary.compute_seconds > 0
    assert not list((out / ".earvae" / "staging").iterdir())
    assert not list((out / ".earvae").glob("parts/*"))


@pytest.fixture
def job(tmp_path, vae) -> stages.Job:
    (tmp_path / "library.json").write_text("{}")
    return stages.Job(
        vae.config, settings_of(vae), geometry_of(vae), tmp_path, None,
        cluster.Workers("cpu", threads=1), os.getcwd(), str(tmp_path), 1000,
    )  # fmt: skip


@pytest.mark.parametrize("unseen", ["music", "folder"])
def test_a_node_that_does_not_see_the_disk_ends_the_run_with_a_line(job, tmp_path, unseen):
    pytest.importorskip("ray")
    place = tmp_path / "elsewhere"
    reading = stages.Reading(replace(job, **{unseen: type(getattr(job, unseen))(place)}))
    with pytest.raises(LibraryError, match="elsewhere.* is not to be seen from .*same paths"):
        list(distributed._things(Rows([reading(stages.row_of("a part"))])))


def test_a_fault_of_a_worker_ends_the_run_with_a_line(job):
    """Later stages hand it on."""
    pytest.importorskip("ray")
    row = stages.Reading(job)(stages.row_of("no part"))
    row = stages.Writing(job)(row)
    with pytest.raises(LibraryError, match="a worker on .*AttributeError.*fault in earvae"):
        list(distributed._things(Rows([row])))


def test_an_encoder_of_another_engine_is_refused(job, vae, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.get", lambda vae: vae)
    job = replace(job, settings=replace(job.settings, precision="bf16"))
    broken = stages.of_row(stages.Encoding(job, vae)(stages.row_of(None)))
    assert "has the engine plain in fp32, and the others plain in bf16" in broken.line


class Rows(list):
    """A data set, as far as it is asked here."""

    def iter_rows(self):
        return iter(self)


def test_without_ray_a_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LibraryError, match=r"pip install 'earvae\[ray\]'"):
        with cluster.connected():
            pass


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://head:10001", "give HOST:PORT of its head"),
        ("127.0.0.1:1", "nobody answers there .Connection refused.; `ray status`"),
        ("127.0.0.1:100000", "nobody answers there"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, reason, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(LibraryError, match=f"--ray {address}: .*{reason}"):
        with cluster.connected(address):
            pass


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("in --ray -o out", "in --ray auto -o out"),
        ("in -o out --ray", "in -o out --ray auto"),
        ("--ray in -o out", "--ray auto in -o out"),
        ("in --ray local -o out", "in --ray local -o out"),
        ("in --ray head:6379 -o out", "in --ray head:6379 -o out"),
        ("in --ray=head:6379 -o out", "in --ray=head:6379 -o out"),
        ("-o out -- --ray", "-o out -- --ray"),
    ],
)
def test_ray_needs_no_address(given, read):
    assert " ".join(with_address(given.split())) == read
