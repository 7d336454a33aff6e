"""How far music that stands at one ear leaks to the other.

    python panned.py corpus/manifest.jsonl [--split validation] [--every 2] [--weights MODEL]

Four seconds from the middle of each of these tracks as Mid in one ear and 18 and 30 dB quieter in
the other: the `panning` of `earvae evaluate` by band, a mean over tracks (docs/measures.md).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean

import torch

from earvae import EarVAE, codec
from earvae.audio import read_audio
from earvae.evaluation.metrics.octaves import BANDS_HZ
from earvae.evaluation.metrics.panning import panning_figures
from earvae.evaluation.metrics.signal import Signal
from earvae.tracks import find

RATE, SECONDS = 44_100, 4
QUIETER_DB = (18, 30)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("music", type=Path)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--weights", help="default: the shipped model")
    options = parser.parse_args()
    vae = EarVAE.from_pretrained(options.weights) if options.weights else EarVAE.from_pretrained()
    vae.eval()
    for quieter in QUIETER_DB:
        found: dict[str, list[float]] = {}
        for track in find([options.music], split=options.split).files[:: options.every]:
            audio = read_audio(track.path, RATE)
            middle = audio[:, audio.shape[1] // 2 :][:, : SECONDS * RATE].mean(dim=0)
            panned = torch.stack([middle, middle * 10 ** (-quieter / 20)])
            decoded = codec.reconstruct(vae, panned[None])[0]
            for name, value in panning_figures(Signal(decoded), Signal(panned)).items():
                if not math.isnan(value):
                    found.setdefault(name, []).append(value)
        means = {name: fmean(values) for name, values in found.items()}  # none, nan: none so loud
        told = (f"{band} kHz {means.get(f'panning_{band}', math.nan):+.1f}" for band in BANDS_HZ)
        print(f"{quieter} dB quieter: {', '.join(told)} dB", flush=True)


if __name__ == "__main__":
    main()
