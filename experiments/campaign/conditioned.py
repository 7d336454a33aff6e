"""How much of the bass sums tell if its powers are known, without training (compact_8 in the log).

    python experiments/campaign/conditioned.py MASTERS TRAIN [--frames 13]

34 sums of Mid's long blocks and 14 of Side's, as the compact model's linear layers make them: the
principal components of TRAIN (a manifest's train split), or the lowest bins and random sums of the
others. Normal coefficients of known power, given their sums, have a mean; that is what is measured,
without noise: SDR and F1 of lines, means over ten seconds of each file of MASTERS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae import tracks
from earvae.audio import read_audio
from earvae.config import CompactConfig
from earvae.evaluation.metrics.lines import line_figures
from earvae.evaluation.metrics.octaves import octave_figures
from earvae.evaluation.metrics.signal import Signal
from earvae.model.compact import latents_by_kind, transform
from earvae.model.pca import principal_components

RATE, EVERY = 44_100, 12  # of the tracks of TRAIN, one in so many is read
RELATIVE_NOISE, QUIET = 1e-3, 1e-7
STARTS = {  # lowest bins of Mid and of Side, exponent of the power that random sums are divided by
    "components": None,
    "18 and 6 bins": (18, 6, 0.0),
    "18 and 6 bins, whitened": (18, 6, 0.25),
    "random": (0, 0, 0.25),
}
SHOWN = ("sdr_0.2-1", "sdr_1-2", "lines_f1_0.2-1", "lines_f1_1-2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("masters", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("--frames", type=int, default=13, help="over which powers are known")
    options = parser.parse_args()
    frames = transform(CompactConfig())
    counts = latents_by_kind(CompactConfig())[:2]
    train = [
        frames.long_of(frames(audio[None]))[0]
        for audio in excerpts(tracks.find([options.train], split="train").files[::EVERY], 30)
    ]
    music = excerpts(tracks.find([options.masters]).files, 5)
    for name, start in STARTS.items():
        rows = []
        for kind, values in enumerate(torch.cat(train).chunk(2, dim=1)):
            exact = None if start is None else (start[kind], start[2])
            rows.append(sums(values, counts[kind], exact))
        found: list[dict[str, float]] = []
        for audio in music:
            long = frames.long_of(frames(audio[None]))[0]
            told = [
                expected(side, row, power_of(side, options.frames))
                for side, row in zip(long.chunk(2, dim=1), rows, strict=True)
            ]
            back = frames.inverse(frames.frames_of_long(torch.cat(told, dim=1))[None])[0]
            pair = Signal(back), Signal(audio)
            found.append(octave_figures(*pair) | line_figures(*pair))
        print(name, {key: round(sum(f[key] for f in found) / len(found), 2) for key in SHOWN})


def excerpts(files: list[tracks.MusicFile], start: int, seconds: int = 10) -> list[Tensor]:
    """Whole frames of so many seconds of each file, ``[2, samples]``."""
    hop = CompactConfig().hop_length
    found = [read_audio(f.path, RATE)[:, start * RATE : (start + seconds) * RATE] for f in files]
    return [audio[:, : audio.shape[1] // hop * hop] for audio in found if audio.shape[1] >= hop]


def sums(values: Tensor, count: int, exact: tuple[int, float] | None) -> Tensor:
    """``[count, bins]``: which sums of the bins of ``values [frames, bins]`` are kept."""
    covariance = values.double().T @ values.double() / len(values)
    if exact is None:
        return principal_components(covariance, count)[0].T.float()
    first, exponent = exact
    bins = values.shape[1]
    random = torch.Generator().manual_seed(3)
    rows = torch.zeros(count, bins)
    rows[:first, :first] = torch.eye(first)
    rows[first:, first:] = torch.randn(count - first, bins - first, generator=random)
    rows[first:] *= covariance.diagonal().float() ** -exponent
    return rows


def power_of(values: Tensor, frames: int) -> Tensor:
    """Mean power over so many frames around each, ``[frames, bins]``."""
    series = values.square().T[None]
    return F.avg_pool1d(series, frames, 1, frames // 2, count_include_pad=False)[0].T + QUIET


def expected(values: Tensor, rows: Tensor, power: Tensor) -> Tensor:
    """The mean of ``[frames, bins]`` of these powers, given their sums."""
    covariance = torch.einsum("ik,fk,jk->fij", rows, power, rows)
    noise = RELATIVE_NOISE * covariance.diagonal(dim1=-2, dim2=-1)
    known = torch.linalg.solve(covariance + torch.diag_embed(noise), (values @ rows.T)[..., None])
    return power * (known[..., 0] @ rows)


if __name__ == "__main__":
    main()
