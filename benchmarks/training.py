"""Throughput of training, and where a step's time goes.

R=src/earvae/recipes; python benchmarks/training.py $R/compact.yaml $R/paper_44k.yaml --steps 3

For each recipe: seconds per step of data, generator (forward and backward), losses, discriminator
and optimiser, on one process and synthetic crops of the recipe's shape; audio seconds per second
with and without the discriminator; and how fast the data loader alone delivers crops from a
folder of FLAC files. On a GPU, add --device cuda --precision bf16 --peak-tflops 989, and
--compile to compare.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from earvae import EarVAE
from earvae.config import AdversarialConfig, DataConfig, TrainConfig, read
from earvae.discriminator import Discriminator
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.data import CropDataset, make_loader
from earvae.training.step import discriminator_pass, generator_pass
from earvae.training.weights import with_model

PARTS = ("generator", "losses", "discriminator", "optimiser")


class Stopwatch:
    """Adds up the time of named parts; waits for the device at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[part] += time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(config: TrainConfig, options: argparse.Namespace) -> dict[str, float]:
    """Seconds per step by part, and the generator's floating-point operations per step."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    stage = config.stages[-1]
    vae = EarVAE(config.model).to(device).train()
    discriminator = Discriminator(config.discriminator).to(device).train()
    objective = PerceptualLoss(stage.objective, config.model.sample_rate).to(device).train()
    if options.compile:
        for part in (vae.encoder, vae.decoder, discriminator):
            part.compile()
    optimisers = [torch.optim.AdamW(n.parameters()) for n in (vae, discriminator)]
    batch = options.batch_size or stage.data.batch_size
    audio = 0.1 * torch.randn(batch, 2, stage.data.crop_samples, device=device)
    noise = torch.randn(
        batch, config.model.latent_channels, -(-audio.shape[2] // config.model.hop_length),
        device=device,
    )  # fmt: skip
    adversarial = stage.adversarial or AdversarialConfig()
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")
    watch = Stopwatch(device)
    flops = 0
    for step in range(options.steps + 1):
        if step == 1:
            watch.seconds.clear()  # the first one warms up
        random = torch.Generator().manual_seed(step)
        view = discriminator.draw(audio.shape[2], random)
        counter = FlopCounterMode(display=False) if step == 0 else contextlib.nullcontext()
        with watch("generator"), counter, bf16:
            fake, posterior = vae(audio, noise)
        with watch("losses"):
            terms = objective(fake.float(), audio, posterior.kl().float(), generator=random)
        with watch("discriminator"):
            with bf16:
                own, real = discriminator_pass(discriminator, audio, fake, view)
            own.total.backward()
            at_fake = fake.detach().requires_grad_(True)
            with bf16:
                through = generator_pass(discriminator, adversarial, terms, real, at_fake, view)
            gradient = torch.autograd.grad(through.total - terms.total, at_fake)[0]
        with watch("losses"):
            gradient = gradient + torch.autograd.grad(terms.total, fake, retain_graph=True)[0]
        with watch("generator"):
            fake.backward(gradient.to(fake.dtype))
        with watch("optimiser"):
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        if step == 0:
            flops = 3 * counter.get_total_flops()  # the backward pass takes twice the forward's
    result = {part: watch.seconds[part] / options.steps for part in PARTS}
    result["audio"] = batch * audio.shape[2] / config.model.sample_rate
    result["flops"] = flops
    return result


def loader_speed(config: TrainConfig, crops: int, workers: int) -> float:
    """Audio seconds per second that the data loader delivers from four minutes of FLAC."""
    data = config.stages[-1].data
    rate = config.model.sample_rate
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        for index in range(4):
            noise = 0.1 * random.standard_normal((60 * rate, 2))
            soundfile.write(Path(folder) / f"{index}.flac", noise, rate)
        values = data.model_dump() | {"sources": [{"tracks": folder}], "workers": workers}
        loader = make_loader(CropDataset(DataConfig(**values), rate), 0, crops)
        batches = iter(loader)
        next(batches)  # processes have started
        start = time.perf_counter()
        count = sum(len(batch["audio"]) for batch in itertools.islice(batches, crops))
    return count * data.crop_samples / rate / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one to warm up")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peak-tflops", type=float, help="of the device, to tell the share of it")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    where = f"{options.device}, {options.precision}, {torch.get_num_threads()} threads"
    table = Table(title=f"seconds per step ({where}{', compiled' if options.compile else ''})")
    names = [path.stem for path in options.recipes]
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    configs = [with_model(read(TrainConfig, path)) for path in options.recipes]
    found = [measure(config, options) for config in configs]
    for part in PARTS:
        table.add_row(part, *(f"{f[part]:.3f}" for f in found))
    table.add_section()
    rates = {
        "audio in a step, s": lambda f: f["audio"],
        "audio s/s, whole step": lambda f: f["audio"] / sum(f[part] for part in PARTS),
        "audio s/s, no discriminator": lambda f: (
            f["audio"] / sum(f[part] for part in PARTS if part != "discriminator")
        ),
        "generator, TFLOP/s": lambda f: f["flops"] / f["generator"] / 1e12,
    }
    if options.peak_tflops:
        rates["generator, share of peak"] = lambda f: (
            f["flops"] / f["generator"] / 1e12 / options.peak_tflops
        )
    for name, value in rates.items():
        table.add_row(name, *(f"{value(f):.3f}" for f in found))
    speeds = [loader_speed(config, 200, workers=1) for config in configs]
    table.add_row("data, audio s/s of one worker", *(f"{speed:.1f}" for speed in speeds))
    Console().print(table)


if __name__ == "__main__":
    main()
