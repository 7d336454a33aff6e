"""Speed on this machine: encode + decode, shipped model beside the published architecture.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/realtime.py --seconds 30

The published architecture has random weights (speed does not depend on them). Both run in the
same process, in float32, turn by turn; the figure is the median.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from earvae import EarVAE, OobleckConfig, codec
from earvae.engine import accelerate
from earvae.model.layers import fold_weight_norm


def seconds_taken(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of audio")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    torch.manual_seed(0)
    published = EarVAE(OobleckConfig()).eval()
    folded = EarVAE(OobleckConfig()).eval()
    fold_weight_norm(folded)
    models = {
        "shipped": EarVAE.from_pretrained(),
        "published architecture": published,
        "published, weight norm folded": folded,
        "published, exact engine": accelerate(published, "exact"),
        "published, fast engine": accelerate(published, "fast"),
    }
    audio = 0.1 * torch.randn(1, 2, int(arguments.seconds * 44_100))
    times: dict[str, dict[str, list[float]]] = {n: {"encode": [], "decode": []} for n in models}
    for vae in models.values():  # warm up
        codec.reconstruct(vae, audio[..., :44_100])
    for repeat in range(arguments.repeats):
        for name, vae in models.items():
            if name != "shipped" and repeat >= 2:
                continue  # minutes each; two turns are enough
            posterior = codec.encode(vae, audio)
            latents = posterior.mode()
            encode = seconds_taken(lambda v=vae: codec.encode(v, audio))
            decode = seconds_taken(lambda v=vae, z=latents: codec.decode(v, z, audio.shape[2]))
            times[name]["encode"].append(encode)
            times[name]["decode"].append(decode)

    title = (
        f"{arguments.seconds:g} s of stereo, float32, {arguments.threads} threads of "
        f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), "
        f"torch {torch.__version__}"
    )
    table = Table(title=title)
    table.add_column("model")
    table.add_column("parameters")
    for column in ("encode s", "decode s", "× real time"):
        table.add_column(column, justify="right")
    for name, vae in models.items():
        encode, decode = (statistics.median(times[name][part]) for part in ("encode", "decode"))
        millions = sum(p.numel() for p in vae.parameters()) / 1e6
        speed = arguments.seconds / (encode + decode)
        table.add_row(name, f"{millions:.2f} M", f"{encode:.3f}", f"{decode:.3f}", f"{speed:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
