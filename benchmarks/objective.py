"""Time of the objective against other ways to compute it, side by side.

    python benchmarks/objective.py
    python benchmarks/objective.py --device cuda --compile --batch 32 --samples 65536

On a CPU: the objective and auraloss's sum-and-difference STFT loss. Both compare the same two
batches at the same resolutions, forward and backward, in turn, in one process. auraloss:
magnitudes of Mid and Side. Here: K-weighting, magnitudes of Mid, Side, Left and Right,
correlation, instantaneous frequency and group delay.

With ``--autograd``, or on another device: the same terms by automatic differentiation as well
(the plain forms of docs/objective.md). With ``--compile``: both of them through torch.compile.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from machine import processor

from earvae.config import ObjectiveConfig
from earvae.objective import KWeighting, PerceptualLoss
from earvae.objective.terms import BY_HAND

sys.path.append(str(Path(__file__).parents[1]))  # for tests.objective
RATE = 44_100


def single_pass(config: ObjectiveConfig, device: torch.device, compiled: bool) -> Callable:
    objective = PerceptualLoss(config, RATE).to(device)
    if compiled:
        objective.compile_terms()
    return lambda audio, target: objective(audio, target).total


def automatic(config: ObjectiveConfig, device: torch.device, compiled: bool) -> Callable:
    """The weighted sum of ``plain_forms``, K-weighted as the objective is."""
    from tests.objective import plain_forms

    weighting = KWeighting(RATE).to(device)
    weights = config.weights.model_dump()
    names = tuple(name for name in BY_HAND if weights[name])

    def at_resolution(audio: torch.Tensor, target: torch.Tensor, length: int) -> torch.Tensor:
        ours, theirs = (plain_forms.forms.stft(x, length) for x in (audio, target))
        terms = (weights[n] * plain_forms.term(n, ours, theirs, ours, config).mean() for n in names)
        return sum(terms)

    if compiled:
        at_resolution = torch.compile(at_resolution, dynamic=False)

    def total(audio: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        audio = weighting(audio)
        with torch.no_grad():
            target = weighting(target)
        found = (at_resolution(audio, target, length) for length in config.resolutions)
        return sum(found) / len(config.resolutions)

    return total


def auraloss_sum_and_difference(config: ObjectiveConfig) -> Callable:
    import auraloss

    return auraloss.freq.SumAndDifferenceSTFTLoss(
        fft_sizes=list(config.resolutions),
        hop_sizes=[n // 4 for n in config.resolutions],
        win_lengths=list(config.resolutions),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=66_150, help="length of each item")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--autograd", action="store_true", help="automatic differentiation too")
    parser.add_argument("--compile", action="store_true", help="through torch.compile too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, on_cpu = options.device, options.device.type == "cpu"

    config = ObjectiveConfig()
    torch.manual_seed(0)
    target = 0.1 * torch.randn(options.batch, 2, options.samples)
    audio = target + 0.03 * torch.randn_like(target)
    target, audio = target.to(device), audio.to(device).requires_grad_()

    losses = {"single pass": single_pass(config, device, compiled=False)}
    if on_cpu and not options.compile:
        losses["auraloss SumAndDifferenceSTFTLoss"] = auraloss_sum_and_difference(config)
    if options.autograd or options.compile or not on_cpu:
        losses["automatic differentiation"] = automatic(config, device, compiled=False)
    if options.compile:
        torch._dynamo.config.recompile_limit = max(8, 2 * len(config.resolutions))
        losses["single pass, compiled"] = single_pass(config, device, compiled=True)
        losses["automatic differentiation, compiled"] = automatic(config, device, compiled=True)

    first, wall, busy, memory = {}, {n: [] for n in losses}, {n: [] for n in losses}, {}
    for repeat in range(options.repeats + 2):
        for name, loss in losses.items():
            audio.grad = None
            if not on_cpu:
                torch.cuda.reset_peak_memory_stats(device)
                held = torch.cuda.memory_allocated(device)
                torch.cuda.synchronize(device)
            started, busy_since = time.perf_counter(), time.process_time()
            loss(audio, target).backward()
            if not on_cpu:
                torch.cuda.synchronize(device)
                memory[name] = torch.cuda.max_memory_allocated(device) - held
            elapsed, used = time.perf_counter() - started, time.process_time() - busy_since
            if repeat > 1:  # the first turns warm up
                wall[name].append(elapsed)
                busy[name].append(used)
            elif repeat == 0:
                first[name] = elapsed
                print(f"first turn of {name}: {elapsed:.1f} s", flush=True)

    print(f"{processor(device)}, {options.threads} threads, torch {torch.__version__}"
          + (f", auraloss {version('auraloss')}" if on_cpu else ""))  # fmt: skip
    print(f"{options.batch} x {options.samples} samples of stereo at {RATE} Hz, resolutions "
          f"{', '.join(map(str, config.resolutions))}, phase weighting {config.phase_weighting}, "
          f"medians of {options.repeats}")  # fmt: skip
    audio_seconds = options.batch * options.samples / RATE
    columns = f"{'elapsed':>9}{'CPU time':>10}" + ("" if on_cpu else f"{'ms a step':>11}{'MiB':>7}")
    print(f"{'forward + backward, ms per second of audio':44}{columns}")
    for name in losses:
        elapsed, used = (1000 * statistics.median(times[name]) for times in (wall, busy))
        line = f"{name:44}{elapsed / audio_seconds:9.2f}{used / audio_seconds:10.2f}"
        print(line + ("" if on_cpu else f"{elapsed:11.2f}{memory[name] / 2**20:7.0f}"))


if __name__ == "__main__":
    main()
