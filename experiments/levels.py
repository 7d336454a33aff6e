"""How near can a decoder come that knows the linear code and levels, but no fine structure?

    python experiments/levels.py corpus/manifest.jsonl shipped OTHER_MODEL

For each model, on ten seconds from the middle of each validation track (means over tracks):

- *model*: as it is;
- *linear code*: that alone;
- *levels of bands*: what the code leaves has random signs, at its true level in each band of the
  model's envelope and each block;
- *levels of bins*: the true magnitude in every bin, and random signs.

The last two are no limits: a trained decoder finds better signs than random ones.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from envelope import middle
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table
from torch import Tensor

from earvae import EarVAE
from earvae.config import SourceConfig
from earvae.evaluation.metrics import Signal, si_sdr, stft_distance
from earvae.evaluation.metrics.treble import treble_figures
from earvae.model.spectral import PROTECTED_SHARE
from earvae.training.data import list_tracks


@torch.no_grad()
def variants(vae: EarVAE, audio: Tensor) -> dict[str, Tensor]:
    """Each row's audio ``[2, samples]``."""
    encoder, code, envelope = vae.encoder, vae.encoder.code, vae.encoder.envelope
    frames = encoder.transform(audio[None])
    linear, chosen = code.encode(frames)
    kept = code.decode(linear, chosen)
    residual, level = encoder.residual(frames, linear, chosen)
    free = chosen @ (code.explained < PROTECTED_SHARE).float()  # where a decoder may add anything
    unit = chosen @ code.residual_std * level * free
    signs = torch.randn(residual.shape, generator=torch.Generator().manual_seed(0)).sign()
    bands = envelope.spread(envelope.measure(residual) / 2).exp()
    spectra = {
        "linear code": kept,
        "levels of bands": kept + signs * bands * unit,
        "levels of bins": kept + signs * residual.abs() * unit,
    }
    audible = {name: encoder.transform.inverse(value)[0] for name, value in spectra.items()}
    return {"model": vae.decode(vae.encode(audio[None]).mode())[0], **audible}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("models", nargs="+", help="`shipped`, or sources of EarVAE.from_pretrained")
    arguments = parser.parse_args()
    tracks, _ = list_tracks(SourceConfig(tracks=arguments.manifest, split="validation"))
    table = Table("model", "what is known", "STFT ↓", "LSD above 8 kHz ↓", "SI-SDR dB ↑")
    for name in arguments.models:
        vae = EarVAE.from_pretrained(None if name == "shipped" else name)
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for track in progress(tracks, console=Console(stderr=True), description=name):
            audio = middle(track, 10, vae)
            for row, ours in variants(vae, audio).items():
                treble = treble_figures(Signal(ours), Signal(audio))["lsd_high"]
                figures = (stft_distance(ours, audio), treble, si_sdr(ours, audio).mean())
                rows.setdefault(row, []).append(tuple(map(float, figures)))
        for row, figures in rows.items():
            stft, treble, waveform = map(statistics.mean, zip(*figures, strict=True))
            table.add_row(name, row, f"{stft:.3f}", f"{treble:.1f}", f"{waveform:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
