"""Give a trained spectral model the loudness of its originals: a copy with one factor set.

    python tools/match_loudness.py runs/spectral/ema corpus/manifest.jsonl runs/spectral/matched

Reconstructs 30 s from the middle of each track of a split (validation unless --split says
otherwise), and sets the decoder's last factor so that the median difference of integrated loudness
(ITU-R BS.1770) is --target. Prints it before and after.

With --treble, what is above 8 kHz first becomes so many decibels louder. A model that does not know
all of it is nearer to the music in energy with more of it, and in log-spectral distance with less.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable

import torch
from rich.console import Console
from rich.progress import track as progress

from earvae import EarVAE, tracks
from earvae.evaluation.excerpts import SAMPLE_RATE, Excerpt, Span, read_excerpt, references
from earvae.evaluation.metrics import Signal
from earvae.evaluation.metrics.loudness import loudness_figures
from earvae.evaluation.metrics.treble import TREBLE_HZ
from earvae.evaluation.systems.models import EarVAESystem
from earvae.model.spectral import SpectralDecoder


def differences(vae: EarVAE, excerpts: list[Excerpt], title: str) -> list[float]:
    """Loudness of reconstructions over the originals', LU; silence has none. Prints a summary."""
    system, found = EarVAESystem(vae), []
    for excerpt in progress(excerpts, console=Console(stderr=True), description=title):
        ours = Signal(system.round_trip(excerpt.audio), SAMPLE_RATE)
        figures = loudness_figures(ours, Signal(excerpt.audio, SAMPLE_RATE))
        found.append(figures["lufs_difference"])
    found = [difference for difference in found if not math.isnan(difference)]
    median, mean = statistics.median(found), statistics.mean(found)
    print(f"{title}: median {median:+.2f} LU, mean {mean:+.2f}, {len(found)} tracks")
    return found


@torch.no_grad()
def match_loudness(decoder: SpectralDecoder, differences: Iterable[float]) -> None:
    """Set ``makeup`` from the loudness of trained reconstructions, in LU above the originals: as
    many are louder as are quieter afterwards. It is rounded to half precision."""
    gain = 10 ** (-statistics.median(differences) / 20)
    decoder.makeup.mul_(gain).copy_(decoder.makeup.half())


@torch.no_grad()
def scale_residual(decoder: SpectralDecoder, decibels: float, from_hz: float) -> None:
    """Make what the decoder adds to the linear code this much louder from ``from_hz`` up.

    Raises:
        ValueError: the linear code reaches up there; the two must keep their proportion.
    """
    above = decoder.transform.frequencies(decoder.config.sample_rate) >= from_hz
    if decoder.code.explained[:, above].any():
        raise ValueError(f"the linear code is not zero above {from_hz:g} Hz, so choose higher")
    gain = 10 ** (decibels / 20)
    decoder.shape.weight[above] *= gain
    decoder.shape.bias[above] *= gain


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
    music = tracks.find([arguments.manifest], split=arguments.split)
    excerpts = [read_excerpt(track, Span()) for track in references(music.files)]
    before = differences(vae, excerpts, "before")
    match_loudness(vae.decoder, [difference - arguments.target for difference in before])
    differences(vae, excerpts, "after")
    vae.save_pretrained(arguments.output)
    print(f"{arguments.output}: factor {float(vae.decoder.makeup):.4f}")


if __name__ == "__main__":
    main()
