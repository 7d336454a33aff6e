"""How much of music comes back from few random sums of its coefficients (compact_5 in the log).

    python experiments/campaign/measured.py MASTERS TRAIN [--frames 31]

No training: of each frame's MDCT coefficients (1024, Mid and Side) 64 random sums are kept, of
three bands; the decoder knows the mean power of every coefficient over so many frames, and gives
the most likely coefficients ("measured"); or it has to find these powers from the sums alone, by
sparse Bayesian learning ("found"; Tipping 2001). Beside them: as many principal components. Figures
are means over ten seconds of each file of MASTERS (a folder); TRAIN, a folder of music, gives the
long-term spectrum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from earvae import tracks
from earvae.audio import read_audio
from earvae.evaluation.metrics.lines import line_figures
from earvae.evaluation.metrics.octaves import octave_figures
from earvae.evaluation.metrics.signal import Signal
from earvae.evaluation.systems.linear import FrameTransform
from earvae.model.pca import principal_components

RATE, HOP, LATENTS = 44_100, 1024, 64
BANDS = ((0, 1000, 36), (1000, 2000, 14), (2000, 4000, 14))  # Hz, Hz, sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("masters", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("--frames", type=int, default=31)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    transform = FrameTransform(HOP, HOP)
    train = torch.cat([transform(x[None])[0] for x in excerpts(options.train)])
    spectrum = train.square().view(-1, 2, HOP).sum(dim=1).mean(dim=0).repeat(2)
    weight = spectrum**-0.25
    weighted = (train * weight).double()
    basis, _ = principal_components(weighted.T @ weighted / len(weighted), LATENTS)
    rows = random_sums()
    found: dict[str, list[dict[str, float]]] = {"components": [], "measured": [], "found": []}
    for music in excerpts(options.masters):
        frames = transform(music[None])[0] * weight
        power = mean_over(frames.square(), options.frames)
        sums = frames @ rows.T
        powers = found_powers(rows, sums, options.frames, options.rounds)
        for name, back in (
            ("components", frames @ basis.float() @ basis.float().T),
            ("measured", most_likely(rows, power, sums)[0]),
            ("found", most_likely(rows, powers, sums)[0]),
        ):
            decoded = Signal(transform.inverse((back / weight)[None])[0])
            figures = octave_figures(decoded, Signal(music)) | line_figures(decoded, Signal(music))
            found[name].append(figures)
    for name, rows_of in found.items():
        names = [n for n in rows_of[0] if n.startswith(("sdr", "lines_f1"))]
        print(name, {n: round(float(np.mean([row[n] for row in rows_of])), 2) for n in names})


def excerpts(folder: Path, seconds: int = 10) -> list[Tensor]:
    """Ten seconds from the fifth on of every file, whole frames, ``[2, samples]``."""
    found = []
    for file in tracks.find([folder]).files:
        found.append(read_audio(file.path, RATE)[:, 5 * RATE : (5 + seconds) * RATE])
    return [x[:, : x.shape[1] // HOP * HOP] for x in found if x.shape[1] >= HOP]


def random_sums() -> Tensor:
    """``[64, 2·hop]``: in each band its own number of random sums."""
    random = torch.Generator().manual_seed(3)
    frequency = (torch.arange(HOP) + 0.5).repeat(2) * RATE / (2 * HOP)  # Mid, then Side
    rows = []
    for low, high, count in BANDS:
        inside = (frequency >= low) & (frequency < high)
        rows.append(torch.randn(count, 2 * HOP, generator=random) * inside / inside.sum().sqrt())
    return torch.cat(rows)


def mean_over(power: Tensor, frames: int) -> Tensor:
    """The mean of ``[frames, features]`` over so many frames around each."""
    series = power.T[None]
    mean = F.avg_pool1d(series, frames, 1, frames // 2, count_include_pad=False)
    return mean[0].T + 1e-9


def found_powers(rows: Tensor, sums: Tensor, frames: int, rounds: int) -> Tensor:
    """Powers under which such sums are likely: expectation maximisation, means over frames."""
    power = mean_over(sums.square().mean(dim=1, keepdim=True).expand(-1, rows.shape[1]), frames)
    for _ in range(rounds):
        mean, left = most_likely(rows, power, sums)
        power = mean_over(mean.square() + left, frames)
    return power


def most_likely(rows: Tensor, power: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of coefficients of these powers, given their sums ``[frames, 64]``, and the variance
    that is left, ``[frames, features]`` each."""
    covariance = torch.einsum("ik,fk,jk->fij", rows, power, rows)
    noise = 1e-4 * torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    inverse = torch.linalg.inv(covariance + noise)
    mean = power * ((inverse @ sums[..., None])[..., 0] @ rows)
    known = torch.einsum("ik,fij,jk->fk", rows, inverse, rows)
    return mean, (power * (1 - power * known)).clamp_min(0)


if __name__ == "__main__":
    main()
