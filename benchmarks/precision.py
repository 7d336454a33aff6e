"""What half precision costs: round trips of cast models beside the same model's in float32.

    python benchmarks/precision.py                          the shipped clips, two minutes
    python benchmarks/precision.py song.flac other.mp3 --seconds 10 --models shipped

Of every file the stretch in its middle. SI-SDR is of the decoded audio, both channels as one
signal, against what the model gives in float32; latents' likewise. The least and the median over
files; a value that is not finite ends the run. The paper's architecture ("published"), the
compact one and εar-VAE2 have random weights: what trained ones lose depends on their activations.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from pathlib import Path

import torch
from machine import processor
from rich.console import Console
from rich.table import Table
from torch import Tensor

from earvae import CompactConfig, EarVAE, OobleckConfig, codec
from earvae.audio import read_audio
from earvae.config import EarVAE2Config
from earvae.si_sdr import si_sdr

CLIPS = Path(__file__).parents[1] / "tests" / "clips"
MODELS = {
    "shipped": EarVAE.from_pretrained,
    "published": lambda: EarVAE(OobleckConfig()),
    "compact": lambda: EarVAE(CompactConfig()),
    "earvae2": lambda: EarVAE(EarVAE2Config()),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@torch.no_grad()
def main() -> None:
    args = parsed()
    table = Table(title=f"{processor(args.device)}, torch {torch.__version__}, {args.seconds:g} s")
    for column in ("model", "precision", "latents dB", "audio dB, least", "median", "files"):
        table.add_column(column, justify="right")
    for name in args.models:
        torch.manual_seed(0)
        vae = MODELS[name]().eval().to(args.device)
        music = [middle(path, vae.sample_rate, args.seconds).to(args.device) for path in args.files]
        latents = [codec.encode(vae, audio).mode() for audio in music]
        decoded = [codec.reconstruct(vae, audio) for audio in music]
        for precision in args.precisions:
            cast = copy.deepcopy(vae).to(DTYPES[precision])
            codes = [codec.encode(cast, audio).mode() for audio in music]
            sounds = [codec.reconstruct(cast, audio) for audio in music]
            in_codes = [decibels(o, e) for o, e in zip(codes, latents, strict=True)]
            in_sound = [decibels(o, e) for o, e in zip(sounds, decoded, strict=True)]
            figures = min(in_codes), min(in_sound), statistics.median(in_sound)
            table.add_row(name, precision, *(f"{value:.1f}" for value in figures), str(len(music)))
    Console(width=100).print(table)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(CLIPS.glob("*.flac")))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each file (default 3)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def middle(path: Path, rate: int, seconds: float) -> Tensor:
    """``[1, 2, samples]`` at ``rate`` Hz from the middle of a file."""
    audio = read_audio(path, rate)
    samples = min(audio.shape[1], round(seconds * rate))
    return audio[None, :, (audio.shape[1] - samples) // 2 :][..., :samples]


def decibels(ours: Tensor, expected: Tensor) -> float:
    """SI-SDR of everything as one signal."""
    if not ours.isfinite().all():
        raise SystemExit("not finite")
    flat = [x.double().cpu().reshape(1, -1) for x in (ours, expected)]
    return float(si_sdr(*flat))


if __name__ == "__main__":
    main()
