"""Time of the objective against auraloss's sum-and-difference STFT loss, side by side.

    python benchmarks/objective.py

Both compare the same two batches at the same resolutions, forward and backward, in turn, in
one process. auraloss: magnitudes of Mid and Side. Here: K-weighting, magnitudes of Mid, Side,
Left and Right, correlation, instantaneous frequency and group delay.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import auraloss
import torch

from earvae.config import ObjectiveConfig
from earvae.objective import PerceptualLoss


def processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each item")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rate, config = 44_100, ObjectiveConfig()
    torch.manual_seed(0)
    target = 0.1 * torch.randn(options.batch, 2, round(options.seconds * rate))
    audio = (target + 0.03 * torch.randn_like(target)).requires_grad_()
    ours = PerceptualLoss(config, rate)
    theirs = auraloss.freq.SumAndDifferenceSTFTLoss(
        fft_sizes=list(config.resolutions),
        hop_sizes=[n // 4 for n in config.resolutions],
        win_lengths=list(config.resolutions),
    )
    steps: dict[str, Callable[[], None]] = {
        "earvae PerceptualLoss": lambda: ours(audio, target).total.backward(),
        "auraloss SumAndDifferenceSTFTLoss": lambda: theirs(audio, target).backward(),
    }
    wall: dict[str, list[float]] = {name: [] for name in steps}
    processor_time: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            audio.grad = None
            started, busy = time.perf_counter(), time.process_time()
            step()
            if repeat:  # the first turn warms up
                wall[name].append(time.perf_counter() - started)
                processor_time[name].append(time.process_time() - busy)

    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}, "
          f"auraloss {version('auraloss')}")  # fmt: skip
    print(f"{options.batch} x {options.seconds} s stereo at {rate} Hz, resolutions "
          f"{', '.join(map(str, config.resolutions))}, medians of {options.repeats}")  # fmt: skip
    audio_seconds = options.batch * options.seconds
    print(f"{'forward + backward, ms per second of audio':44}{'elapsed':>9}{'CPU time':>10}")
    for name in steps:
        figures = (statistics.median(times[name]) for times in (wall, processor_time))
        elapsed, busy = (1000 * figure / audio_seconds for figure in figures)
        print(f"{name:44}{elapsed:9.1f}{busy:10.1f}")


if __name__ == "__main__":
    main()
