"""Compare the treble of two models, each as it is and both at the same level.

    python tools/compare_treble.py corpus/manifest.jsonl runs/twin/ema runs/adversarial/ema

A distance of log spectra can be shorter for a model that is a few decibels quieter than the music
(docs/TRAINING_LOG.md, section 12), so of two models the duller one may win by being dull. Here
each model's reconstructions also get one gain, the same for all tracks, with which the median
level above 8 kHz over the original's is what the row says; sounds are compared by ear at equal
level, too.

Median (mean) over 30 s from the middle of each track of a split. The differences are the second
model's figure minus the first's, track by track: mean, with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from measure_split import excerpt
from rich.console import Console
from rich.progress import track as progress
from rich.table import Table
from torch import Tensor

from earvae import EarVAE, codec
from earvae.config import SourceConfig
from earvae.evaluation.aggregate import aggregate
from earvae.evaluation.bands import band_metrics
from earvae.training.sources import list_tracks

COLUMNS = {
    "treble_lsd": "treble LSD dB",
    "treble_band_lsd": "by bands dB",
    "treble_level": "level dB",
}
Figures = dict[str, dict[str, float]]  # by track and metric


def figures(
    reconstructions: dict[str, Tensor], originals: dict[str, Tensor], gain: float, rate: int
) -> Figures:
    """Those of COLUMNS, of every track ``[2, samples]`` at ``rate`` Hz, its reconstruction
    ``gain`` dB louder."""
    found = {}
    for name, audio in reconstructions.items():
        every = band_metrics(10 ** (gain / 20) * audio, originals[name], rate)
        found[name] = {metric: every[metric] for metric in COLUMNS}
    return found


def column(tracks: Figures, metric: str) -> list[float]:
    """The values that are defined: a track without treble has no level."""
    return [values[metric] for values in tracks.values() if math.isfinite(values[metric])]


def add_rows(table: Table, title: str, first: Figures, second: Figures) -> None:
    """Both models and their difference."""
    for name, tracks in (("first", first), ("second", second)):
        cells = [column(tracks, metric) for metric in COLUMNS]
        table.add_row(
            title, name, *(f"{statistics.median(c):.2f} ({statistics.mean(c):.2f})" for c in cells)
        )
    change = {
        name: {metric: second[name][metric] - first[name][metric] for metric in COLUMNS}
        for name in first
    }
    found = aggregate(change).values()  # in the order of COLUMNS
    table.add_row(
        "", "difference", *(f"{f.mean:+.2f} [{f.low:+.2f}, {f.high:+.2f}]" for f in found)
    )
    table.add_section()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("models", nargs=2, help="`shipped`, or sources of EarVAE.from_pretrained")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--levels", type=float, nargs="*", default=[-3, -2, -1, 0], help="dB")
    arguments = parser.parse_args()

    tracks, _ = list_tracks(SourceConfig(tracks=arguments.manifest, split=arguments.split))
    models = [EarVAE.from_pretrained(None if m == "shipped" else m) for m in arguments.models]
    rate, other = (vae.sample_rate for vae in models)
    if rate != other:
        parser.error(f"the models are of {rate} and {other} Hz; compare two of one rate")
    originals = {str(track.path): excerpt(track, rate) for track in tracks}
    quiet = Console(stderr=True)
    decoded = [
        {
            name: codec.reconstruct(vae, audio[None])[0]
            for name, audio in progress(originals.items(), console=quiet, description=source)
        }
        for source, vae in zip(arguments.models, models, strict=True)
    ]
    table = Table("", "model", *COLUMNS.values())
    own = [figures(reconstructions, originals, 0.0, rate) for reconstructions in decoded]
    add_rows(table, "as they are", *own)
    levels = [statistics.median(column(found, "treble_level")) for found in own]
    for target in arguments.levels:
        both = [
            figures(reconstructions, originals, target - level, rate)
            for reconstructions, level in zip(decoded, levels, strict=True)
        ]
        add_rows(table, f"at {target:+.1f} dB", *both)
    print(f"first: {arguments.models[0]}\nsecond: {arguments.models[1]}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
