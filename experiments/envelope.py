"""Where does the STFT distance of a compact model come from, and how many numbers does its
spectral envelope need?

    python experiments/envelope.py corpus/manifest.jsonl shipped runs/compact/ema

First table: mean absolute and mean difference of log magnitudes (nepers, windows of 2048, floor as
in the STFT distance) by band, over 10 s from the middle of each validation track. Second: the share
of the variance of a frame's log band powers that so many principal components leave, fitted on
training crops, for the first model named.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table
from torch import Tensor

from earvae import EarVAE
from earvae.audio import read_audio
from earvae.config import DataConfig, SourceConfig
from earvae.training.crops import CropDataset
from earvae.training.loader import make_loader
from earvae.training.sources import Track, list_tracks

EDGES = (0, 250, 500, 1000, 2000, 4000, 8000, 12_000, 16_000, 22_051)  # Hz
COUNTS = (4, 8, 12, 16, 24, 32)
WINDOW, FLOOR = 2048, 1e-8  # of power, as auraloss has it


def log_magnitudes(audio: Tensor) -> Tensor:
    """``[2, samples]`` to ``[2, bins, frames]``."""
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(audio, WINDOW, WINDOW // 4, window=window, return_complex=True)
    return spectrum.abs().square().clamp_min(FLOOR).log() / 2


@torch.no_grad()
def errors_by_band(vae: EarVAE, clips: list[Tensor]) -> list[tuple[float, float]]:
    """Mean absolute and mean difference of each band, means over clips."""
    frequency = torch.arange(WINDOW // 2 + 1) * vae.sample_rate / WINDOW
    bands = [(frequency >= a) & (frequency < b) for a, b in zip(EDGES, EDGES[1:], strict=False)]
    found: list[list[tuple[float, float]]] = [[] for _ in bands]
    for clip in progress(clips, description="models"):
        ours = vae.decode(vae.encode(clip[None]).mean)[0, :, : clip.shape[1]]
        difference = log_magnitudes(ours) - log_magnitudes(clip)
        for values, band in zip(found, bands, strict=True):
            part = difference[:, band]
            values.append((float(part.abs().mean()), float(part.mean())))
    return [tuple(map(statistics.mean, zip(*values, strict=True))) for values in found]


@torch.no_grad()
def variance_left(vae: EarVAE, manifest: str, crops: int) -> list[float]:
    """Share of the variance that COUNTS principal components leave."""
    source = {"tracks": manifest, "split": "train"}
    data = DataConfig(sources=[source], workers=0)
    encoder, levels = vae.encoder, []
    for batch in make_loader(CropDataset(data, vae.sample_rate), 0, crops):
        frames = encoder.transform(batch["audio"])
        residual, level = encoder.residual(frames, *encoder.code.encode(frames))
        levels.append(encoder.envelope.measure(residual[level.squeeze(-1) > 1e-3]))
    variances = torch.linalg.eigvalsh(torch.cov(torch.cat(levels).double().T)).flip(0)
    return [float(variances[count:].sum() / variances.sum()) for count in COUNTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("models", nargs="+", help="`shipped`, or sources of EarVAE.from_pretrained")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--crops", type=int, default=400)
    arguments = parser.parse_args()
    models = {
        name: EarVAE.from_pretrained(None if name == "shipped" else name)
        for name in arguments.models
    }
    first = next(iter(models.values()))
    tracks, _ = list_tracks(SourceConfig(tracks=arguments.manifest, split="validation"))
    clips = [middle(track, arguments.seconds, first) for track in tracks]

    console = Console()
    table = Table(
        "model", *(f"{low}–{high} Hz" for low, high in zip(EDGES, EDGES[1:], strict=False))
    )
    for name, vae in models.items():
        rows = errors_by_band(vae, clips)
        table.add_row(name, *(f"{error:.2f} ({bias:+.2f})" for error, bias in rows))
    console.print(table)
    shares = variance_left(first, arguments.manifest, arguments.crops)
    table = Table("components", "variance left")
    for count, share in zip(COUNTS, shares, strict=True):
        table.add_row(str(count), f"{share:.1%}")
    console.print(table)


def middle(track: Track, seconds: float, vae: EarVAE) -> Tensor:
    """``seconds`` from the middle of a track, stereo at the model's rate, whole frames."""
    audio = read_audio(track.path, vae.sample_rate)
    wanted = min(audio.shape[1], int(seconds * vae.sample_rate)) // vae.hop_length * vae.hop_length
    start = (audio.shape[1] - wanted) // 2
    return audio[:, start : start + wanted].expand(2, -1)


if __name__ == "__main__":
    main()
