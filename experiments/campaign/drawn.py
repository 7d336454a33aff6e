"""What is drawn, and how: tones or none, shares of them to a power, laws of the stored noise.

    python drawn.py MASTER.flac ... [--weights MODEL] [--seconds 10]

Means over the files: Zimtohrli, distances, and lines F1 and invented at 1-2 and 2-4 kHz. The files
are stereo at the model's rate; `zimtohrli` is in the extra `judges`.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from earvae import EarVAE
from earvae.audio import read_audio
from earvae.evaluation.metrics.judges import zimtohrli_figure
from earvae.evaluation.metrics.lines import line_figures
from earvae.evaluation.metrics.published import published_figures
from earvae.evaluation.metrics.signal import Signal
from earvae.model.texture import uniform_noise

NEVER = -1e4  # logarithm of a tone's power
SHOWN = ("zimtohrli", "si_sdr", "mel", "stft", "lines_f1_1-2", "lines_f1_2-4", "invented_1-2",
         "invented_2-4")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--weights")
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    vae = EarVAE.from_pretrained(args.weights)
    decoder = vae.decoder
    music = [read_audio(f, vae.sample_rate)[:, : int(args.seconds * 44_100)] for f in args.files]
    with torch.no_grad():
        told = [decoder.tell(vae.encode(audio[None]).mode()) for audio in music]

    def row(name: str, decided: float, low: bool = True, high: bool = True) -> None:
        found = []
        for audio, one in zip(music, told, strict=True):
            if not low:
                one = one._replace(pitch=torch.full_like(one.pitch, NEVER))
            if not high:
                one = one._replace(high_pitch=torch.full_like(one.high_pitch, NEVER))
            with torch.no_grad():
                ours = decoder.draw(decoder.expect(one, decided))[0, :, : audio.shape[1]]
            pair = Signal(ours), Signal(audio)
            found.append(
                published_figures(*pair) | line_figures(*pair)
                | {"zimtohrli": zimtohrli_figure(*pair)}
            )  # fmt: skip
        means = [np.nanmean([figures[key] for figures in found]) for key in SHOWN]
        print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |", flush=True)

    print("| | " + " | ".join(SHOWN) + " |")
    row("no tones", 1, low=False, high=False)
    row("tones below the split", 1, high=False)
    for decided in (1, 2, 4, 6, 30):
        row(f"shares to the power of {decided}", decided)
    uniform = uniform_noise(decoder.noise.table.numel()).view_as(decoder.noise.table)
    root = uniform.sign() * uniform.abs().sqrt()
    for name, table in (
        ("uniform noise", uniform),
        ("its root", root / root.square().mean() ** 0.5),
    ):
        decoder.noise.table = table
        row(f"{name}, 4", 4)


if __name__ == "__main__":
    main()
