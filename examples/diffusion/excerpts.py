"""Stretches of real music to compare samples with: their latents, the originals, and noise.

    python excerpts.py latents/validation latents/train -o heard --music corpus --count 8

``heard/latents/decoded`` gets random stretches of the first library, normalised by the statistics
of the second, ``heard/latents/noise`` as much noise of the same mean and spread, and
``heard/original`` the music itself, out of the folder that the library was made of.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
from sample import described
from train import class_of

from earvae.latents import LatentDataset, file, statistics


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path, help="to take stretches of")
    parser.add_argument("statistics", type=Path, help="or the library that they lie in")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--music", type=Path, required=True, help="that the first was made of")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--frames", type=int, default=432)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--class-depth", type=int, default=0, help="as given to train.py")
    given = parser.parse_args(arguments)
    stats = statistics.read(given.statistics)
    dataset = LatentDataset(given.library, given.frames, stats, seed=given.seed)
    metadata = described(dataset, stats, given.frames)
    seconds = metadata.samples / metadata.sample_rate
    decoded, noise, original = folders = (
        given.output / "latents/decoded", given.output / "latents/noise", given.output / "original"
    )  # fmt: skip
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(given.seed)
    whole = (item for item in dataset if item["mask"].all())
    for number, item in enumerate(islice(whole, given.count)):
        source = item["metadata"]["source"]
        name = f"{number:03}_{class_of(source, given.class_depth)}".rstrip("_")
        latents = item["latents"].numpy()
        white = random.standard_normal(latents.shape, np.float32)
        for folder, values in ((decoded, latents), (noise, white)):
            file.write(folder / f"{name}.safetensors", file.Latents(metadata, values))
        with soundfile.SoundFile(given.music / source) as track:
            track.seek(round(item["metadata"]["seconds_start"] * track.samplerate))
            sound = track.read(round(seconds * track.samplerate), "float32")
            soundfile.write(original / f"{name}.wav", sound, track.samplerate, "FLOAT")


if __name__ == "__main__":
    main()
