"""Give a trained compact model the loudness of its originals: a copy with one factor set.

    python tools/match_loudness.py runs/compact/ema corpus/manifest.jsonl runs/compact/matched

Reconstructs 30 s from the middle of each track of a split (validation unless --split says
otherwise), and sets the decoder's last factor so that the median difference of integrated loudness
(ITU-R BS.1770) is --target. Prints it before and after.

With --treble, what is above 8 kHz first becomes so many decibels louder. A model that does not know
all of it is nearer to the music in energy with more of it, and in log-spectral distance with less
(tools/compare_treble.py).
"""

from __future__ import annotations

import argparse
import statistics

import torch
from measure_split import excerpt
from rich.console import Console
from rich.progress import track as progress

from earvae import EarVAE, codec
from earvae.config import SourceConfig
from earvae.evaluation.bands import TREBLE_HZ
from earvae.evaluation.loudness import loudness
from earvae.model.spectral import match_loudness, scale_residual
from earvae.training.sources import list_tracks


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="any source of EarVAE.from_pretrained")
    parser.add_argument("manifest")
    parser.add_argument("output", help="folder for the copy")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--target", type=float, default=0.0, help="median difference, LU")
    parser.add_argument("--treble", type=float, default=0.0, help="dB, of what is above 8 kHz")
    arguments = parser.parse_args()

    vae = EarVAE.from_pretrained(arguments.source)
    if arguments.treble:
        try:
            scale_residual(vae.decoder, arguments.treble, TREBLE_HZ)
        except ValueError as error:
            parser.error(f"--treble: {arguments.source}: {error}")
    tracks, _ = list_tracks(SourceConfig(tracks=arguments.manifest, split=arguments.split))
    excerpts = [excerpt(track, vae.sample_rate) for track in tracks]
    for name in ("before", "after"):
        differences = []
        for audio in progress(excerpts, console=Console(stderr=True), description=name):
            decoded = codec.reconstruct(vae, audio[None])[0]
            both = [loudness(x, vae.sample_rate).lufs for x in (decoded, audio)]
            if None not in both:  # silence has no loudness
                differences.append(both[0] - both[1])
        median, mean = statistics.median(differences), statistics.mean(differences)
        print(f"{name}: median {median:+.2f} LU, mean {mean:+.2f}, {len(differences)} tracks")
        if name == "before":
            match_loudness(vae.decoder, [d - arguments.target for d in differences])
    vae.save_pretrained(arguments.output)
    print(f"{arguments.output}: factor {float(vae.decoder.makeup):.4f}")


if __name__ == "__main__":
    main()
