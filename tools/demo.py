"""Reconstruct a clip with the shipped model: a WAV, a small table, a spectrogram picture.

python tools/demo.py tests/clips/CLIP.flac --output demo_output
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table

from earvae import EarVAE
from earvae.audio import read_audio
from earvae.codec import reconstruct
from earvae.evaluation.metrics import si_sdr
from earvae.evaluation.spectrogram_sheet import spectrogram_comparison


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
    picture = spectrogram_comparison(
        {"original": np.asarray(audio), "reconstruction": np.asarray(decoded)},
        vae.sample_rate,
        arguments.output / "spectrogram.png",
    )

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


if __name__ == "__main__":
    main()
