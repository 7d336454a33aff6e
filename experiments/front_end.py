"""Which fixed frames? SI-SDR of the optimal linear code over frames of several kinds.

    python experiments/front_end.py corpus/manifest.jsonl

Every kind codes stereo music with the same budget, 64 numbers per 1024 samples: MDCT blocks of
several lengths, and STFT frames (square-root Hann window of 2048, hop 1024; PCA does not care
whether it sees the windowed samples or their spectrum, so it sees the samples). Fitted on
training crops, measured on validation crops; median and mean over crops.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from earvae.config import DataConfig
from earvae.evaluation.metrics import si_sdr
from earvae.model.linear import FrameStatistics, code_from_covariance
from earvae.model.transform import FrameTransform, mid_side
from earvae.training.crops import CropDataset
from earvae.training.loader import make_loader

HOP = 1024


class WindowedFrames:
    """Frames of 2·HOP windowed M/S samples, and their overlap-add."""

    features = 4 * HOP

    def __init__(self) -> None:
        n = torch.arange(2 * HOP) + 0.5
        self.window = torch.sin(math.pi * n / (2 * HOP))

    def forward(self, audio: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(mid_side(audio), (HOP // 2, HOP // 2))
        frames = padded.unfold(2, 2 * HOP, HOP) * self.window  # [batch, 2, frames, 2·HOP]
        return frames.transpose(1, 2).flatten(2)

    def inverse(self, frames: Tensor) -> Tensor:
        frames = frames.unflatten(2, (2, 2 * HOP)).transpose(1, 2) * self.window
        batch, _, count, _ = frames.shape
        audio = frames.new_zeros(batch, 2, (count + 1) * HOP)
        for index in range(count):
            audio[..., index * HOP : (index + 2) * HOP] += frames[:, :, index]
        return mid_side(audio[..., HOP // 2 : -(HOP // 2)])


def measure(frames_of: Callable, audio_of: Callable, features: int, channels: tuple[int, ...],
            train: list[Tensor], test: list[Tensor]) -> dict[int, list[float]]:  # fmt: skip
    statistics_ = FrameStatistics(features)
    for batch in train:
        statistics_.update(frames_of(batch))
    covariance, _ = statistics_.finish()
    results = {}
    for count in channels:
        code = code_from_covariance(covariance, count)
        values: list[float] = []
        for audio in test:
            decoded = audio_of(code.decode(code.encode(frames_of(audio))))
            values += si_sdr(decoded, audio).tolist()
        results[count] = values
    return results


def corpus(manifest: str, split: str, samples: int) -> CropDataset:
    """Crops of a split of the corpus."""
    source = {"tracks": manifest, "split": split}
    return CropDataset(DataConfig(sources=[source], crop_samples=samples, workers=0), 44_100)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("--train", type=int, default=800, help="crops of 1.5 s to fit on")
    parser.add_argument("--test", type=int, default=64, help="crops of 6 s to measure on")
    arguments = parser.parse_args()
    crops = {
        split: [
            batch["audio"]
            for batch in make_loader(corpus(arguments.manifest, split, samples), 0, count)
        ]
        for split, samples, count in (
            ("train", 64 * HOP, arguments.train),
            ("validation", 256 * HOP, arguments.test),
        )
    }
    table = Table(title=f"linear code, {arguments.test} validation crops of 6 s")
    for column in ("frames", "components per 1024 samples", "median SI-SDR", "mean SI-SDR"):
        table.add_column(column, justify="right")
    kinds = {
        "MDCT 256": (FrameTransform(HOP, 256), 1),
        "MDCT 512": (FrameTransform(HOP, 512), 1),
        "MDCT 1024": (FrameTransform(HOP, 1024), 1),
        "MDCT 2048": (FrameTransform(2 * HOP, 2048), 2),
        "STFT 2048": (WindowedFrames(), 1),
    }
    for name, (frames, hops) in kinds.items():
        budgets = (32, 48, 56, 60, 64) if name == "MDCT 512" else (64,)
        results = measure(
            frames.forward, frames.inverse, frames.features, tuple(hops * k for k in budgets),
            crops["train"], crops["validation"],
        )  # fmt: skip
        for count, values in results.items():
            table.add_row(
                name, str(count // hops),
                f"{statistics.median(values):.2f}", f"{statistics.mean(values):.2f}",
            )  # fmt: skip
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
