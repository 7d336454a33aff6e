"""Channel statistics against numpy, their merging, and normalisation there and back."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from earvae.latents.file import NPY, SHARD, SUFFIX, LatentsError
from earvae.latents.statistics import Moments, Statistics, beside, measure, read
from earvae.tracks import find
from tests.library.small import contents, small_model


def stored(*folders: Path) -> list[Path]:
    """What `earvae stats` would measure there."""
    files = find(folders, suffixes=frozenset({SUFFIX, NPY, SHARD})).files
    return [Path(found.path) for found in files]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 9), st.booleans())
def test_moments_of_pieces_are_those_of_the_whole(sizes, seed, offset):
    random = np.random.default_rng(seed)
    pieces = [1e4 * offset + random.standard_normal((3, size)) for size in sizes]
    total = reduce(Moments.merge, [Moments.of(piece.astype(np.float32)) for piece in pieces])
    whole = np.concatenate(pieces, axis=1).astype(np.float32).astype(np.float64)
    assert total.count == whole.shape[1]
    assert np.allclose(total.mean, whole.mean(axis=1), rtol=1e-12, atol=1e-12)
    assert np.allclose(total.std, whole.std(axis=1), rtol=1e-9, atol=1e-9)


LAYOUTS = [{}, {"payload": "npy"}, {"shard_items": 7}, {"shard_items": 7, "payload": "npy"},
           {"segment_frames": 30}, {"segment_frames": 30, "shard_items": 7}]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_statistics_are_those_of_all_true_frames(tmp_path, music, encode, layout):
    encode(music, tmp_path / "plain")
    frames = [load_file(path)["latents"] for path in (tmp_path / "plain").rglob("*.safetensors")]
    whole = np.concatenate(frames, axis=1).astype(np.float64)
    encode(music, tmp_path / "out", **layout)
    paths = stored(tmp_path / "out")
    found, normalised = measure(paths)
    assert not normalised and found.moments.count == whole.shape[1]
    near = {"rtol": 1e-9}
    if "segment_frames" in layout:  # what follows the end differs, so the last frames do
        near = {"rtol": 0.02, "atol": 0.01}
    assert np.allclose(found.mean, whole.mean(axis=1), **near)
    assert np.allclose(found.moments.std, whole.std(axis=1), **near)
    parts = [measure(paths[rank::3])[0] for rank in range(3)]
    files = []
    for rank, part in enumerate(parts):
        files.append(tmp_path / f"part{rank}.json")
        files[-1].write_text(part.to_json())
    merged, _ = measure(files)
    assert merged.entries == found.entries and merged.moments.count == found.moments.count
    assert np.allclose(merged.mean, found.mean, rtol=1e-12)
    assert np.allclose(merged.moments.std, found.moments.std, rtol=1e-12)


def test_the_spread_of_samples_is_that_of_means_and_of_the_posterior(tmp_path, music, encode):
    encode(music, tmp_path / "both", store="mean+std")
    encode(music, tmp_path / "drawn", store="sample", seed=1)
    both, _ = measure(stored(tmp_path / "both"))
    tensors = [load_file(path) for path in (tmp_path / "both").rglob("*.safetensors")]
    std = np.concatenate([t["std"] for t in tensors], axis=1).astype(np.float64)
    values = json.loads(both.to_json())
    assert np.allclose(values["posterior_std"], np.sqrt(np.square(std).mean(axis=1)), rtol=1e-6)
    drawn, _ = measure(stored(tmp_path / "drawn"))
    assert drawn.latents == "sample"
    assert np.allclose(values["sample_std"], drawn.moments.std, rtol=0.05)


def statistics(mean, std, model="m") -> Statistics:
    mean, std = np.array(mean, float), np.array(std, float)
    return Statistics(model, "mean", 1, Moments(10, mean, 10 * std**2))


def test_a_constant_channel_is_shifted_and_not_divided():
    stats = statistics([2.0, 1.0], [0.0, 4.0])
    latents = np.array([[2.0, 2.0], [5.0, -3.0]], np.float32)
    assert np.array_equal(stats.normalise(latents), [[0, 0], [1, -1]])
    assert np.array_equal(stats.denormalise(stats.normalise(latents)), latents)


def test_statistics_survive_their_file_to_the_last_bit(tmp_path):
    random = np.random.default_rng(0)
    stats = statistics(random.standard_normal(5), random.random(5))
    (tmp_path / "latent_stats.json").write_text(stats.to_json())
    for path in (tmp_path, tmp_path / "latent_stats.json"):
        again = read(path)
        assert again.digest == stats.digest
        assert np.array_equal(again.mean, stats.mean) and np.array_equal(again.scale, stats.scale)
    assert statistics([0, 1], [1, 1]).digest != statistics([0, 1], [1, 2]).digest


@pytest.mark.parametrize("text", ["", "[]", '{"format": "x"}', "gone"])
def test_bad_statistics_are_one_line(tmp_path, text):
    path = tmp_path / "s.json"
    if text != "gone":
        path.write_text(text)
    with pytest.raises(LatentsError, match="s.json") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_statistics_are_found_in_the_nearest_folder_above(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "latent_stats.json").write_text("")
    assert beside(tmp_path / "a" / "b" / "x.safetensors") == tmp_path / "latent_stats.json"
    (tmp_path / "a" / "latent_stats.json").write_text("")
    assert beside(tmp_path / "a" / "b" / "x.safetensors") == tmp_path / "a" / "latent_stats.json"


def test_normalised_latents_have_mean_0_and_std_1(tmp_path, vae, music, encode):
    encode(music, tmp_path / "out", store="mean+std")
    stats, _ = measure(stored(tmp_path / "out"))
    how = {"normalised": stats.digest, "statistics": stats, "store": "mean+std"}
    encode(music, tmp_path / "unit", **how)
    assert read(tmp_path / "unit").digest == stats.digest
    again, normalised = measure(stored(tmp_path / "unit"))
    assert normalised and np.abs(again.mean).max() < 1e-5
    assert np.abs(again.moments.std - 1).max() < 1e-5
    for path in (tmp_path / "out").rglob("*.safetensors"):
        plain, unit = (
            load_file(path),
            load_file(tmp_path / "unit" / path.relative_to(tmp_path / "out")),
        )
        expected = (plain["latents"] - stats.mean[:, None]) / stats.scale[:, None]
        assert np.allclose(unit["latents"], expected, atol=1e-5)
        assert np.allclose(unit["std"], plain["std"] / stats.scale[:, None], rtol=1e-5)
    before = contents(tmp_path / "unit")
    encode(music, tmp_path / "unit", **how)
    assert contents(tmp_path / "unit") == before


def test_latents_that_do_not_go_together_are_refused(tmp_path, music, encode):
    encode(music, tmp_path / "a")
    encode(music, tmp_path / "b", small_model(seed=1))
    encode(music, tmp_path / "c", store="sample", seed=1)
    stats, _ = measure(stored(tmp_path / "a"))
    encode(music, tmp_path / "d", normalised=stats.digest, statistics=stats)
    for other, message in (("b", "of model"), ("c", "sample of model"), ("d", "normalised")):
        with pytest.raises(LatentsError, match=message):
            measure(stored(tmp_path / "a", tmp_path / other))
    (tmp_path / "a" / "a" / "00.safetensors").write_bytes(b"damaged")
    with pytest.raises(LatentsError, match="00.safetensors: damaged, or not"):
        measure(stored(tmp_path / "a"))
    with pytest.raises(LatentsError, match="no latents there"):
        measure(stored(music))
