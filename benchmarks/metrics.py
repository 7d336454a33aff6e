"""Time of the metrics against auraloss plus a plain phase coherence, side by side.

    python benchmarks/metrics.py

The published evaluation's method (auraloss for SI-SDR, Mel and STFT distance, one
torch.stft per signal and resolution for the coherences) and ours measure the same stereo track
in turn, in one process; the values of both are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.metadata import version

import auraloss
import torch
from machine import processor
from torch import Tensor

from earvae.evaluation.metrics.published import (
    COHERENCE_LENGTHS,
    MEL_BANDS,
    MEL_LENGTHS,
    STFT_LENGTHS,
    track_metrics,
)

RATE = 44_100


def plain_coherence(shifts: Tensor, weights: Tensor) -> Tensor:
    """Mean over frames of |sum w e^(j shift)| / sum w; ``[..., bins, frames]`` each."""
    weights = torch.where(weights > 1e-6, weights, 0)
    total = weights.sum(-2)
    aligned = (weights * torch.exp(1j * shifts)).sum(-2).abs()
    return (aligned / total.clamp_min(1e-12) * total).sum(-1) / total.sum(-1)


class PlainMethod:
    """auraloss and torch.stft, whole signals, every metric on its own."""

    def __init__(self) -> None:
        def distance(lengths: tuple[int, ...], **more: object) -> torch.nn.Module:
            return auraloss.freq.MultiResolutionSTFTLoss(
                fft_sizes=list(lengths),
                hop_sizes=[n // 4 for n in lengths],
                win_lengths=list(lengths),
                sample_rate=RATE,
                perceptual_weighting=True,
                **more,
            )

        self.si_sdr = auraloss.time.SISDRLoss()
        self.mel = distance(MEL_LENGTHS, scale="mel", n_bins=MEL_BANDS)
        self.stft = distance(STFT_LENGTHS)

    def __call__(self, reconstruction: Tensor, target: Tensor) -> dict[str, float]:
        within, across = [], []
        for length in COHERENCE_LENGTHS:
            window = torch.hann_window(length)
            ours, theirs = (
                torch.stft(x, length, length // 4, window=window, return_complex=True)
                for x in (reconstruction, target)
            )
            shifts = ours.angle() - theirs.angle()
            within.append(plain_coherence(shifts, ours.abs() * theirs.abs()).mean())
            shifts = (ours[0] * ours[1].conj()).angle() - (theirs[0] * theirs[1].conj()).angle()
            across.append(plain_coherence(shifts, ours[0].abs() * ours[1].abs()))
        return {
            "si_sdr": -float(self.si_sdr(reconstruction[None], target[None])),
            "mel": float(self.mel(reconstruction[None], target[None])),
            "stft": float(self.stft(reconstruction[None], target[None])),
            "icpc": float(torch.stack(within).mean()),
            "ccpc": float(torch.stack(across).mean()),
        }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    target = 0.1 * torch.randn(2, round(options.seconds * RATE))
    target[1] = 0.6 * target[0] + 0.4 * target[1]
    reconstruction = target + 0.03 * torch.randn_like(target)
    methods = {"earvae track_metrics": track_metrics, "auraloss and plain coherence": PlainMethod()}
    values: dict[str, dict[str, float]] = {}
    wall: dict[str, list[float]] = {name: [] for name in methods}
    busy: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(options.repeats):
        for name, method in methods.items():
            started, worked = time.perf_counter(), time.process_time()
            values[name] = method(reconstruction, target)
            wall[name].append(time.perf_counter() - started)
            busy[name].append(time.process_time() - worked)

    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}, "
          f"auraloss {version('auraloss')}")  # fmt: skip
    print(f"{options.seconds:g} s stereo at {RATE} Hz, medians of {options.repeats}, seconds")
    print(f"{'':30}{'elapsed':>9}{'CPU time':>10}" + "".join(f"{m:>11}" for m in values[name]))
    for name in methods:
        row = "".join(f"{value:11.6f}" for value in values[name].values())
        print(f"{name:30}{statistics.median(wall[name]):9.2f}{statistics.median(busy[name]):10.2f}"
              + row)  # fmt: skip
    ours, theirs = (statistics.median(times) for times in wall.values())
    print(f"{theirs / ours:.1f} times faster")


if __name__ == "__main__":
    main()
