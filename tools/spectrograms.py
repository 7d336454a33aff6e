"""Spectrograms of Mid and Side of several files side by side, one colour scale for all.

python tools/spectrograms.py results/audio/song/*.wav --seconds 8 -o picture.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile

from earvae.evaluation.pictures import spectrogram_comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="stereo, of one rate")
    parser.add_argument("--start", type=float, default=0.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", "-o", type=Path, required=True)
    arguments = parser.parse_args()
    signals = {}
    for path in arguments.files:
        rate = soundfile.info(path).samplerate
        audio, _ = soundfile.read(
            path, start=int(arguments.start * rate), frames=int(arguments.seconds * rate)
        )
        signals[path.stem] = audio.T
    spectrogram_comparison(signals, rate, arguments.output)


if __name__ == "__main__":
    main()
