"""Reconstruct a clip with the shipped model: a WAV, a small table, a spectrogram picture.

python tools/demo.py tests/clips/CLIP.flac --output demo_output
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from earvae import EarVAE
from earvae.audio import read_audio
from earvae.codec import reconstruct
from earvae.evaluation.metrics import si_sdr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    vae = EarVAE.from_pretrained()
    audio = read_audio(arguments.clip, vae.sample_rate)  # [2, samples]
    reconstruct(vae, audio[None, :, : vae.sample_rate])  # the first call warms up
    started = time.perf_counter()
    decoded = reconstruct(vae, audio[None])[0]
    elapsed = time.perf_counter() - started

    wav = arguments.output / f"{arguments.clip.stem}_reconstruction.wav"
    original = arguments.output / f"{arguments.clip.stem}_original.wav"
    soundfile.write(wav, decoded.T.numpy(), vae.sample_rate, subtype="FLOAT")
    soundfile.write(original, audio.T.numpy(), vae.sample_rate, subtype="FLOAT")
    picture = arguments.output / "spectrogram.png"
    draw({"original": audio, "reconstruction": decoded}, vae.sample_rate, picture)

    seconds = audio.shape[1] / vae.sample_rate
    frames = -(-audio.shape[1] // vae.hop_length)
    table = Table(title=f"{arguments.clip.name} through the shipped model {vae.identity}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("length", f"{seconds:.2f} s")
    table.add_row("latents", f"{vae.latent_channels} × {frames} at "
                  f"{vae.sample_rate / vae.hop_length:.2f} Hz")  # fmt: skip
    table.add_row("SI-SDR", f"{float(si_sdr(decoded, audio)):.2f} dB")
    table.add_row("peak, original", f"{float(audio.abs().max()):.3f}")
    table.add_row("peak, reconstruction", f"{float(decoded.abs().max()):.3f}")
    table.add_row("speed", f"{seconds / elapsed:.1f} × real time "
                  f"({torch.get_num_threads()} threads)")  # fmt: skip
    Console().print(table)
    print(f"listen: {original}\n        {wav}\nlook:   {picture}")


def draw(signals: dict[str, Tensor], sample_rate: int, path: Path) -> None:
    """Spectrograms of Mid and Side of signals ``[2, samples]``, a column each, one colour scale.

    A sine of full scale in Left and Right alike reads 3 dB in Mid.
    """
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(signals), figsize=(6 * len(signals), 6), sharex=True, sharey=True
    )
    for column, (title, (left, right)) in zip(axes.T, signals.items(), strict=True):
        sides = {"Mid": left + right, "Side": left - right}
        for axis, (name, signal) in zip(column, sides.items(), strict=True):
            *_, image = axis.specgram(
                signal * 2**0.5, NFFT=4096, noverlap=3072, Fs=sample_rate,
                mode="magnitude", scale="dB", vmin=-100, vmax=-10, cmap="magma",
            )  # fmt: skip
            axis.set_title(f"{name}, {title}")
            axis.set_xlabel("seconds")
            axis.set_ylabel("Hz")
            axis.label_outer()
    figure.colorbar(image, ax=axes, label="dB of full scale", pad=0.01)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
