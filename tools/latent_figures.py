"""What the latents of music are like, and what noise on them costs: two tables.

    python tools/latent_figures.py                                  the test clips, shipped model
    python tools/latent_figures.py corpus/manifest.jsonl --split test --weights runs/compact/ema

By channel, over all frames: mean, spread (standard deviation), excess kurtosis (0 for a normal
law) and correlation with the frame after. Then, for each channel alone, what noise of a tenth of
its spread costs: decibels of SI-SDR, mean over tracks, against decoding without. A model of latents
makes such errors, and can live with channels that cost about alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from earvae import EarVAE
from earvae.audio import read_audio
from earvae.cli.progress import progress_bar
from earvae.si_sdr import si_sdr
from earvae.tracks import find

CLIPS = sorted((Path(__file__).parents[1] / "tests" / "clips").glob("*.flac"))
TENTH = 0.1
TOGETHER = 8  # channels whose noise is decoded in one batch
EXTREMES = 4  # channels shown at each end of a table


def statistics(latents: Tensor) -> dict[str, Tensor]:
    """Mean, spread, excess kurtosis and correlation with the next frame of ``[tracks, channels,
    frames]``, each ``[channels]``. Where a channel has no spread, the last two are NaN."""
    mean = latents.mean(dim=(0, 2))
    centred = latents - mean[:, None]
    variance = centred.square().mean(dim=(0, 2))
    return {
        "mean": mean,
        "spread": variance.sqrt(),
        "kurtosis": centred.pow(4).mean(dim=(0, 2)) / variance.square() - 3,
        "next frame": (centred[..., 1:] * centred[..., :-1]).mean(dim=(0, 2)) / variance,
    }


@torch.no_grad()
def costs(vae: EarVAE, audio: Tensor, latents: Tensor, noise: Tensor) -> tuple[Tensor, float]:
    """SI-SDR in dB that ``noise [channels, frames]`` takes from the decoded ``latents [channels,
    frames]`` on each channel alone, ``[channels]``, and on all together; against ``audio [2,
    samples]``."""

    def fidelity(some: Tensor) -> Tensor:
        decoded = vae.decode(some)[..., : audio.shape[1]]
        return torch.stack([si_sdr(one, audio) for one in decoded])

    clean, noisy = (fidelity(some[None])[0] for some in (latents, latents + noise))
    each = []
    for channels in torch.arange(len(latents)).split(TOGETHER):
        some = latents.repeat(len(channels), 1, 1)
        some[torch.arange(len(channels)), channels] += noise[channels]
        each.append(clean - fidelity(some))
    return torch.cat(each), float(clean - noisy)


def table_of(figures: dict[str, Tensor]) -> Table:
    """Each figure's mean over channels, and the channels at its ends."""
    table = Table(title="Channels")
    for heading in ("figure", "mean over channels", "lowest", "highest"):
        table.add_column(heading)
    for name, values in figures.items():
        order = values.argsort().tolist()
        ends = [
            ", ".join(f"{values[i]:.3f} ({i})" for i in some)
            for some in (order[:EXTREMES], order[::-1][:EXTREMES])
        ]
        table.add_row(name, f"{values.mean():.3f}", *ends)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("music", nargs="*", default=CLIPS, help="default: the test clips")
    parser.add_argument("--split", help="of a folder or a manifest")
    parser.add_argument("--weights", help="default: the shipped model")
    parser.add_argument("--seconds", type=float, default=10.0, help="from the middle of each track")
    arguments = parser.parse_args()
    vae = EarVAE.from_pretrained(*filter(None, [arguments.weights]))
    excerpts = []
    for file in find(arguments.music, split=arguments.split).files:
        audio = read_audio(file.path, vae.sample_rate)
        samples = min(round(arguments.seconds * vae.sample_rate), audio.shape[1])
        samples -= samples % vae.hop_length
        start = (audio.shape[1] - samples) // 2
        excerpts.append(audio[:, start : start + samples])
    length = min(audio.shape[1] for audio in excerpts)
    excerpts = [audio[:, :length] for audio in excerpts]
    with torch.no_grad():
        latents = torch.cat([vae.encode(audio[None]).mode() for audio in excerpts])
    figures = statistics(latents)
    noise = TENTH * figures["spread"][:, None] * torch.randn(
        latents.shape[1:], generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    each, together = [], []
    with progress_bar(len(excerpts), "tracks") as advance:
        for audio, own in zip(excerpts, latents, strict=True):
            alone, at_once = costs(vae, audio, own, noise)
            each.append(alone)
            together.append(at_once)
            advance(advance=1)
    cost = torch.stack(each).mean(dim=0)
    Console(width=120).print(table_of(figures | {"noise costs dB": cost}))
    print(f"{len(excerpts)} tracks of {length / vae.sample_rate:.1f} s")
    print(f"noise of a tenth on all channels costs {sum(together) / len(together):.2f} dB SI-SDR,")
    print(f"alone {cost.mean():.4f} dB on average and {cost.max():.4f} dB at most")


if __name__ == "__main__":
    main()
