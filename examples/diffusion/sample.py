"""Make latents with a trained transformer, ready for `earvae decode --denormalise`.

    python sample.py runs/diffusion latents/train -o heard/latents/generated
    earvae decode heard/latents/generated -o heard/generated --denormalise latents/train

With ``--like FOLDER`` (of `excerpts.py`) there are as many, of the same names and classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from model import Transformer, sample

from earvae.latents import LatentDataset, file, statistics
from earvae.latents.metadata import Metadata


def described(dataset: LatentDataset, stats: statistics.Statistics, frames: int) -> Metadata:
    """What a file says of so many frames of normalised latents."""
    samples = frames * dataset.hop_length
    return Metadata(
        sample_rate=dataset.sample_rate, original_rate=dataset.sample_rate, channels=2,
        hop_length=dataset.hop_length, model=dataset.model, latents=stats.latents,
        normalised=stats.digest, samples=samples, original_samples=samples,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="of train.py")
    parser.add_argument("library", type=Path, help="that it was trained on, with its statistics")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--like", type=Path, metavar="FOLDER")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    stats, model = statistics.read(given.library), Transformer.load(given.run).to(given.device)
    frames, classes = model.config.frames, model.config.classes
    metadata = described(LatentDataset(given.library), stats, frames)
    names = [f"{n:03}_{classes[n % len(classes)]}".rstrip("_") for n in range(given.count)]
    if given.like:
        names = sorted(path.stem for path in given.like.iterdir())
    random = torch.Generator().manual_seed(given.seed)
    given.output.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(names), given.batch):
        batch = names[first : first + given.batch]
        noise = torch.randn(len(batch), model.config.channels, frames, generator=random)
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [numbers.get(name.partition("_")[2], len(classes)) for name in batch]
        label = torch.tensor(labels, device=given.device)
        with torch.autocast(given.device.split(":")[0], torch.bfloat16):
            made = sample(model, noise.to(given.device), label, given.steps, given.guidance)
        for name, latents in zip(batch, made.cpu().numpy(), strict=True):
            file.write(given.output / f"{name}.safetensors", file.Latents(metadata, latents))
        print(f"{first + len(batch)} of {len(names)}", flush=True)


if __name__ == "__main__":
    main()
