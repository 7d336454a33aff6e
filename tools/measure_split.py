"""Measure models on a split of the corpus: 30 s from the middle of each track.

    python tools/measure_split.py corpus/manifest.jsonl --split test --output results.json

Rows: the shipped model (or --weights), the same architecture untrained (with its fitted linear
code but no envelope code, seed 0), and the linear baseline: the same transform keeping its 64
best fixed linear
components per frame (PCA fitted on training crops). Columns as in docs/paper.md; median and mean
over tracks. Needs the train and dev extras and the corpus.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table
from torch import Tensor

from earvae import EarVAE, codec
from earvae.config import DataConfig, SourceConfig, SpectralConfig
from earvae.evaluation.metrics import track_metrics
from earvae.model.linear import LinearCode, fit_linear_code
from earvae.model.transform import FrameTransform
from earvae.training.crops import CropDataset
from earvae.training.loader import make_loader
from earvae.training.sources import Track, list_tracks

SECONDS = 30
COLUMNS = {
    "si_sdr": "SI-SDR dB ↑",
    "mel": "Mel ↓",
    "stft": "STFT ↓",
    "icpc": "ICPC ↑",
    "ccpc": "CCPC ↑",
}


def excerpt(track: Track, rate: int) -> Tensor:
    """30 s from the middle of a track, ``[2, samples]`` at ``rate`` Hz."""
    frames = min(track.frames, SECONDS * track.rate)
    start = (track.frames - frames) // 2
    audio, _ = soundfile.read(
        track.path, start=start, frames=frames, dtype="float32", always_2d=True
    )
    if track.rate != rate:
        audio = soxr.resample(audio, track.rate, rate)
    audio = audio if audio.shape[1] == 2 else np.repeat(audio, 2, axis=1)
    return torch.from_numpy(np.ascontiguousarray(audio.T))


def loud(audio: Tensor, rate: int, target_lufs: float = -9.0) -> Tensor:
    """The excerpt turned up to ``target_lufs`` through a soft limiter, as commercial masters."""
    import pyloudnorm

    meter = pyloudnorm.Meter(rate)
    gain = 1.0
    for _ in range(8):  # the limiter takes loudness away, so approach it in steps
        limited = torch.tanh(audio * gain)
        gain *= 10 ** ((target_lufs - meter.integrated_loudness(limited.T.numpy())) / 20)
    return torch.tanh(audio * gain)


def linear_baseline(config: SpectralConfig, manifest: str, crops: int, channels: int) -> LinearCode:
    """PCA code with ``channels`` components, fitted on training crops."""
    transform = FrameTransform(config.hop_length, config.mdct_length)
    data = DataConfig(sources=[{"tracks": manifest, "split": "train"}], workers=0)
    batches = make_loader(CropDataset(data, config.sample_rate), 0, crops)
    return fit_linear_code((transform(b["audio"]) for b in batches), transform.features, channels)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", help="a model source; default: the shipped model")
    parser.add_argument("--crops", type=int, default=1500, help="that the baseline is fitted on")
    parser.add_argument("--loud", action="store_true", help="turned up to -9 LUFS with a limiter")
    parser.add_argument("--output", type=Path, help="JSON file for the figures per track")
    arguments = parser.parse_args()

    vae = EarVAE.from_pretrained(arguments.weights)
    config, rate = vae.config, vae.sample_rate
    systems: dict[str, Callable[[Tensor], Tensor]] = {
        "trained": lambda audio: codec.reconstruct(vae, audio)
    }
    if isinstance(config, SpectralConfig):
        torch.manual_seed(0)
        untrained = EarVAE(config).eval()
        for part in ("code", "envelope"):  # both parts of the model share them
            fitted = getattr(vae.encoder, part).state_dict()
            getattr(untrained.encoder, part).load_state_dict(fitted)
        code = linear_baseline(config, arguments.manifest, arguments.crops, config.latent_channels)
        transform = vae.encoder.transform

        def linear(audio: Tensor) -> Tensor:
            pad = -audio.shape[2] % vae.hop_length
            frames = transform(torch.nn.functional.pad(audio, (0, pad)))
            return transform.inverse(code.decode(code.encode(frames)))[..., : audio.shape[2]]

        systems["untrained"] = lambda audio: codec.reconstruct(untrained, audio)
        systems[f"linear, {config.latent_channels} components"] = linear

    tracks, _ = list_tracks(SourceConfig(tracks=arguments.manifest, split=arguments.split))
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in systems}
    started = time.perf_counter()
    for track in progress(tracks, console=Console(stderr=True), description="tracks"):
        audio = excerpt(track, rate)
        audio = loud(audio, rate) if arguments.loud else audio
        for name, system in systems.items():
            figures = track_metrics(system(audio[None])[0], audio, sample_rate=rate)
            results[name][track.path.name] = {key: float(figures[key]) for key in COLUMNS}
    table = Table(title=f"{arguments.split} split, {len(tracks)} tracks: median (mean)")
    table.add_column("system")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for name, by_track in results.items():
        cells = []
        for key in COLUMNS:
            values = [figures[key] for figures in by_track.values()]
            values = [value for value in values if not math.isnan(value)]  # silent tracks
            cells.append(f"{statistics.median(values):.3f} ({statistics.mean(values):.3f})")
        table.add_row(name, *cells)
    Console(width=120).print(table)
    print(f"{time.perf_counter() - started:.0f} s; model {vae.identity}")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
