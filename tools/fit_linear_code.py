"""Fit the linear baseline that comes with the package, on training crops of a corpus.

    python tools/fit_linear_code.py corpus/manifest.jsonl

Writes src/earvae/evaluation/systems/linear_code.safetensors: the 64 principal components of
frames of 1024 stereo samples (two MDCT blocks of 512), sorted by variance, in half precision.
Crops are 1.5 s long, drawn with probability proportional to the tracks' duration (seed 0); each
counts alike, however loud. Needs the corpus.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from rich.progress import track as progress
from safetensors.torch import save_file
from torch import Tensor

from earvae import tracks
from earvae.evaluation.excerpts import SAMPLE_RATE
from earvae.evaluation.systems.models import LINEAR_CODE
from earvae.model.pca import at_unit_level, principal_components
from earvae.model.transform import FrameTransform

HOP, MDCT, COMPONENTS = 1024, 512, 64
CROP_FRAMES = 64


def crops(manifest: Path, count: int) -> Iterator[Tensor]:
    """Random stereo crops ``[2, CROP_FRAMES * HOP]`` of the training split."""
    music = tracks.find([manifest], split=tracks.TRAIN).files
    durations = np.array([track.duration for track in music])
    random = np.random.default_rng(0)
    for index in random.choice(len(music), count, p=durations / durations.sum()):
        with soundfile.SoundFile(music[index].path) as file:
            rate = file.samplerate
            wanted = -(-CROP_FRAMES * HOP * rate // SAMPLE_RATE)
            file.seek(int(random.random() * max(0, file.frames - wanted)))
            audio = file.read(wanted, dtype="float32", always_2d=True)
        if rate != SAMPLE_RATE:
            audio = soxr.resample(audio, rate, SAMPLE_RATE)
        audio = audio[: CROP_FRAMES * HOP].T
        audio = np.pad(audio, ((0, 0), (0, CROP_FRAMES * HOP - audio.shape[1])))
        yield torch.from_numpy(np.ascontiguousarray(audio))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--crops", type=int, default=1500)
    parser.add_argument("--output", type=Path, default=LINEAR_CODE)
    arguments = parser.parse_args()

    transform = FrameTransform(HOP, MDCT)
    drawn = progress(crops(arguments.manifest, arguments.crops), total=arguments.crops)
    frames = (transform(audio[None]) for audio in drawn)
    excerpts = (at_unit_level(excerpt).flatten(0, 1) for excerpt in frames)
    covariance = sum((excerpt.T @ excerpt).double() for excerpt in excerpts)
    basis, _ = principal_components(covariance, COMPONENTS)
    metadata = {"hop_length": HOP, "mdct_length": MDCT, "crops": arguments.crops}
    save_file(
        {"basis": basis.to(torch.float16).contiguous()},
        arguments.output,
        {name: str(value) for name, value in metadata.items()},
    )
    print(f"{arguments.output}: {COMPONENTS} components")


if __name__ == "__main__":
    main()
