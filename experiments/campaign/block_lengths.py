"""What a listener loses where levels are right and fine structure is not (compact_6 in the log).

    python experiments/campaign/block_lengths.py MASTERS TRAIN          needs the extra `judges`

No training. Above --split-hz, music is replaced by noise that has, in each band and block of an
MDCT, the original's power in Mid, Side, Left and Right: with blocks of several lengths. Then both
are coded: what is below as principal components of blocks of 1024, the levels above as principal
components of their logarithms over four blocks of 256, 64 numbers together. Components are fitted
on TRAIN, a folder of music; figures are means over ten seconds of each file of MASTERS, a folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from earvae import tracks
from earvae.audio import read_audio
from earvae.evaluation.metrics import Signal
from earvae.evaluation.metrics.judges import zimtohrli_figure
from earvae.evaluation.metrics.octaves import octave_figures
from earvae.evaluation.metrics.published import published_figures
from earvae.evaluation.systems.linear import FrameTransform
from earvae.model.envelope import QUIET, Bands
from earvae.model.pca import principal_components
from earvae.model.transform import mid_side

RATE, HOP, SHORT = 44_100, 1024, 256
SHOWN = ("zimtohrli", "si_sdr", "mel", "stft", "sdr_0.2-1", "level_1-2", "level_2-4", "level_4-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("masters", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("--split-hz", type=float, default=1000.0)
    options = parser.parse_args()
    masters, train = excerpts(options.masters), excerpts(options.train)
    for length in (1024, 512, 256, 128):
        noise = Noise(length)

        def known(music: Tensor, noise: Noise = noise) -> Tensor:
            return joined(music, noise.like(music, noise.log_power(music)), options.split_hz)

        show(f"bass as it is, noise in blocks of {length}", known, masters)
    transform, noise = FrameTransform(HOP, HOP), Noise(SHORT)
    bass, _ = components(torch.cat([transform(music[None])[0] for music in train]))
    levels = torch.cat([noise.log_power(music) for music in train])
    colour, _ = components(levels - levels.mean(dim=0))
    for count in (54, 48, 44, 40, 36, 32):

        def coded(music: Tensor, count: int = count) -> Tensor:
            own, kept = bass[:, :count], colour[:, : 64 - count]
            frames = transform(music[None])[0]
            low = transform.inverse((frames @ own @ own.T)[None])[0]
            told = noise.log_power(music) - levels.mean(dim=0)
            told = levels.mean(dim=0) + told @ kept @ kept.T
            return joined(low, noise.like(music, told), options.split_hz)

        show(f"{count} components of the bass, {64 - count} of levels", coded, masters)


class Noise:
    """Noise with the levels of music in every band and block of an MDCT of ``length``."""

    def __init__(self, length: int) -> None:
        self.transform = FrameTransform(HOP, length)
        self.bands = Bands(length, 2 * HOP // length, RATE)

    def log_power(self, music: Tensor) -> Tensor:
        """``[2, samples]`` to natural logs of powers of Left and Right, ``[frames, levels]``."""
        ears = mid_side(self.transform(music[None])[0], -1)
        return (self.bands.power(ears) + QUIET**2).log()

    def like(self, music: Tensor, log_power: Tensor) -> Tensor:
        """Noise with the ``log_power [frames, levels]`` of Left and Right, and with the shares of
        Mid and Side that ``music [2, samples]`` has."""
        frames = self.transform(music[None])[0]
        shares = self.bands.spread(self.bands.power(frames)).sqrt()
        noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
        ears = mid_side(shares * noise, -1)
        wanted = self.bands.spread(log_power.exp()).clamp_min(0)
        power = sum(shares.square().chunk(2, -1)) / 2
        ears = ears * (wanted / power.repeat(1, 2).clamp_min(1e-14)).sqrt()
        return self.transform.inverse(mid_side(ears, -1)[None])[0]


def joined(low: Tensor, high: Tensor, hertz: float) -> Tensor:
    """``low`` below and ``high`` above, ``[2, samples]``."""
    transform = FrameTransform(HOP, HOP)
    below = (torch.arange(HOP) + 0.5).repeat(2) * RATE / (2 * HOP) < hertz  # Mid, then Side
    frames = torch.where(below, transform(low[None]), transform(high[None]))
    return transform.inverse(frames)[0]


def components(values: Tensor) -> tuple[Tensor, Tensor]:
    """64 principal components of ``[n, features]``, ``[features, 64]``, and their variances."""
    basis, power = principal_components(values.double().T @ values.double() / len(values), 64)
    return basis.float(), power.float()


def excerpts(folder: Path, seconds: int = 10) -> list[Tensor]:
    """Ten seconds from the fifth on of every file, whole frames, ``[2, samples]``."""
    found = []
    for file in tracks.find([folder]).files:
        audio = read_audio(file.path, RATE)[:, 5 * RATE : (5 + seconds) * RATE]
        found.append(audio.expand(2, -1)[:, : audio.shape[1] // HOP * HOP])
    return [audio for audio in found if audio.shape[1]]


def show(name: str, codec: Callable[[Tensor], Tensor], masters: list[Tensor]) -> None:
    rows = []
    for music in masters:
        ours, theirs = Signal(codec(music)), Signal(music)
        rows.append(
            published_figures(ours, theirs)
            | octave_figures(ours, theirs)
            | {"zimtohrli": zimtohrli_figure(ours, theirs)}
        )
    print(name, {key: round(mean(row[key] for row in rows), 2) for key in SHOWN}, flush=True)


if __name__ == "__main__":
    main()
