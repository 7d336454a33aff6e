"""How music for training sounds beside masters, in figures (docs/corpus.md).

    python tools/music_figures.py experiments/music/masters.yaml --against masters/*/original.mp3

Two rows for each source of the recipe, its crops as they are and as the recipe changes them, and
one for the files after ``--against``. Medians over crops, but for the share of panned cells, which
is a mean; these and Side of stereo crops alone.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from earvae.config import (
    AugmentationConfig,
    DataConfig,
    FilterConfig,
    SourceConfig,
    TrainConfig,
    read,
)
from earvae.training.augment import lufs
from earvae.training.crops import CropDataset

RATE = 44_100
CROP = 1 << 18  # samples, 5.9 s
FRAME, HOP = 2048, 1024
BANDS = (20, 60, 125, 250, 500, 1000, 2000, 4000, 8000, 12_000, 16_000, 20_000)  # Hz
PANNED_DB = 12.0  # between the channels, SPEC.md §8
HEARD_DB = 50.0  # below the loudest frame of a band, as far as cells count


@dataclass(frozen=True)
class Figures:
    """Of one crop. Levels are shares of the power of all of it, in dB."""

    lufs: float
    crest_db: float  # peak over RMS
    bands_db: np.ndarray  # between BANDS
    side_db: float  # power of Side over Mid; this and the next are NaN in mono
    panned: float  # share of cells, 0.2 to 8 kHz, with one channel PANNED_DB below the other


def figures(audio: torch.Tensor) -> Figures:
    """Of ``[2, samples]`` float32 at RATE."""
    window = torch.hann_window(FRAME, dtype=torch.float64)
    audio = audio.double()
    spectra = torch.stft(audio, FRAME, HOP, window=window, center=False, return_complex=True)
    left_right = spectra.abs().square().numpy()  # [2, bins, frames]
    edges = np.round(np.array(BANDS) * FRAME / RATE).astype(int)
    whole = left_right.sum() + 1e-20
    bands = [left_right[:, a:b].sum() / whole for a, b in zip(edges, edges[1:], strict=False)]
    mid, side = audio.sum(0).square().sum(), (audio[0] - audio[1]).square().sum()
    stereo = bool(side > 1e-8 * mid)
    peak, rms = audio.abs().max(), audio.square().mean().sqrt()
    return Figures(
        lufs=float(lufs(audio[None].float(), RATE)),
        crest_db=float(20 * torch.log10(peak / rms)),
        bands_db=10 * np.log10(np.array(bands) + 1e-10),
        side_db=float(10 * torch.log10(side / mid)) if stereo else np.nan,
        panned=panned(left_right) if stereo else np.nan,
    )


def panned(power: np.ndarray) -> float:
    """Share of cells ``[2, bins, frames]`` in octaves of which one channel is almost alone; NaN
    without any."""
    cells = []
    for low in (200, 1000, 2000, 4000):
        first, last = (round(f * FRAME / RATE) for f in (low, 1000 if low == 200 else 2 * low))
        levels = 10 * np.log10(power[:, first:last].sum(1) + 1e-12)
        loud = levels.max(0) > levels.max() - HEARD_DB
        cells.append(np.abs(levels[0] - levels[1])[loud] >= PANNED_DB)
    cells = np.concatenate(cells)
    return float(cells.mean()) if len(cells) else np.nan


def of_crops(
    sources: tuple[SourceConfig, ...], crops: int, augmentation: AugmentationConfig | None = None
) -> list[Figures]:
    """Of ``crops`` crops of sources, changed or as they are."""
    config = DataConfig(
        sources=sources,
        crop_samples=CROP,
        augmentation=augmentation or AugmentationConfig(),
        filters=FilterConfig(),
        workers=0,
    )
    data = CropDataset(config, RATE)
    return [figures(data[number]["audio"]) for number in range(crops)]


def summary(rows: list[Figures]) -> Figures:
    """Medians, and the mean of what is panned."""
    columns = list(zip(*(astuple(row) for row in rows), strict=True))
    medians = [np.nanmedian(np.array(column), axis=0) for column in columns[:-1]]
    return Figures(*medians, panned=float(np.nanmean(columns[-1])))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--against", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--crops", type=int, default=200, help="of each row; default 200")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = read(TrainConfig, options.recipe).stages[0].data
    rows = {}
    for source in data.sources:
        name = Path(source.tracks).parent.name or source.tracks
        rows[name] = of_crops((source,), options.crops)
        rows[f"{name}, changed"] = of_crops((source,), options.crops, data.augmentation)
    against = tuple(SourceConfig(tracks=str(path)) for path in options.against)
    rows["against"] = of_crops(against, options.crops)
    target = summary(rows["against"])
    table = Table("music", "LUFS", "crest dB", "Side/Mid dB", "panned %", "spectrum off by dB")
    bands = zip(BANDS, BANDS[1:], strict=False)
    spectra = Table("music", *(f"{low / 1000:g}–{high / 1000:g}" for low, high in bands))
    for name, found in rows.items():
        row = summary(found)
        off = np.sqrt(np.mean((row.bands_db - target.bands_db) ** 2))
        values = (row.lufs, row.crest_db, row.side_db, 100 * row.panned, off)
        table.add_row(name, *(f"{value:.1f}" for value in values))
        spectra.add_row(name, *(f"{value:.0f}" for value in row.bands_db))
    console = Console(width=120)
    console.print(table)
    console.print("Power in bands of kHz, dB of the whole:")
    console.print(spectra)


if __name__ == "__main__":
    main()
