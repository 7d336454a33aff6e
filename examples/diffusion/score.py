"""Fréchet distances between sets of sound, on levels in mel bands.

    python score.py heard/original heard/decoded heard/generated heard/noise

The first folder is the reference. What is compared: 0.74 s patches of 64 mel bands of Mid and Side
in steps of 93 ms, as dB, projected on the 64 directions in which the reference varies most. A
Gaussian is fitted to each set (Heusel et al., 2017, with this in the place of their network). The
distance is given as a share of the reference's variance, so that 0 is the same and 1 as far as the
mean distance of its patches from their mean. It hears spectra, their balance between the channels,
loudness and rhythm within a patch. It hears no pitch finer than a mel band, no phase, no melody,
harmony or form, and not whether sets differ in single pieces.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from earvae import tracks
from earvae.audio import read_audio, to_stereo
from earvae.mel import mel_filters

RATE, WINDOW, HOP, BANDS = 44_100, 2048, 1024, 64
FRAMES, CELLS, DIRECTIONS = 4, 8, 64  # frames of a cell, cells of a patch
FLOOR = 1e-8  # of a power: -80 dB of a sine at full scale


def patches(path: str | Path) -> Tensor:
    """Levels in dB, ``[patches, 2 · BANDS · CELLS]``, of a sound file."""
    left, right = to_stereo(read_audio(path, RATE))
    window = torch.hann_window(WINDOW)
    both = torch.stack([left + right, left - right]) / window.sum()
    spectrum = torch.stft(both, WINDOW, HOP, window=window, center=False, return_complex=True)
    power = mel_filters(RATE, WINDOW, BANDS) @ spectrum.abs().square() * (RATE / WINDOW)
    levels = 10 * torch.log10(power.unfold(2, FRAMES, FRAMES).mean(3) + FLOOR)
    return levels.unfold(2, CELLS, CELLS).permute(2, 0, 1, 3).flatten(1).double()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov()


def frechet(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Distance of Gaussians fitted to ``[n, d]`` and ``[m, d]``: of their means, of their
    covariances."""
    (mean, one), (other_mean, two) = moments(x), moments(y)
    values, vectors = torch.linalg.eigh(one)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    common = torch.linalg.eigvalsh(root @ two @ root).clamp(min=0).sqrt().sum()
    return float((mean - other_mean).square().sum()), float(one.trace() + two.trace() - 2 * common)


def louder(x: Tensor, y: Tensor) -> list[float]:
    """dB by which the patches ``y`` are louder than ``x`` in the lower 32 bands (to 2.8 kHz) and in
    the upper ones: differences of mean levels, over Mid and Side."""
    return (y.mean(0) - x.mean(0)).view(2, 2, -1).mean((0, 2)).tolist()


def scores(reference: Tensor, sets: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """For each set of patches the two parts of its distance, as shares of the variance."""
    mean, covariance = moments(reference)
    directions = torch.linalg.eigh(covariance).eigenvectors[:, -DIRECTIONS:]
    base = (reference - mean) @ directions
    total = float(base.var(0).sum())
    parts = {name: frechet(base, (set - mean) @ directions) for name, set in sets.items()}
    return {name: (first / total, second / total) for name, (first, second) in parts.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("sets", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    sets = {
        str(folder): torch.cat([patches(found.path) for found in tracks.find([folder]).files])
        for folder in (given.reference, *given.sets)
    }
    reference = sets.pop(str(given.reference))
    print(f"| beside {given.reference} ({len(reference)} patches) | patches | means | covariances "
          "| Fréchet distance | dB to 2.8 kHz | dB above |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")  # fmt: skip
    for name, (means, spread) in scores(reference, sets).items():
        low, high = louder(reference, sets[name])
        print(f"| {name} | {len(sets[name])} | {means:.3f} | {spread:.3f} | {means + spread:.3f} "
              f"| {low:+.1f} | {high:+.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
