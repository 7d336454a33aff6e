"""The format of latents: what other programs read of it, and what it says of damage."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from earvae import tar
from earvae.latents import file
from earvae.latents.file import Latents, LatentsError, Metadata

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
        ({"samples": None}, r"samples: .*required"),
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
    with pytest.raises(file.OtherFormat):
        file.read(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    with pytest.raises(LatentsError, match="damaged") as caught:
        file.read(tmp_path / "w.safetensors")
    assert not isinstance(caught.value, file.OtherFormat)
