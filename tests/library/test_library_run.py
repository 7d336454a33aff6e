"""Encoding a library: the same latents as one file at a time, and the same bytes however often it
was stopped and over however many ranks."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from earvae import codec, tar, tracks
from earvae.audio import read_audio
from earvae.errors import WriteError
from earvae.files import encode_file
from earvae.library.encode import encode_library
from earvae.library.items import Library, LibraryError
from earvae.library.ranks import Rank
from earvae.library.reader import Reader
from tests.library.small import (
    HOP,
    contents,
    geometry_of,
    settings_of,
    small_model,
    write_music,
)
from tests.small import golden


def index_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------ exact


@pytest.mark.parametrize("geometry", [
    {"padding": 0.0}, {"padding": 5.0}, {"budget": 1}, {"budget": 100_000, "padding": 1.0},
    {"longest": 11}, {"longest": 60, "budget": 200},
], ids=str)  # fmt: skip
def test_latents_do_not_depend_on_the_company_of_a_file(tmp_path, vae, music, encode, geometry):
    """Whatever the batches and windows: what `earvae encode` gives for the file alone."""
    encode(music, tmp_path / "out", geometry=geometry_of(vae, **geometry))
    files = sorted(path for path in music.rglob("*") if path.is_file())
    assert len(files) == 20
    for path in files:
        below = path.relative_to(music).with_suffix(".safetensors")
        encode_file(vae, path, tmp_path / "one.safetensors")
        expected = load_file(tmp_path / "one.safetensors")["latents"]
        found = load_file(tmp_path / "out" / below)["latents"]
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-5, below


@pytest.mark.parametrize("name", ["tiny44k", "tiny48k", "tiny_earvae2_base"])
def test_latents_of_the_papers_architectures_are_exact_too(tmp_path, encode, name):
    """Zeros beyond the end of a file are not what its last convolutions see."""
    vae = golden(name)
    source = tmp_path / "in"
    lengths = [80_000, 90_000, 100_001, 44_100, 150_000]
    for number, samples in enumerate(lengths):
        write_music(source / f"{number}.wav", samples, number, vae.sample_rate)
    context = vae.encoder.context_frames
    for case, longest in enumerate((2 * context + 40, 2 * context + 200)):
        geometry = geometry_of(vae, budget=1000, longest=longest, context=context, padding=0.5)
        encode(source, tmp_path / str(case), vae, geometry)
        for number in range(len(lengths)):
            audio = read_audio(source / f"{number}.wav", vae.sample_rate)[None]
            expected = codec.encode(vae, audio).mean[0]
            found = load_file(tmp_path / str(case) / f"{number}.safetensors")["latents"]
            assert found.shape == expected.shape and (found - expected).abs().max() < 1e-4


def test_a_file_of_another_length_than_its_header_says_is_encoded_whole(
    tmp_path, music, encode, monkeypatch
):
    encode(music, tmp_path / "right")
    true = Reader.length

    def wrong(self, item):
        frames = true(self, item)
        return {0: 3, 1: 500, 2: None}.get(item.index, frames)

    monkeypatch.setattr(Reader, "length", wrong)
    result = encode(music, tmp_path / "out")
    assert (result.summary.encoded, result.summary.skipped) == (20, 0)
    for path in (tmp_path / "right").rglob("*.safetensors"):
        found = load_file(tmp_path / "out" / path.relative_to(tmp_path / "right"))["latents"]
        assert torch.allclose(found, load_file(path)["latents"], atol=1e-5)


# ------------------------------------------------------------------------------ what is stored


def test_metadata_tell_where_latents_come_from(tmp_path, vae, encode):
    import hashlib

    path = write_music(tmp_path / "in" / "sub" / "a.flac", 48_001, 0, 48_000, 1)
    encode(tmp_path / "in", tmp_path / "out", store="mean+std")
    with safe_open(tmp_path / "out" / "sub" / "a.safetensors", "pt") as file:
        metadata = file.metadata()
        latents, std = file.get_tensor("latents"), file.get_tensor("std")
    samples = -(-48_001 * 44_100 // 48_000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = {
        "format": "earvae-latents", "format_version": "1", "sample_rate": "44100",
        "samples": str(samples), "track_samples": str(samples), "sample_offset": "0",
        "original_rate": "48000", "original_samples": "48001", "original_offset": "0",
        "channels": "1", "hop_length": str(HOP), "model": vae.identity, "latents": "mean",
        "source": "sub/a.flac", "source_sha256": digest,
        "frames": str(-(-samples // HOP)), "frames_valid": str(-(-samples // HOP)),
        "settings": settings_of(vae, store="mean+std").digest,
    }  # fmt: skip
    assert metadata == expected
    posterior = codec.encode(vae, read_audio(path, 44_100)[None])
    assert torch.allclose(latents, posterior.mean[0], atol=1e-5)
    assert torch.allclose(std, posterior.std[0], atol=1e-5)
    (line,) = index_of(tmp_path / "out")
    assert line["file"] == "sub/a.safetensors" and line["source_sha256"] == digest
    assert line["size"] == (tmp_path / "out" / line["file"]).stat().st_size
    record = json.loads((tmp_path / "out" / "library.json").read_text())
    assert record["model"] == vae.identity and record["store"] == "mean+std"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["files"], summary["failed"], summary["frames"]) == (1, 0, -(-samples // HOP))


def test_the_noise_of_a_sample_depends_on_seed_and_name_only(tmp_path, vae, music, encode):
    """Equal audio under two names gets different noise; batches and blocks do not matter."""
    for name in ("x.wav", "y.wav"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(music / "a" / "00.wav", tmp_path / "in" / name)
    noise = {}
    for case, how in enumerate(
        [{"seed": 1}, {"seed": 1, "block_items": 1}, {"seed": 2}, {"seed": 1, "half": True}]
    ):
        encode(tmp_path / "in", tmp_path / str(case), store="sample", **how)
        for name in "xy":
            latents = load_file(tmp_path / str(case) / f"{name}.safetensors")["latents"]
            posterior = codec.encode(vae, read_audio(tmp_path / "in" / "x.wav", 44_100)[None])
            noise[case, name] = (latents.float() - posterior.mean[0]) / posterior.std[0]
    for name in "xy":
        assert (noise[0, name] - noise[1, name]).abs().max() < 0.01  # of rounding, over a std
    for a, b in (((0, "x"), (0, "y")), ((0, "x"), (2, "x")), ((0, "y"), (2, "y"))):
        correlation = np.corrcoef(noise[a].flatten(), noise[b].flatten())[0, 1]
        assert abs(correlation) < 0.2
    pair = noise[0, "x"].flatten(), noise[3, "x"].flatten()
    assert np.corrcoef(*pair)[0, 1] > 0.99  # the same draw, rounded to float16
    values = torch.cat([noise[0, "x"], noise[0, "y"], noise[2, "x"]]).flatten()
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1


def test_latents_that_float16_cannot_hold_are_a_failure_of_that_file(tmp_path, encode):
    vae = small_model()
    write_music(tmp_path / "in" / "a.wav", 5000, 0)
    vae.encoder.output.bias.data += 1e5
    result = encode(tmp_path / "in", tmp_path / "out", vae, half=True)
    (failure,) = result.summary.failures
    assert "not finite in float16; leave out --half" in failure and "a.wav" in failure
    assert not list((tmp_path / "out").rglob("*.safetensors"))


# ------------------------------------------------------------------------------ stopped, shared


LAYOUTS = [{}, {"payload": "npy", "segment_frames": 20}, {"shard_items": 7, "store": "mean+std"},
           {"shard_items": 7, "payload": "npy", "store": "sample", "seed": 3}]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_ranks_together_give_what_one_gives(tmp_path, music, encode, layout):
    encode(music, tmp_path / "one", **layout)
    assert len(contents(tmp_path / "one")) > 3
    for world in (2, 5):  # 5: some ranks have nothing to do
        out = tmp_path / str(world)
        results = [
            encode(music, out, rank=Rank(number, world), **layout)
            for number in reversed(range(world))
        ]
        assert [result.counts is None for result in results] == [True] * (world - 1) + [False]
        assert sum(result.summary.files for result in results) == 20
        assert contents(out) == contents(tmp_path / "one")


def encode_slowly(source: Path, out: Path, layout: dict, batch: int) -> None:
    """In a process of its own: about a batch every few milliseconds."""
    torch.set_num_threads(1)
    vae = small_model()
    vae.encoder.register_forward_hook(lambda *_: time.sleep(0.004))
    block = layout.get("shard_items") or 16
    library = Library(tracks.find([source], out).files, block)
    geometry = geometry_of(vae, budget=batch)
    encode_library(vae, library, out, settings_of(vae, **layout), geometry)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("layout", [{}, {"shard_items": 16, "payload": "npy"}], ids=str)
def test_killed_three_times_and_run_again_gives_the_same_bytes(tmp_path, encode, layout):
    random_moments = random.Random(5)
    source = tmp_path / "in"
    for number in range(60):
        write_music(source / f"{number:02d}.wav", 4410 if number % 3 else 3000 + number, number)
    geometry = geometry_of(small_model(), budget=240)
    encode(source, tmp_path / "whole", geometry=geometry, block_items=16, **layout)
    out = tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["earvae.library.encode"])
    for target in (8, 25, 45):  # files after which to kill, of 60
        child = context.Process(target=encode_slowly, args=(source, out, layout, 240))
        child.start()
        while _stored(out) < target and child.is_alive():
            time.sleep(0.0005)
        time.sleep(random_moments.uniform(0, 0.01))
        with contextlib.suppress(ProcessLookupError):  # it was quicker, and is done
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (-signal.SIGKILL, 0)
        for name, data in contents(out).items():  # nothing partial, at any time
            assert data == contents(tmp_path / "whole")[name]
    result = encode(source, out, geometry=geometry, block_items=16, **layout)
    assert contents(out) == contents(tmp_path / "whole")
    assert 0 < result.summary.encoded < 60
    assert not list((out / ".earvae" / "staging").iterdir())
    assert not list((out / ".earvae").glob("parts/*"))


def _stored(out: Path) -> int:
    """Files done so far, also those in finished shards."""
    names = [name for _, _, found in os.walk(out) for name in found]  # folders may go meanwhile
    return sum(
        16 * name.endswith(".tar") + name.endswith((".safetensors", ".npy")) for name in names
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_second_run_computes_nothing_and_changes_nothing(tmp_path, music, encode, layout):
    encode(music, tmp_path, **layout)
    before = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    result = encode(music, tmp_path, **layout)
    assert (result.summary.encoded, result.summary.skipped) == (0, 20)
    assert result.summary.compute_seconds == 0 and contents(tmp_path) == before
    payloads = [path for path in times if path.suffix in (".safetensors", ".npy", ".tar")]
    assert payloads and all(path.stat().st_mtime_ns == times[path] for path in payloads)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_changed_sources_are_encoded_again_and_touched_ones_are_not(tmp_path, encode, layout):
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(10):
        write_music(source / f"{number}.wav", 4410, number)
    encode(source, out, **layout)
    os.utime(source / "1.wav", (1, 1))
    result = encode(source, out, **layout)
    assert result.summary.encoded == 0
    write_music(source / "3.wav", 4410, 99)
    result = encode(source, out, **layout)
    assert result.summary.encoded == (7 if "shard_items" in layout else 1)  # or its whole shard
    encode(source, tmp_path / "fresh", **layout)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("loss", ["records", "an output"])
def test_what_is_lost_is_made_again(tmp_path, music, encode, layout, loss):
    encode(music, tmp_path, **layout)
    before = contents(tmp_path)
    if loss == "records":
        shutil.rmtree(tmp_path / ".earvae")
    else:
        next(
            path for path in sorted(tmp_path.rglob("*"))
            if path.suffix in (".safetensors", ".npy", ".tar")
        ).unlink()  # fmt: skip
    result = encode(music, tmp_path, **layout)
    assert contents(tmp_path) == before
    sharded = "shard_items" in layout
    assert (
        result.summary.encoded == {"records": 20 * sharded, "an output": 7 if sharded else 1}[loss]
    )


def outputs(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".npy", ".tar") and ".earvae" not in path.parts
    ]  # fmt: skip


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),  # what some file systems leave of a power failure
    "longer": lambda data: data + bytes(512),
}


@pytest.mark.parametrize("records", ["kept", "gone"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", LAYOUTS[:3], ids=str)
def test_an_output_is_done_by_what_it_holds_and_not_by_its_name(
    tmp_path, encode, layout, damage, records
):
    for number in range(4):
        write_music(tmp_path / "in" / f"{number}.wav", 4410, number)
    out = tmp_path / "out"
    encode(tmp_path / "in", out, **layout)
    before = contents(out)
    path = outputs(out)[0]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if records == "gone":
        shutil.rmtree(out / ".earvae")
    encode(tmp_path / "in", out, **layout)
    assert contents(out) == before


@pytest.mark.parametrize("layout", [{}, LAYOUTS[2]], ids=str)
def test_what_stands_in_place_of_a_record_is_not_believed(tmp_path, encode, layout):
    for number in range(3):
        write_music(tmp_path / "in" / f"{number}.wav", 4410, number)
    out = tmp_path / "out"
    encode(tmp_path / "in", out, **layout)
    before, path = contents(out), out / ".earvae" / "blocks" / "000000.json"
    good = json.loads(path.read_text())
    first = good["items"][0]
    for odd in (
        {}, [], None, 1, good | {"items": None}, good | {"items": good["items"][:2]},
        good | {"items": [{"bytes": 1}] * 3}, good | {"shard": "many"}, good | {"shard": 10**9},
        good | {"items": [first | {"lines": [{}]}, *good["items"][1:]]},
        good | {"items": [first | {"lines": []}, *good["items"][1:]]},
        good | {"items": [first | {"lines": [first["lines"][0] | {"file": "../../x"}]},
                          *good["items"][1:]]},
    ):  # fmt: skip
        path.write_text(json.dumps(odd))
        result = encode(tmp_path / "in", out, **layout)
        assert result.counts["entries"] == 3 and contents(out) == before
        assert json.loads(path.read_text()) == good


def test_segments_of_an_earlier_version_of_a_file_do_not_stay(tmp_path, encode):
    source, out, layout = tmp_path / "in", tmp_path / "out", {"segment_frames": 20}
    for suffix, payload in ((".safetensors", {}), (".npy", {"payload": "npy"})):
        write_music(source / "a.wav", 8000, 1)
        write_music(source / "b.wav", 8000, 2)
        encode(source, out, **layout, **payload)
        assert len(list(out.glob(f"a-*{suffix}"))) == 7
        write_music(source / "a.wav", 2000, 3)
        mine = out / f"a-0007{suffix}"  # has a name that the eighth would have
        mine.write_bytes(b"mine")
        encode(source, out, **layout, **payload)
        encode(source, tmp_path / "fresh", **layout, **payload)
        assert mine.read_bytes() == b"mine"
        mine.unlink()
        assert contents(out) == contents(tmp_path / "fresh")
        shutil.rmtree(out)
        shutil.rmtree(tmp_path / "fresh")


def test_another_layout_with_replace_leaves_none_of_the_first(tmp_path, encode):
    write_music(tmp_path / "in" / "a.wav", 8000, 1)
    for layout in ({"segment_frames": 20}, {}, {"payload": "npy", "segment_frames": 30}, {}):
        encode(tmp_path / "in", tmp_path / "out", replace=True, **layout)
        fresh = tmp_path / f"fresh-{len(list(tmp_path.iterdir()))}"
        encode(tmp_path / "in", fresh, **layout)
        assert contents(tmp_path / "out") == contents(fresh)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_files_that_come_and_go_leave_the_library_as_if_made_anew(tmp_path, encode, layout):
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(20):
        write_music(source / f"{number:02d}.wav", 4410, number)
    encode(source, out, **layout)
    for number in range(12):
        (source / f"{number:02d}.wav").unlink()
    write_music(source / "05b.wav", 4410, 50)
    if "shard_items" in layout:
        before = contents(out)
        with pytest.raises(LibraryError, match="12 files that are not among these .*--replace"):
            encode(source, out, **layout)
        assert contents(out) == before
    result = encode(source, out, **layout, replace=True)
    encode(source, tmp_path / "fresh", **layout)
    found, fresh = contents(out), contents(tmp_path / "fresh")
    if "shard_items" in layout:
        assert found == fresh  # and no shard of the larger library is left
    else:
        assert result.summary.encoded == 1  # files of sources that are gone stay, but not listed
        assert found.keys() > fresh.keys()
        expected = ["05b.wav", *(f"{number:02d}.wav" for number in range(12, 20))]
        assert list(dict.fromkeys(line["source"] for line in index_of(out))) == expected


# ------------------------------------------------------------------------------ trouble


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_corrupt_file_in_the_middle_is_listed_and_the_others_are_done(tmp_path, encode, layout):
    source = tmp_path / "in"
    for number in range(9):
        write_music(source / f"{number}.flac", 4410, number)
    whole = (source / "4.flac").read_bytes()
    (source / "4.flac").write_bytes(whole[: len(whole) * 3 // 4])
    for _ in range(2):  # the second time, everything else is done
        result = encode(source, tmp_path / "out", **layout)
        (failure,) = result.summary.failures
        assert "4.flac" in failure and "\n" not in failure
        assert result.counts["files"] == 9 and result.counts["failed"] == 1
        listed = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").open()]
        assert listed == [{"source": "4.flac", "error": failure}]
        sources = {line["source"] for line in index_of(tmp_path / "out")}
        assert sources == {f"{number}.flac" for number in range(9)} - {"4.flac"}
    assert result.summary.encoded == 0
    (source / "4.flac").write_bytes(whole)
    result = encode(source, tmp_path / "out", **layout)
    assert not result.summary.failures and result.counts["failed"] == 0
    encode(source, tmp_path / "fresh", **layout)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_another_model_or_setting_is_refused_or_encodes_everything(tmp_path, vae, music, encode):
    other = small_model(seed=1)
    encode(music, tmp_path / "out")
    before = contents(tmp_path / "out")
    for model, how, named in (
        (other, {}, f"model {vae.identity} → {other.identity}"),
        (vae, {"half": True}, "half False → True"),
        (vae, {"store": "sample", "seed": 1}, "store mean → sample, seed None → 1"),
    ):
        with pytest.raises(LibraryError, match="--replace") as caught:
            encode(music, tmp_path / "out", model, **how)
        assert named in str(caught.value) and "\n" not in str(caught.value)
        assert contents(tmp_path / "out") == before
    result = encode(music, tmp_path / "out", other, replace=True)
    assert result.summary.encoded == 20
    encode(music, tmp_path / "fresh", other)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_replacement_that_was_stopped_goes_on_and_mixes_nothing(
    tmp_path, vae, music, encode, monkeypatch
):
    other = small_model(seed=1)
    encode(music, tmp_path / "out")
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt

    hook = other.encoder.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        encode(music, tmp_path / "out", other, replace=True)
    hook.remove()
    with pytest.raises(LibraryError):  # the first model has lost the folder
        encode(music, tmp_path / "out", vae)
    result = encode(music, tmp_path / "out", other)
    assert 0 < result.summary.encoded < 20
    encode(music, tmp_path / "fresh", other)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_folder_that_cannot_be_written_ends_the_run_with_one_line(tmp_path, music, encode):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(WriteError, match="cannot be written") as caught:
        encode(music, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_every_file_is_counted_once(tmp_path, music, encode):
    """However far the model is ahead of the planning."""
    for encoded, skipped in ((20, 0), (0, 20)):
        told: list[int] = []
        result = encode(music, tmp_path, progress=told.append, workers=1)
        assert sum(told) == result.summary.files == 20
        assert (result.summary.encoded, result.summary.skipped) == (encoded, skipped)


def test_the_order_of_finishing_loads_does_not_matter(tmp_path, music, encode, monkeypatch):
    encode(music, tmp_path / "one", workers=1)
    original = Reader._row

    def late(self, item, *how, **more):
        time.sleep(random.uniform(0, 0.01))
        return original(self, item, *how, **more)

    monkeypatch.setattr(Reader, "_row", late)
    encode(music, tmp_path / "many", workers=6)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.parametrize("name", ["shard-000000.tar", "index.jsonl", "summary.json"])
def test_what_is_not_of_a_library_is_refused_by_name_and_stays(tmp_path, music, encode, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("somebody's")
    for replace in (False, True):
        with pytest.raises(WriteError, match=f"{name}: is there already"):
            encode(music, out, shard_items=7, replace=replace)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "somebody's"


@pytest.mark.parametrize("layout", [{}, {"payload": "npy"}, {"segment_frames": 20}], ids=str)
def test_what_lies_where_latents_would_go_is_refused_by_name(tmp_path, encode, layout):
    write_music(tmp_path / "in" / "a.wav", 4410, 0)
    name = {"npy": "a.json"}.get(layout.get("payload"), "a.safetensors")
    if "segment_frames" in layout:
        name = "a-0000.safetensors"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("somebody's")
    with pytest.raises(LibraryError, match=f"{name}: is there already, and not of a library"):
        encode(tmp_path / "in", tmp_path / "out", **layout)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_shard_that_somebody_puts_beside_ours_stays(tmp_path, music, encode):
    encode(music, tmp_path, shard_items=7)
    (tmp_path / "shard-000070.tar").write_text("somebody's")
    encode(music, tmp_path, shard_items=7, replace=True)
    assert (tmp_path / "shard-000070.tar").read_text() == "somebody's"


def test_a_shard_that_another_process_finishes_meanwhile_is_done(
    tmp_path, music, encode, monkeypatch
):
    """It puts its shard and record in place, and takes away the parts that both had made."""
    encode(music, tmp_path / "other", shard_items=20)
    append, out = tar.append, tmp_path / "out"

    def late(*arguments):
        if (parts := out / ".earvae/parts").is_dir():
            for name in ("shard-000000.tar", ".earvae/blocks/000000.json"):
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copy(tmp_path / "other" / name, out / name)
            shutil.rmtree(parts)
        return append(*arguments)

    monkeypatch.setattr(tar, "append", late)
    encode(music, out, shard_items=20)
    ours, theirs = (
        (folder / "shard-000000.tar").read_bytes() for folder in (out, tmp_path / "other")
    )
    assert ours == theirs and not (out / ".earvae/parts/000000").exists()
