"""Latents to train on: items a second of LatentDataset, beside the reading of a file an item.

    python benchmarks/latents.py                      tracks of three minutes
    python benchmarks/latents.py --seconds 10         short entries
    python benchmarks/latents.py --workers 2

Makes a library of random latents in every layout, and draws batches of random crops from each
through a plain DataLoader: by LatentDataset, and by the pattern of stable-audio-tools'
PreEncodedDataset (a random index; the whole .npy and its JSON read; a crop cut), on the same .npy
files. The ways take turns; the best round of each is told, with the files in the cache of the
system. Without workers seconds are those of the CPU, which other programs hardly touch.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from earvae import tar
from earvae.latents import LatentDataset
from earvae.latents.file import Latents
from earvae.latents.metadata import Metadata

RATE, HOP, CHANNELS = 44_100, 1024, 64
BATCH = 16


class FileAnItem(Dataset):
    """The pattern of PreEncodedDataset."""

    def __init__(self, folder: Path, frames: int) -> None:
        self.paths = sorted(map(str, folder.rglob("*.npy")))
        self.frames = frames

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        latents = torch.from_numpy(np.load(self.paths[index]))
        with open(self.paths[index].replace(".npy", ".json")) as file:
            mask = json.load(file)["padding_mask"]
        last = len(mask) - 1 - mask[::-1].index(1)
        start = random.randint(0, last - self.frames) if last > self.frames else 0
        stop = start + self.frames
        return latents[:, start:stop], torch.tensor(mask[start:stop])


def make(folder: Path, files: int, seconds: float) -> None:
    """The same entries as safetensors, as .npy, and as shards of either."""
    frames = round(seconds * RATE / HOP)
    samples = frames * HOP
    source = np.random.default_rng(0)
    for layout in ("safetensors", "npy", "shards"):
        (folder / layout).mkdir()
    shards = [(folder / "shards" / f"shard-{k:06d}.tar").open("wb") for k in range(-(-files // 64))]
    for number in range(files):
        metadata = Metadata(
            sample_rate=RATE, original_rate=RATE, channels=2, hop_length=HOP, model="m",
            latents="mean", settings="s", source=f"{number}.flac", track_samples=samples,
            samples=samples, sample_offset=0, original_samples=samples, original_offset=0,
            frames=frames, frames_valid=frames,
        )  # fmt: skip
        values = source.standard_normal((CHANNELS, frames), dtype=np.float32)
        latents = Latents(metadata, values)
        name, sidecar = f"{number:06d}", latents.to_sidecar()
        (folder / "npy" / f"{name}.npy").write_bytes(latents.to_npy())
        (folder / "npy" / f"{name}.json").write_bytes(sidecar)
        (folder / "safetensors" / f"{name}.safetensors").write_bytes(latents.to_safetensors())
        tar.append(shards[number // 64], f"{name}.safetensors", latents.to_safetensors())
        tar.append(shards[number // 64], f"{name}.json", sidecar)
    for shard in shards:
        tar.end(shard)
        shard.close()


def speed(loader: DataLoader, batches: int) -> float:
    """Items a second, without the first batch: workers have started then."""
    clock = time.perf_counter if loader.num_workers else time.process_time
    iterator = iter(loader)
    next(iterator)
    started = clock()
    count = sum(1 for _ in islice(iterator, batches))
    return count * BATCH / (clock() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=180.0, help="of a track")
    parser.add_argument("--frames", type=int, default=256, help="of a crop")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batches", type=int, default=40, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, arguments.files, arguments.seconds)
        how = {"batch_size": BATCH, "num_workers": arguments.workers}

        def ours(layout: str, **more: object) -> Callable[[], DataLoader]:
            data = LatentDataset(folder / layout, frames=arguments.frames, batch_size=BATCH, **more)
            return lambda: DataLoader(data, **how)

        def pattern() -> DataLoader:
            data = FileAnItem(folder / "npy", arguments.frames)
            sampler = torch.utils.data.RandomSampler(data, num_samples=BATCH * 10_000)
            return DataLoader(data, sampler=sampler, **how)

        ways = {
            "pattern of PreEncodedDataset, .npy": pattern,
            "LatentDataset, .npy": ours("npy"),
            "LatentDataset, .safetensors": ours("safetensors"),
            "LatentDataset, shards": ours("shards"),
        }
        best = dict.fromkeys(ways, 0.0)
        for _ in range(arguments.rounds):
            for way, loader in ways.items():
                best[way] = max(best[way], speed(loader(), arguments.batches))
    print(f"{arguments.files} entries of {arguments.seconds:g} s, crops of {arguments.frames} "
          f"frames, batches of {BATCH}, {arguments.workers} workers")  # fmt: skip
    first = next(iter(best.values()))
    for way, items in best.items():
        print(f"{way:36} {items:8.0f} items a second   {items / first:5.2f} ×")


if __name__ == "__main__":
    main()
