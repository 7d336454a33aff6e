"""Shards and sidecars, as the programs that are to read them see them."""

from __future__ import annotations

import io
import json
import math
import tarfile

import numpy as np
import pytest
import soundfile
from safetensors import safe_open
from safetensors.numpy import load, load_file

from earvae.audio import output_format
from earvae.files import decode_file
from earvae.latents.file import inspect
from tests.library.small import HOP, RATE, write_music
from tests.small import golden


def index_of(folder):
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------ shards


@pytest.fixture(params=["safetensors", "npy"])
def shards(request, tmp_path, music, encode):
    """Shards of seven files, and the same library as files."""
    encode(music, tmp_path / "shards", shard_items=7, payload=request.param)
    encode(music, tmp_path / "files")
    return tmp_path / "shards", request.param


def test_the_webdataset_library_reads_shards(shards, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    folder, payload = shards
    names = sorted(path.name for path in folder.glob("*.tar"))
    assert names == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    urls = [str(folder / name) for name in names]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{n:08d}" for n in range(20)]
    for sample, line in zip(samples, index_of(tmp_path / "files"), strict=True):
        told = json.loads(sample["json"])
        assert told["source"] == line["source"] and told["samples"] == line["samples"]
        data = sample[payload]
        found = np.load(io.BytesIO(data)) if payload == "npy" else load(data)["latents"]
        expected = load_file(tmp_path / "files" / line["file"])["latents"]
        assert np.array_equal(found, expected)


def test_the_index_points_into_the_shards_and_members_are_neighbours(shards):
    folder, payload = shards
    lines = {(line["shard"], line["file"]): line for line in index_of(folder)}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for latents, sidecar in zip(members[::2], members[1::2], strict=True):
                assert sidecar.name == latents.name.removesuffix(payload) + "json"
                assert (latents.mtime, latents.uid, latents.gid, latents.uname) == (0, 0, 0, "")
                line = lines.pop((path.name, latents.name))
                assert (line["offset"], line["size"]) == (latents.offset_data, latents.size)
    assert not lines


def test_a_shard_of_unreadable_files_only_is_left_out(tmp_path, encode):
    for number in range(6):
        write_music(tmp_path / "in" / f"{number}.wav", 4410, number)
    for number in (2, 3):
        (tmp_path / "in" / f"{number}.wav").write_bytes(b"no")
    for _ in range(2):
        result = encode(tmp_path / "in", tmp_path / "out", shard_items=2)
        assert len(result.summary.failures) == 2 and result.counts["entries"] == 4
        names = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
        assert names == ["shard-000000.tar", "shard-000002.tar"]


# ------------------------------------------------------------------------------ sidecars


@pytest.mark.parametrize("segment_frames", [None, 100])
def test_npy_and_json_are_what_stable_audio_tools_reads(tmp_path, encode, segment_frames):
    """Its pre-encoded dataset loads X.npy, [channels, frames], takes X.json beside it, finds the
    last 1 of `padding_mask` and reads `seconds_total`. Its own encoder also writes
    `seconds_start` (rounded down), `seconds_total` (rounded up), `timestamps` and `relpath`."""
    samples = 2 * RATE + 1000
    write_music(tmp_path / "in" / "a.b" / "song.one.wav", samples, 0)
    encode(tmp_path / "in", tmp_path / "out", payload="npy", segment_frames=segment_frames)
    files = sorted((tmp_path / "out").rglob("*.npy"))
    valid = []
    for path in files:
        latents = np.load(path)
        info = json.loads(open(str(path).replace(".npy", ".json")).read())
        mask = info["padding_mask"]
        assert latents.dtype == np.float32 and latents.shape == (8, len(mask))
        assert set(mask) <= {0, 1} and mask == sorted(mask, reverse=True)
        last = len(mask) - 1 - mask[::-1].index(1)
        valid.append(last + 1)
        assert info["seconds_total"] == math.ceil(samples / RATE) == 3
        assert info["seconds_start"] == info["sample_offset"] // RATE
        assert info["sample_rate"] == RATE and info["relpath"] == "a.b/song.one.wav"
        start, end = info["timestamps"]
        assert start == pytest.approx(info["sample_offset"] / samples)
        assert end == pytest.approx((info["sample_offset"] + info["samples"]) / samples)
    frames = -(-samples // HOP)
    assert sum(valid) == frames
    if segment_frames is None:
        assert [path.name for path in files] == ["song.one.npy"]
    else:
        assert [path.name for path in files] == [f"song.one-{n:04d}.npy" for n in range(14)]
        assert valid == [100] * 13 + [frames - 1300]


# ------------------------------------------------------------------------------ segments


@pytest.mark.parametrize("rate", [RATE, 48_000, 22_050])
def test_segments_are_cuts_of_the_latents_of_a_track_followed_by_silence(
    tmp_path, vae, encode, rate
):
    samples = round(1.21 * rate)
    path = write_music(tmp_path / "in" / "a.wav", samples, 0, rate)
    encode(path, tmp_path / "cut", segment_frames=100)
    cuts = sorted((tmp_path / "cut").glob("*.safetensors"))
    at_model_rate = -(-samples * RATE // rate)
    assert len(cuts) == -(-at_model_rate // (100 * HOP))
    audio, _ = soundfile.read(path, dtype="float32", always_2d=True)
    position = offset = 0
    for number, cut in enumerate(cuts):
        info = inspect(cut).metadata
        with safe_open(cut, "np") as file:
            metadata = file.metadata()
            assert file.get_tensor("latents").shape == (8, 100)
        assert (metadata["segment"], metadata["segments"]) == (str(number), str(len(cuts)))
        assert int(metadata["sample_offset"]) == offset == number * 100 * HOP
        assert int(metadata["original_offset"]) == position == offset * rate // RATE
        assert int(metadata["frames_valid"]) == -(-info.samples // HOP)
        offset += info.samples
        position += info.original_samples
    assert offset == at_model_rate and position == samples

    silent = np.concatenate([audio, np.zeros((rate, 2), np.float32)])
    soundfile.write(tmp_path / "padded.wav", silent, rate, "FLOAT")
    encode(tmp_path / "padded.wav", tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "padded.safetensors")["latents"]
    joined = np.concatenate([load_file(cut)["latents"] for cut in cuts], axis=1)
    if rate == RATE:  # resampling smears the very end of a file into the silence
        known = joined.shape[1] - vae.encoder.context_frames  # the padding ends there too
        assert np.allclose(joined[:, :known], whole[:, :known], atol=1e-5)


def test_segments_decode_to_as_many_samples_as_they_stand_for(tmp_path, encode):
    for name in ("tiny44k", "tiny48k"):  # the second cannot hold a segment's last samples
        vae = golden(name)
        path = write_music(tmp_path / name / "a.wav", 100_000, 0, 44_100)
        out = tmp_path / f"{name}-latents"
        encode(path, out, vae, segment_frames=30)
        total = 0
        for cut in sorted(out.glob("*.safetensors")):
            target = tmp_path / f"{name}.wav"
            decode_file(vae, cut, target, output_format(".wav"))
            total += soundfile.info(target).frames
        assert total == 100_000
