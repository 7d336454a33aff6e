"""The format of latents: what other programs read of it, and what it says of damage."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from earvae import tar
from earvae.latents import file
from earvae.latents.file import Latents
from earvae.latents.metadata import LatentsError, Metadata, OtherFormat

METADATA = Metadata(
    sample_rate=44_100, original_rate=48_000, channels=2, hop_length=64, model="m",
    latents="mean", samples=150, original_samples=164,
)  # fmt: skip
ENTRY = replace(
    METADATA, source='ä "quoted"\\x', track_samples=1_000, sample_offset=64, frames=4,
    frames_valid=3, seed=5,
)  # fmt: skip
VALUES = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    path = tmp_path / "x.safetensors"
    file.write(path, Latents(ENTRY, VALUES, np.ones((2, 4), np.float16)))
    with safe_open(path, "np") as opened:
        found = opened.metadata()
    assert (found["seed"], found["source"], found["samples"]) == ("5", 'ä "quoted"\\x', "150")
    assert (found["format"], found["format_version"]) == ("earvae-latents", "1")
    tensors = load_file(path)
    assert np.array_equal(tensors["latents"], VALUES) and tensors["std"].dtype == np.float16


def test_what_is_written_is_read_in_every_form(tmp_path):
    latents = Latents(ENTRY, VALUES)
    for suffix, data in ((".safetensors", latents.to_safetensors()), (".npy", latents.to_npy())):
        path = tmp_path / f"a.b{suffix}"
        path.write_bytes(data)
        (tmp_path / "a.b.json").write_bytes(latents.to_sidecar())
        header, found = file.inspect(path), file.read(path)
        assert (header.channels, header.frames) == (2, 4)
        assert header.metadata == found.metadata == ENTRY and np.array_equal(found.values, VALUES)
        shard = tmp_path / f"{suffix[1:]}.tar"
        with shard.open("wb") as out:
            for member in (path, tmp_path / "a.b.json"):
                tar.append(out, member.name, member.read_bytes())
            assert tar.end(out) == out.tell()
        (entry,) = file.read_shard(shard)
        assert entry.metadata == ENTRY and np.array_equal(entry.values, VALUES)


def test_bfloat16_latents_that_others_wrote_are_read(tmp_path):
    words = {name: str(value) for name, value in METADATA.values().items()}
    save_file({"latents": torch.tensor(VALUES).bfloat16()}, tmp_path / "x.safetensors", words)
    assert np.array_equal(file.read(tmp_path / "x.safetensors").values, VALUES)


def test_names_that_are_not_ours_are_ignored():
    assert Metadata.parse(METADATA.values() | {"padding_mask": [1, 1]}) == METADATA


@pytest.mark.parametrize(
    "change,message",
    [
        ({"format": "x"}, "no format=earvae-latents"),
        ({"format_version": "2"}, "update earvae"),
        ({"samples": None}, "have no samples"),
        ({"samples": "0"}, "make no sense"),
        ({"channels": "3"}, "make no sense"),
        ({"hop_length": "many"}, "hop_length"),
        ({"hop_length": "6_4"}, "hop_length"),
        ({"original_rate": "1"}, "original_rate"),
        ({"original_rate": str(2**40)}, "original_rate"),
        ({"samples": "9" * 10_000}, "samples"),
        ({"latents": "dream"}, "latents"),
        ({"original_samples": "20000000"}, "150 samples at 44100 Hz are not 20000000"),
        ({"samples": "64", "original_samples": "70"}, "holds 4 frames, its metadata say 64"),
        ({"samples": "300", "original_samples": "327"}, "holds 4 frames, its metadata say 300"),
        ({"frames": "4", "frames_valid": "2"}, "holds 4 frames, its metadata say 4 .* 2 of them"),
    ],
)
def test_metadata_that_cannot_be_used_are_one_line_that_names_the_file(tmp_path, change, message):
    values = {k: v for k, v in (METADATA.values() | change).items() if v is not None}
    np.save(tmp_path / "x.npy", VALUES)
    (tmp_path / "x.json").write_text(json.dumps(values))
    for reading in (file.read, file.inspect):
        with pytest.raises(LatentsError, match=message) as caught:
            reading(tmp_path / "x.npy")
        assert str(caught.value).startswith(str(tmp_path / "x.npy"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [VALUES[0], VALUES * np.nan])
def test_what_is_no_finite_matrix_is_refused(tmp_path, values):
    file.write(tmp_path / "x.safetensors", Latents(METADATA, values))
    with pytest.raises(LatentsError, match="x.safetensors: .* encode it again"):
        file.read(tmp_path / "x.safetensors")


def test_weights_are_of_another_format_and_not_damaged(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(OtherFormat):
        file.read(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    with pytest.raises(LatentsError, match="damaged") as caught:
        file.read(tmp_path / "w.safetensors")
    assert not isinstance(caught.value, OtherFormat)


# ------------------------------------------------------------------------------ headers that lie


def by_hand(path, tensors, metadata=None):
    """A safetensors file of ``(dtype, shape, bytes)`` by name, as it is told."""
    header = {"__metadata__": {k: str(v) for k, v in (metadata or METADATA.values()).items()}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        places = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": places}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


LATENTS = ("F32", [2, 3], bytes(24))


@pytest.mark.parametrize(
    "tensors,message",
    [
        ({"latents": ("F32", [2, 10**12], bytes(24))}, "another size than its shape"),
        ({"latents": ("F32", [2, -3], bytes(24))}, "shape"),
        ({"latents": ("F32", [2**40, 2**40], b"")}, "another size"),
        ({"latents": ("F32", [0, 3], b"")}, "shape"),
        ({"latents": ("BOOL", [2, 3], bytes(6))}, "holds 'BOOL'"),
        ({"latents": ("I64", [2, 3], bytes(48))}, "holds 'I64'"),
        ({"latents": ("F64", [2, 3], np.full(6, 1e300).tobytes())}, "not finite"),
        ({"latents": LATENTS, "std": ("F32", [2], bytes(8))}, "shape"),
        ({"latents": LATENTS, "std": ("F32", [2, 3], b"\xff" * 24)}, "std are not finite"),
        ({"latents": LATENTS, "std": ("F32", [2, 3], b"\x80\xbf\x80\xbf" * 6)}, "std"),
        ({"std": LATENTS}, "no latents"),
    ],
)
def test_tensors_are_what_they_are_told_to_be_before_any_is_made(tmp_path, tensors, message):
    path = by_hand(tmp_path / "x.safetensors", tensors)
    with pytest.raises(LatentsError, match=rf"x.safetensors: .*{message}"):
        file.read(path)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1, -30])
def test_a_file_of_another_size_than_its_header_says_is_not_latents(tmp_path, size):
    for suffix, data in (("safetensors", Latents(ENTRY, VALUES).to_safetensors()),
                         ("npy", Latents(ENTRY, VALUES).to_npy())):  # fmt: skip
        (tmp_path / "x.json").write_bytes(Latents(ENTRY, VALUES).to_sidecar())
        path = tmp_path / f"x.{suffix}"
        for content in (data[:size], data + b"\0" * 8):
            path.write_bytes(content)
            with pytest.raises(LatentsError, match=path.name):
                file.inspect(path)


@pytest.mark.parametrize("header", [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 10000000000000), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (2, 4), }",
    "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 4), }",
    "{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (2, 4), }",
    "[" * 5000,
])  # fmt: skip
def test_a_header_of_npy_is_not_believed(tmp_path, header):
    text = header.encode() + b"\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    (tmp_path / "x.npy").write_bytes(head + bytes(32))
    (tmp_path / "x.json").write_bytes(Latents(ENTRY, VALUES).to_sidecar())
    with pytest.raises(LatentsError, match="x.npy: damaged"):
        file.read(tmp_path / "x.npy")


def test_columns_first_and_big_endian_are_read_as_numpy_reads_them(tmp_path):
    (tmp_path / "x.json").write_bytes(Latents(ENTRY, VALUES).to_sidecar())
    for values in (np.asfortranarray(VALUES), VALUES.astype(">f4"), VALUES.astype(np.float64)):
        np.save(tmp_path / "x.npy", values)
        found = file.read(tmp_path / "x.npy").values
        assert np.array_equal(found, VALUES) and found.dtype == np.float32


def shard_of(path, *members):
    with path.open("wb") as out:
        for name, data in members:
            tar.append(out, name, data)
        tar.end(out)
    return path


NUMBERS = ("a.npy", Latents(ENTRY, VALUES).to_npy())
JSON = ("a.json", Latents(ENTRY, VALUES).to_sidecar())


@pytest.mark.parametrize("members", [
    [], [NUMBERS], [JSON], [JSON, NUMBERS], [NUMBERS, NUMBERS, JSON],
    [NUMBERS, ("b.json", JSON[1])], [NUMBERS, JSON, ("readme.txt", b"x")],
    [("a.npy", NUMBERS[1][:-1]), JSON], [NUMBERS, ("a.json", b"[" * 100_000)],
    [NUMBERS, ("a.json", b"[]")],
], ids=lambda members: " ".join(name for name, _ in members))  # fmt: skip
def test_a_shard_with_half_an_entry_is_refused_by_name(tmp_path, members):
    path = shard_of(tmp_path / "x.tar", *members)
    with pytest.raises(LatentsError, match=r"x\.tar: "):
        list(file.read_shard(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_is_no_file_of_latents(tmp_path):
    for name in ("x.safetensors", "x.npy", "x.json", "x.tar"):
        os.mkfifo(tmp_path / name)
    for reading in (file.read, file.inspect, lambda path: list(file.read_shard(path))):
        for name in ("x.safetensors", "x.npy", "x.tar"):
            with pytest.raises(LatentsError, match="x"):
                reading(tmp_path / name)
