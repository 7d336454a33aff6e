"""Training on latents: each entry once an epoch, in one order, whoever reads it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from earvae import tar
from earvae.latents import LatentDataset, file, statistics
from earvae.latents.file import Latents
from earvae.latents.metadata import LatentsError, Metadata
from earvae.latents.statistics import Statistics

CHANNELS, HOP, RATE = 3, 64, 44_100


def entry(number: int, frames: int = 12, padding: int = 0, std: bool = False) -> Latents:
    """Latents whose values say where they are from: 100 · number + frame, and channel / 10."""
    samples = (frames - padding) * HOP - 5
    metadata = Metadata(
        sample_rate=RATE, original_rate=RATE, channels=2, hop_length=HOP, model="m",
        latents="mean", source=f"song {number}.flac", settings="s", samples=samples,
        original_samples=samples, track_samples=samples + 10 * HOP, sample_offset=10 * HOP,
        original_offset=10 * HOP, frames=frames, frames_valid=frames - padding,
    )  # fmt: skip
    values = 100.0 * number + np.arange(frames) + np.arange(CHANNELS)[:, None] / 10
    values = values.astype(np.float32)
    return Latents(metadata, values, np.full_like(values, 0.5) if std else None)


def write(folder, entries, form="safetensors"):
    """The entries as files of a folder, or as a shard of four entries at most each."""
    folder.mkdir()
    kind = form.split()[-1]
    names = [f"{number:03d}.{kind}" for number in range(len(entries))]
    data = [one.to_npy() if kind == "npy" else one.to_safetensors() for one in entries]
    if not form.startswith("shards"):
        for name, content, one in zip(names, data, entries, strict=True):
            (folder / name).write_bytes(content)
            if kind == "npy":
                (folder / name).with_suffix(".json").write_bytes(one.to_sidecar())
        return folder
    lines = []
    for first in range(0, len(entries), 4):
        with (folder / f"shard-{first // 4:06d}.tar").open("wb") as shard:
            for number in range(first, min(first + 4, len(entries))):
                offset = tar.append(shard, names[number], data[number])
                sidecar = names[number].replace(kind, "json")
                tar.append(shard, sidecar, entries[number].to_sidecar())
                place = {"shard": f"shard-{first // 4:06d}.tar", "offset": offset}
                lines.append(place | {"file": names[number], "size": len(data[number])})
            tar.end(shard)
    if form.startswith("shards listed"):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "index.jsonl").write_text(text)
    return folder


FORMS = [
    "safetensors", "npy", "shards safetensors", "shards npy", "shards listed safetensors",
    "shards listed npy",
]  # fmt: skip


@pytest.fixture
def ten(tmp_path):
    return write(tmp_path / "ten", [entry(number) for number in range(10)])


def numbers(items) -> list[int]:
    return [int(item["latents"][0, 0]) // 100 for item in items]


def same(one, other) -> bool:
    return torch.equal(one["latents"], other["latents"]) and one["metadata"] == other["metadata"]


@pytest.mark.parametrize("form", FORMS)
def test_every_layout_holds_the_same_items(tmp_path, form):
    folder = write(tmp_path / "in", [entry(number, 9 + number) for number in range(6)], form)
    data = LatentDataset(folder, shuffle=False, epochs=1)
    assert (data.entries, data.channels, data.hop_length) == (6, CHANNELS, HOP)
    for number, item in enumerate(data):
        assert np.array_equal(item["latents"], entry(number, 9 + number).values)
        assert item["latents"].dtype == torch.float32 and item["mask"].all()
        assert item["metadata"]["source"] == f"song {number}.flac"


def test_a_crop_says_where_it_is_from_and_what_of_it_is_audio(tmp_path):
    folder = write(tmp_path / "in", [entry(0, 20, padding=3), entry(1, 6, padding=2)])
    data = LatentDataset(folder, frames=8, shuffle=False, epochs=40)
    starts = set()
    for item in data:
        values, mask, told = item["latents"], item["mask"], item["metadata"]
        assert values.shape == (CHANNELS, 8) and mask.dtype == torch.bool and mask.shape == (8,)
        if told["source"] == "song 0.flac":
            start = int(values[0, 0])
            starts.add(start)
            assert torch.equal(values, torch.from_numpy(entry(0, 20).values[:, start : start + 8]))
            assert mask.all() and told["sample_offset"] == (10 + start) * HOP
            assert told["seconds_start"] == pytest.approx((10 + start) * HOP / RATE)
            assert told["samples"] == min(8 * HOP, 17 * HOP - 5 - start * HOP)
        else:  # whole, then its own padding, then zeros
            assert mask.tolist() == [True] * 4 + [False] * 4
            assert values[0].tolist() == [100, 101, 102, 103, 104, 105, 0, 0]
            assert told["samples"] == 4 * HOP - 5 and told["sample_offset"] == 10 * HOP
    assert starts == set(range(10))  # never into the padding


def test_two_ranks_of_two_workers_see_every_entry_once_an_epoch(ten):
    epochs = [[], [], []]
    for rank in range(2):
        data = LatentDataset(ten, frames=4, seed=3, rank=rank, world_size=2, epochs=3, batch_size=2)
        plain = list(data)
        loader = DataLoader(data, batch_size=2, num_workers=2)
        loaded = [number for batch in loader for number in batch["latents"][:, 0, 0].tolist()]
        assert loaded == [item["latents"][0, 0] for item in plain]  # as without workers
        for item in plain:
            epochs[item["metadata"]["epoch"]] += numbers([item])
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_resuming_goes_on_with_any_number_of_workers_and_ranks(ten, steps):
    how = dict(frames=4, seed=5, batch_size=3)
    ranks = [LatentDataset(ten, rank=rank, world_size=2, **how) for rank in range(2)]
    whole = [first_batches(data, 12, 2) for data in ranks]
    state = ranks[0].state_dict(whole[0][steps - 1])
    assert state == ranks[1].state_dict(whole[1][steps - 1])
    state = json.loads(json.dumps(state))
    for workers, rank in ((0, 0), (2, 1)):
        again = LatentDataset(ten, rank=rank, world_size=2, **how)
        again.load_state_dict(state)
        for one, other in zip(
            first_batches(again, 5, workers), whole[rank][steps : steps + 5], strict=True
        ):
            assert torch.equal(one["latents"], other["latents"])
    alone = LatentDataset(ten, rank=0, world_size=1, **how)
    alone.load_state_dict(state)
    seen = [item["metadata"]["entry"] for _, item in zip(range(10), alone, strict=False)]
    both = [batch["metadata"]["entry"] for own in whole for batch in own[steps:]]
    assert set(seen) <= {name for names in both for name in names}
    left = 10 - steps * 6 % 10  # of the epoch
    assert len(set(seen[:left])) == left


def first_batches(data, count, workers):
    loader = DataLoader(data, batch_size=3, num_workers=workers)
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def test_a_state_counts_what_was_given_and_is_of_these_entries_only(ten):
    data = LatentDataset(ten, frames=4)
    items = iter(data)
    given = [next(items) for _ in range(13)]
    state, following = data.state_dict(), next(items)
    again = LatentDataset(ten, frames=4)
    again.load_state_dict(state)
    assert torch.equal(next(iter(again))["latents"], following["latents"])
    assert torch.equal(next(iter(data))["latents"], given[0]["latents"])  # from the beginning
    with pytest.raises(ValueError, match="of other entries, or of another seed"):
        LatentDataset(ten, seed=1).load_state_dict(state)


def test_a_loader_of_another_batch_size_is_noticed(ten):
    data = LatentDataset(ten, frames=4, batch_size=2)
    batch = first_batches(data, 1, 2)[0]
    with pytest.raises(ValueError, match="batch_size of its DataLoader"):
        data.state_dict(batch)


def test_samples_are_mean_and_std_and_depend_on_the_epoch_alone(tmp_path):
    folder = write(tmp_path / "in", [entry(0, 4000, std=True)])
    data = LatentDataset(folder, sample=True, epochs=2)
    one, other = data
    noise = one["latents"] - torch.from_numpy(entry(0, 4000).values)
    assert noise.mean() == pytest.approx(0, abs=0.02) and noise.std() == pytest.approx(0.5, 0.02)
    assert torch.equal(next(iter(data))["latents"], one["latents"])
    assert not torch.equal(one["latents"], other["latents"])
    bare = write(tmp_path / "bare", [entry(0)])
    with pytest.raises(LatentsError, match="holds no std .* --store mean\\+std"):
        next(iter(LatentDataset(bare, sample=True)))


def test_normalised_means_mean_0_and_spread_1_and_never_twice(tmp_path):
    entries = [entry(number) for number in range(5)]
    folder = write(tmp_path / "in", entries)
    stats, _ = statistics.measure(sorted(folder.iterdir()))
    (tmp_path / "latent_stats.json").write_text(stats.to_json())
    for given in (stats, str(tmp_path / "latent_stats.json")):
        items = LatentDataset(folder, statistics=given, epochs=1)
        values = torch.cat([item["latents"] for item in items], dim=1)
        assert values.mean(1).abs().max() < 1e-5 and (values.std(1) - 1).abs().max() < 0.01
    done = [
        Latents(replace(one.metadata, normalised=stats.digest), stats.normalise(one.values))
        for one in entries
    ]
    again = LatentDataset(write(tmp_path / "done", done), statistics=stats, shuffle=False)
    assert np.allclose(next(iter(again))["latents"], done[0].values)
    other = Statistics.of(entries[0])
    with pytest.raises(LatentsError, match=f"normalised by statistics {stats.digest}"):
        next(iter(LatentDataset(tmp_path / "done", statistics=other)))


def test_a_damaged_entry_ends_it_or_is_told_and_left_out(ten):
    path = ten / "004.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LatentsError, match="004.safetensors"):
        list(LatentDataset(ten, epochs=1))
    told = []
    items = list(LatentDataset(ten, epochs=1, problem=told.append))
    assert len(items) == 10 and set(numbers(items)) == {*range(10)} - {4}
    assert len(told) == 1 and "004.safetensors" in told[0]


def test_latents_of_two_models_are_not_mixed(ten):
    other = entry(0)
    other = replace(other, metadata=replace(other.metadata, model="other"))
    file.write(ten / "other.safetensors", other)
    with pytest.raises(LatentsError, match="other.safetensors holds .* of model other"):
        list(LatentDataset(ten, epochs=1))


@pytest.mark.parametrize(
    "how,message",
    [
        ({"frames": 0}, "frames must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": 1}, "belong together"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_arguments_out_of_range_are_named(ten, how, message):
    with pytest.raises(ValueError, match=message):
        LatentDataset(ten, **how)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(LatentsError, match="nowhere: no such"):
        LatentDataset(tmp_path / "nowhere")
    with pytest.raises(LatentsError, match="holds no"):
        LatentDataset(tmp_path)


def test_the_rank_is_torchruns(ten, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    data = LatentDataset(ten)
    assert (data.rank, data.world_size) == (1, 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", ["library", "index", "files"])
def test_what_lies_at_a_url_is_what_lies_on_the_disk(tmp_path, form, named):
    fsspec = pytest.importorskip("fsspec")
    folder = write(tmp_path / "in", [entry(number, 9 + number) for number in range(6)], form)
    if named != "files" and "listed" not in form:
        if form.startswith("shards"):
            with pytest.raises(LatentsError, match="is no library: there is no memory://"):
                LatentDataset(f"memory://{tmp_path.name}-{form.split()[-1]}")
            return
        names = sorted(path.name for path in folder.glob("*.??*") if path.suffix != ".json")
        lines = [{"file": name, "size": 1} for name in names]
        (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    system, place = fsspec.filesystem("memory"), f"/{tmp_path.name}-{form.replace(' ', '-')}"
    for path in folder.iterdir():
        system.pipe(f"{place}/{path.name}", path.read_bytes())
    url = f"memory:/{place}"
    suffix = {".tar"} if form.startswith("shards") else {f".{form}"}
    files = [f"{url}/{path.name}" for path in sorted(folder.iterdir()) if path.suffix in suffix]
    source = {"library": url, "index": f"{url}/index.jsonl", "files": files}[named]
    there = LatentDataset(source, frames=5, seed=1, epochs=1)
    here = LatentDataset(folder, frames=5, seed=1, epochs=1)
    for one, other in zip(there, here, strict=True):
        assert same(one, other)


def test_a_url_that_is_not_there_is_named():
    pytest.importorskip("fsspec")
    for url in ("memory://no/shard.tar", "memory://no/x.safetensors", "what://x/y.tar"):
        with pytest.raises(LatentsError, match=url) as caught:
            list(LatentDataset(url))
        assert str(caught.value).count(url) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stateful_loader_of_torchdata_goes_on(ten, workers):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        data = LatentDataset(ten, frames=4, batch_size=2)
        return loaders.StatefulDataLoader(data, batch_size=2, num_workers=workers)

    first, batches, state = loader(), [], None
    for number, batch in enumerate(first):
        batches.append(batch["latents"])
        if number == 4:
            state = first.state_dict()
        if number == 9:
            break
    again = loader()
    again.load_state_dict(state)
    for one, other in zip(batches[5:], again, strict=False):
        assert torch.equal(one, other["latents"])
