"""Pictures: of losses, and of latents that `excerpts.py` and `sample.py --like` wrote.

python look.py heard/latents runs/diffusion -o latents.png
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import matplotlib
import numpy as np
from model import NOTHING_LEARNED

from earvae.config import CompactConfig
from earvae.latents import file
from earvae.model.compact import latents_by_kind

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402

KINDS = {"decoded": ("real", "C0"), "generated": ("generated", "C1"), "noise": ("noise", "C7")}


def kurtosis(x: np.ndarray) -> np.ndarray:
    """Of each channel of ``[n, channels, frames]``: 0 for a Gaussian, above for rare large ones."""
    z = x - x.mean((0, 2), keepdims=True)
    return (z**4).mean((0, 2)) / (z**2).mean((0, 2)) ** 2 - 3


def neighbours(x: np.ndarray) -> np.ndarray:
    """Correlation of each channel with itself a frame later."""
    z = (x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True)
    return (z[..., 1:] * z[..., :-1]).mean((0, 2))


def draw_losses(run: Path) -> None:
    """``loss.png`` of ``loss.csv``."""
    rows = list(csv.DictReader((run / "loss.csv").open()))
    steps = [int(row["step"]) for row in rows]
    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, most in NOTHING_LEARNED.items():
        axis.plot(steps, [float(row[name]) / most for row in rows], label=name)
    axis.axhline(1, color="grey", ls=":", label="knows mean and spread only")
    axis.set(xlabel="step", ylabel="error of the velocity, share", xscale="log")
    axis.legend()
    figure.savefig(run / "loss.png", dpi=100)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pair", type=int, nargs=2, default=(0, 1), help="channels to cross")
    given = parser.parse_args(arguments)
    sets = {
        kind: np.stack(
            [file.read(path).values for path in sorted((given.latents / kind).iterdir())]
        )
        for kind in KINDS
    }
    unknown = np.array(json.loads((given.run / "channels.json").read_text()))
    unknown /= NOTHING_LEARNED["validation"]

    figure, axes = pyplot.subplots(3, 3, figsize=(12, 9), layout="constrained")
    (one, two), (images, lines, pairs) = given.pair, axes
    for axis, (kind, (name, colour)) in zip(range(3), KINDS.items(), strict=True):
        values = sets[kind]
        images[axis].imshow(values[0], aspect="auto", vmin=-2, vmax=2, cmap="RdBu", origin="lower")
        images[axis].set(title=f"{name}: 64 channels over 10 s", xlabel="frame", ylabel="channel")
        lines[0].plot(kurtosis(values), color=colour, label=name)
        lines[1].plot(neighbours(values), color=colour, label=name)
        x, y = (values[:, channel, ::3].ravel()[:6000] for channel in (one, two))
        pairs[axis].scatter(x, y, s=1, color=colour, alpha=0.4)
        pairs[axis].set(title=f"{name}: two channels",
                        xlabel=f"channel {one}", ylabel=f"channel {two}",
                        xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))  # fmt: skip
    lines[2].plot(unknown, color="C3")
    lines[2].axhline(1, color="grey", ls=":")
    lines[0].set(title="excess kurtosis", xlabel="channel", yscale="symlog")
    lines[1].set(title="correlation with the next frame", xlabel="channel")
    lines[2].set(title="error, share of white noise's", xlabel="channel")
    lines[0].legend()
    figure.savefig(given.output, dpi=70)
    print("| channels | kurtosis, real | generated | next frame, real | generated | error |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: |")  # fmt: skip
    kinds = latents_by_kind(CompactConfig(latent_channels=len(unknown)))
    groups = np.split(np.arange(len(unknown)), np.cumsum(kinds)[:-1])
    for name, group in zip(("bass of Mid", "bass of Side", "levels"), groups, strict=True):
        figures = [of(sets[kind])[group].mean() for of in (kurtosis, neighbours)
                   for kind in ("decoded", "generated")]  # fmt: skip
        print(
            f"| {name} | {' | '.join(f'{x:.2f}' for x in figures)} | {unknown[group].mean():.2f} |"
        )


if __name__ == "__main__":
    main()
