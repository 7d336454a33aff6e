"""How many bases should the linear code choose from, and over how long? SI-SDR of the code alone.

    python experiments/classes.py corpus/manifest.jsonl

Fits an adaptive code of 54 components in 1, 16, 64 and 144 bases on training crops, and measures
it on validation crops, with the basis chosen frame by frame and over three frames; median and mean
over crops. One basis is the ordinary linear code.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from front_end import HOP, corpus
from rich.console import Console
from rich.table import Table
from torch import Tensor

from earvae.config import SpectralConfig
from earvae.evaluation.metrics import si_sdr
from earvae.model.adaptive import AdaptiveCode, fit_adaptive_code
from earvae.model.transform import FrameTransform
from earvae.training.loader import make_loader


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("--crops", type=int, default=1500, help="to fit on, 1.5 s each")
    parser.add_argument("--test-crops", type=int, default=64, help="to measure on, 6 s each")
    parser.add_argument("--top-hz", type=float, default=22_050, help="the code is zero above this")
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 16, 64, 144])
    arguments = parser.parse_args()

    config = SpectralConfig()
    transform = FrameTransform(HOP, config.mdct_length)
    covered = transform.frequencies(config.sample_rate) < arguments.top_hz
    train = corpus(arguments.manifest, "train", 64 * HOP)
    frames = [transform(b["audio"]) for b in make_loader(train, 0, arguments.crops)]
    test = corpus(arguments.manifest, "validation", 256 * HOP)
    crops = [b["audio"] for b in make_loader(test, 0, arguments.test_crops)]

    table = Table(title="SI-SDR of the linear code alone, dB: median (mean)")
    for column in ("bases", "chosen frame by frame", "over three frames"):
        table.add_column(column, justify="right")
    for classes in arguments.classes:
        torch.manual_seed(0)
        channels, subspace = config.linear_channels, config.linear_subspace
        code = AdaptiveCode(transform.features, channels, classes, subspace, frames=1)
        fit_adaptive_code(code, frames, covered)
        row = []
        for code.frames in (1, 3):
            values = [v for crop in crops for v in _si_sdr(transform, code, crop)]
            row.append(f"{statistics.median(values):.2f} ({statistics.mean(values):.2f})")
        table.add_row(str(classes), *row)
    Console().print(table)


def _si_sdr(transform: FrameTransform, code: AdaptiveCode, audio: Tensor) -> list[float]:
    decoded = transform.inverse(code.decode(*code.encode(transform(audio))))
    return [float(si_sdr(ours, theirs)) for ours, theirs in zip(decoded, audio, strict=True)]


if __name__ == "__main__":
    main()
