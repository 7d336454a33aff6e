"""Crops out of memory are those that decoding gives, for less work."""

import numpy as np
import pytest
import soundfile
import torch

from earvae.config import ConfigError, DataConfig
from earvae.training import cache as cache_module
from earvae.training.augment import AUGMENTATIONS
from earvae.training.cache import STEPS, CachedCrops, LastDecoded, gather_by_index, gather_slices
from earvae.training.crops import CropDataset
from earvae.training.filters import DROP_REASONS
from earvae.training.loader import make_batches, open_crops
from tests.small import RATE
from tests.small import white as noise
from tests.training.music import joined, same
from tests.training.recipes import start

CPU = torch.device("cpu")
EVERYTHING = {
    "gain_db": (-12, 6), "swap_channels": 0.5, "flip_polarity": 0.5, "mono": 0.3,
    "bass_db": (-3, 9), "equaliser_db": 3, "width_db": (-6, 3), "limit": 0.4,
    "mix": 0.4, "resample": 0.2, "treble_db": (-3, 6), "compress": 0.5, "saturate": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """16-bit stereo, mono, and a float file that peaks at twice full scale, all at 44.1 kHz."""
    folder = tmp_path_factory.mktemp("music")
    soundfile.write(folder / "a.wav", noise(2, seed=1), RATE, subtype="PCM_16")
    soundfile.write(folder / "b.flac", noise(1, 1, seed=2), RATE)
    loud = noise(1.5, seed=3)
    loud[1000] = (2.0, -2.0)
    soundfile.write(folder / "c.wav", loud, RATE, subtype="FLOAT")
    return folder


def config(*folders, **options) -> DataConfig:
    sources = [{"tracks": str(f)} if not isinstance(f, dict) else f for f in folders]
    return DataConfig(
        sources=sources, **{"crop_samples": 5000, "batch_size": 4, "workers": 0} | options
    )


def cached(*folders, **options) -> CachedCrops:
    return open_crops(config(*folders, **{"cache": "ram"} | options), RATE, CPU)


def items(crops, first, last):
    return joined(make_batches(crops, first, last, CPU))


# ------------------------------------------------------------------------------ the same crops


def test_cached_crops_are_the_decoded_ones_to_the_rounding_of_16_bits(folder):
    """Half a step, times what the track was scaled by: 2 for the one that peaks at 2."""
    decoded = items(CropDataset(config(folder), RATE), 0, 40)
    held = items(cached(folder), 0, 40)
    assert held["audio"].dtype == torch.float32 and held["audio"].shape == (40, 2, 5000)
    error = (held["audio"] - decoded["audio"]).abs().amax((1, 2))
    assert error.max() <= 0.5 * 2.0 / (STEPS - 1) + 1e-7
    assert (error == 0).sum() >= 10  # 16-bit files are held exactly
    for name in ("source", "dropped", "augmented"):
        assert torch.equal(held[name], decoded[name])


@pytest.mark.parametrize("name", [*EVERYTHING, "all"])
def test_augmentation_over_a_batch_is_that_of_each_crop(folder, name):
    changes = EVERYTHING if name == "all" else {name: EVERYTHING[name]}
    options = {"augmentation": changes, "crop_samples": 4096}
    decoded = items(CropDataset(config(folder, **options), RATE), 0, 24)
    held = items(cached(folder, **options), 0, 24)
    assert torch.equal(held["augmented"], decoded["augmented"]) and held["augmented"].any()
    # A gain of up to 2 × 2.8, or a limiter that lifts a crop to 0.4, enlarges the rounding.
    torch.testing.assert_close(held["audio"], decoded["audio"], atol=4e-4, rtol=0)


def test_the_augmentations_that_are_tested_are_all_there_are():
    assert {name.removesuffix("_db") for name in EVERYTHING} == set(AUGMENTATIONS)


@pytest.mark.parametrize("augmentation", [{}, EVERYTHING])
def test_cached_crops_are_the_same_for_any_start_ranks_and_batch_size(folder, augmentation):
    """With changes, up to rounding: they are made over all items of a batch that have them."""
    options = {"augmentation": augmentation}
    crops = cached(folder, **options)
    whole = items(crops, 0, 24)
    turns = zip(*(make_batches(crops, 0, 24, CPU, rank, 2) for rank in (0, 1)), strict=True)
    ones = items(cached(folder, batch_size=1, **options), 0, 24)
    turned = joined(batch for pair in turns for batch in pair)
    for first, again in ((5, items(crops, 5, 24)), (0, turned), (0, ones)):
        error = (again.pop("audio") - whole["audio"][first:]).abs().max()
        assert error <= (1e-6 if augmentation else 0)
        assert all(torch.equal(again[name], whole[name][first:]) for name in again)
    assert same(whole, items(crops, 0, 24))
    other = items(cached(folder, seed=1, **options), 0, 24)
    assert not torch.equal(other["audio"], whole["audio"])


def test_a_track_of_another_rate_lies_where_decoding_puts_it(tmp_path):
    time = np.arange(2 * 48_000) / 48_000
    soundfile.write(tmp_path / "sine.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 48_000)
    decoded = items(CropDataset(config(tmp_path), RATE), 0, 12)["audio"]
    held = items(cached(tmp_path), 0, 12)["audio"]
    # One sample of 440 Hz at this level is at most 2π · 440 / 44100 / 2 = 0.031.
    assert (held - decoded).abs().max() < 0.032
    assert held.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def test_peaks_beyond_full_scale_neither_wrap_nor_clip(tmp_path):
    audio = np.zeros((RATE, 2))
    audio[:, 0] = np.linspace(-3, 3, RATE)
    audio[:, 1] = -audio[:, 0]
    soundfile.write(tmp_path / "ramp.wav", audio, RATE, subtype="FLOAT")
    crop = cached(tmp_path, crop_samples=RATE)[0]["audio"]
    np.testing.assert_allclose(crop.numpy().T, audio, atol=1.5 / (STEPS - 1))


def test_the_whole_range_of_16_bits_is_held_exactly(tmp_path):
    values = np.arange(-STEPS, STEPS, dtype=np.int16)
    soundfile.write(tmp_path / "all.wav", np.stack([values, values[::-1]], axis=1), RATE)
    crop = cached(tmp_path, crop_samples=2 * STEPS)[0]["audio"]
    assert np.array_equal(crop[0].numpy(), values / np.float32(STEPS))


# ------------------------------------------------------------------------------ what is refused


def test_silent_draws_are_refused_as_decoding_refuses_them(tmp_path):
    half = noise(4)
    half[: 2 * RATE] = 0
    soundfile.write(tmp_path / "half.wav", half, RATE, subtype="PCM_16")
    decoded, held = CropDataset(config(tmp_path), RATE), cached(tmp_path)
    counts = [torch.stack([c[i]["dropped"] for i in range(60)]) for c in (decoded, held)]
    assert torch.equal(*counts)
    assert 30 < counts[0][:, DROP_REASONS.index("silent")].sum() < 100  # about one a crop


def test_whole_tracks_are_refused_by_true_peak_and_bandwidth_and_named(tmp_path):
    """One hot moment anywhere in a track is enough; no crop need hold it."""
    time = np.arange(8 * RATE)
    soundfile.write(tmp_path / "good.wav", noise(2), RATE, subtype="FLOAT")
    hot = noise(8)
    crest = slice(7 * RATE, 7 * RATE + 400)
    hot[crest] = (1.6 * np.sin(np.pi / 2 * time + np.pi / 4))[crest, None]  # +4.1 dBTP
    soundfile.write(tmp_path / "hot.wav", hot, RATE, subtype="FLOAT")
    spectrum = np.fft.rfft(noise(2, seed=4), axis=0)
    spectrum[11_000 * 2 :] = 0
    soundfile.write(tmp_path / "dull.wav", np.fft.irfft(spectrum, axis=0), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "spoilt.flac", noise(2, seed=5), RATE)
    data = (tmp_path / "spoilt.flac").read_bytes()
    spoilt = data[: len(data) // 2] + bytes(20_000) + data[len(data) // 2 + 20_000 :]
    (tmp_path / "spoilt.flac").write_bytes(spoilt)  # its end can be read
    crops = cached(tmp_path, filters={"true_peak_db": 1.0, "bandwidth_hz": 14_000})
    assert [track.path.name for track in crops.tracks] == ["good.wav"]
    told = {line.split(": ")[0].split("/")[-1]: line for line in crops.left_out}
    assert set(told) == {"hot.wav", "dull.wav", "spoilt.flac"}
    assert told["hot.wav"].endswith("refused as a whole: true_peak")
    assert told["dull.wav"].endswith("refused as a whole: bandwidth")
    assert "damaged" in told["spoilt.flac"]
    assert not items(crops, 0, 20)["dropped"].any()
    assert len(cached(tmp_path).tracks) == 3
    with pytest.raises(ConfigError, match="no track is left; .*dull.wav: refused as a whole"):
        cached(tmp_path, filters={"true_peak_db": -60})


def test_more_audio_than_memory_is_refused_in_hours_and_bytes(folder, monkeypatch):
    """4.5 s of stereo at 2 bytes a sample are 0.8 MB."""
    monkeypatch.setattr(cache_module, "free_bytes", lambda device: 700_000)
    with pytest.raises(ConfigError, match=r"0\.00 h of audio at 44100 Hz need \d+ bytes") as caught:
        cached(folder)
    assert "700000 (0.00 GB) are free" in str(caught.value) and "\n" not in str(caught.value)


def test_short_tracks_are_left_out_or_followed_by_silence(tmp_path):
    soundfile.write(tmp_path / "long.wav", noise(1), RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "short.wav", np.full((441, 2), 0.25), RATE, subtype="PCM_16")
    crops = cached(tmp_path)
    assert [track.path.name for track in crops.tracks] == ["long.wav"]
    assert "short.wav: 0.01 s, shorter than a crop of 0.11 s" in crops.left_out[0]
    (tmp_path / "long.wav").unlink()
    with pytest.raises(ConfigError, match="short_tracks: pad"):
        cached(tmp_path)
    crop = cached(tmp_path, short_tracks="pad")[0]["audio"]
    assert (crop[:, :441] == 0.25).all() and not crop[:, 441:].any()


# ------------------------------------------------------------------------------ in a run


def test_two_stages_on_the_same_tracks_decode_once(folder, monkeypatch):
    decoded, last = [], LastDecoded()
    original = cache_module._decoded
    monkeypatch.setattr(
        cache_module, "_decoded", lambda track, *rest: decoded.append(1) or original(track, *rest)
    )
    told = []

    def opened(**options):
        show = lambda *numbers: told.append(numbers)  # noqa: E731
        return open_crops(config(folder, cache="ram", **options), RATE, CPU, 1, show, last)

    opened()
    assert told == [(1, 3), (2, 3), (3, 3)]
    opened(augmentation={"limit": 0.3})
    assert len(decoded) == 3
    opened(filters={"true_peak_db": 12})
    assert len(decoded) == 6


@pytest.mark.parametrize("where", ["ram", "device"])
def test_a_run_trains_from_a_cache(recipe, tmp_path, where):
    recipe = recipe | {"data": recipe["data"] | {"cache": where}}
    assert start(recipe, tmp_path) == 0


def test_a_batch_reads_nothing_back_from_the_device(folder, monkeypatch):
    """Whatever asks a tensor for its numbers would wait for a GPU."""
    crops = cached(folder, cache="device", augmentation=EVERYTHING)

    def refuse(*_):
        raise AssertionError("asked the device")

    for name in ("item", "tolist", "nonzero", "numpy", "__bool__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    assert crops.batch(range(8), CPU)["audio"].shape == (8, 2, 5000)


def test_gathering_by_index_is_gathering_by_slices():
    """The way taken on a GPU gives what the one taken on a CPU gives."""
    audio = torch.arange(2000, dtype=torch.int16).reshape(2, 1000)
    starts = [0, 17, 600, 17, 900]
    sliced, indexed = gather_slices(audio, starts, 100), gather_by_index(audio, starts, 100)
    assert sliced.dtype == indexed.dtype == torch.int16 and torch.equal(sliced, indexed)
    assert sliced[1, :, 0].tolist() == [17, 1017]
