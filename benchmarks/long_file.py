"""A long file through `earvae reconstruct`: peak resident memory, speed, and the length.

    python benchmarks/long_file.py --hours 1

Writes a synthetic stereo FLAC (chords and filtered noise), runs the command in a fresh process,
and prints what that process held at most. Needs about 2 GB of disk an hour in the temporary
folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile


def synthesise(path: Path, seconds: float, rate: int) -> int:
    """A file of chords that change every two seconds, over noise; its samples."""
    random = np.random.default_rng(0)
    samples = int(seconds * rate) + 17  # not a whole number of anything
    with soundfile.SoundFile(path, "w", rate, 2, "PCM_16", format="FLAC") as file:
        for start in range(0, samples, 2 * rate):
            count = min(2 * rate, samples - start)
            t = np.arange(count) / rate
            notes = 110 * 2 ** (random.integers(0, 36, 5) / 12)
            phases = random.uniform(0, 2 * np.pi, (5, 2))
            chord = sum(
                np.sin(2 * np.pi * note * t[:, None] + phase)
                for note, phase in zip(notes, phases, strict=True)
            )
            hiss = np.cumsum(random.standard_normal((count, 2)), axis=0)
            hiss -= np.linspace(hiss[0], hiss[-1], count)
            file.write(0.08 * chord * np.exp(-t)[:, None] + 0.0004 * hiss)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=44_100, help="of the file, Hz")
    parser.add_argument("--weights", help="default: the model that comes with earvae")
    parser.add_argument("--chunk-seconds", type=float, default=10.0)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "long.flac"), Path(folder, "out.wav")
        samples = synthesise(source, 3600 * arguments.hours, arguments.rate)
        command = [sys.executable, "-m", "earvae.cli.main", "reconstruct", source, "-o", target]
        command += ["--chunk-seconds", str(arguments.chunk_seconds), "--json"]
        command += ["--weights", arguments.weights] if arguments.weights else []
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        elapsed = time.perf_counter() - started
        # The one child of this process; kilobytes on Linux, bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        (report,) = json.loads(done.stdout)
        found = soundfile.info(target).frames

    seconds = samples / arguments.rate
    print(f"machine              {platform.machine()}, {os.cpu_count()} CPUs")
    print(f"audio                {seconds:.1f} s at {arguments.rate} Hz, {samples} samples")
    print(f"written              {found} samples")
    print(f"peak resident memory {peak / 1e9:.2f} GB")
    print(f"real-time factor     {report['speed']:.1f} × ({report['seconds']:.1f} s)")
    print(f"with start-up        {seconds / elapsed:.1f} ×")
    if found != samples:
        sys.exit(f"{found} samples instead of {samples}")


if __name__ == "__main__":
    main()
