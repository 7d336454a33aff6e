"""What a listener model hears: parts of a decoded spectrum replaced by the original's (compact_8).

    python experiments/campaign/heard_bands.py FILE [FILE…] [--weights MODEL] [--seconds 10]

A row for each part: mean Zimtohrli over the files, from the fifth second on. Needs `zimtohrli`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from earvae import EarVAE
from earvae.audio import read_audio
from earvae.evaluation.metrics.judges import zimtohrli_figure
from earvae.evaluation.metrics.signal import Signal

RATE = 44_100
PARTS = {  # Hz
    "as it is": (0, 0),
    "original below 300 Hz": (0, 300),
    "below 1 kHz": (0, 1000),
    "1 to 4 kHz": (1000, 4000),
    "above 1 kHz": (1000, math.inf),
    "above 4 kHz": (4000, math.inf),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--weights", help="default: the shipped model")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    vae = EarVAE.from_pretrained(options.weights) if options.weights else EarVAE.from_pretrained()
    vae.eval()
    pairs = []
    for file in options.files:
        audio = read_audio(file, RATE)[:, 5 * RATE :][:, : int(options.seconds * RATE)]
        decoded = vae.decode(vae.encode(audio[None]).mode())[0, :, : audio.shape[1]]
        pairs.append((audio, decoded))
    for part, (low, high) in PARTS.items():
        heard = [
            zimtohrli_figure(Signal(decoded + band(audio - decoded, low, high)), Signal(audio))
            for audio, decoded in pairs
        ]
        print(f"{part:24} {sum(heard) / len(heard):.2f}", flush=True)


def band(audio: Tensor, low: float, high: float) -> Tensor:
    """What ``[2, samples]`` has from ``low`` to below ``high`` Hz."""
    frequency = torch.fft.rfftfreq(audio.shape[1], 1 / RATE)
    inside = (frequency >= low) & (frequency < high)
    return torch.fft.irfft(torch.fft.rfft(audio) * inside, n=audio.shape[1])


if __name__ == "__main__":
    main()
