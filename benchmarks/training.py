"""Throughput of training, and where a step's time goes.

R=src/earvae/recipes; python benchmarks/training.py $R/compact.yaml $R/paper_44k.yaml --steps 3
python benchmarks/training.py $R/compact.yaml $R/paper_44k.yaml --device cuda --precision bf16 \
    --compile --peak-tflops 989 --steps 20

For each recipe's last stage: seconds per step of generator (forward and backward), losses,
discriminator and optimiser, each waited for, on synthetic crops of the recipe's shape; on a GPU
the most memory that was taken in each; and the generator's arithmetic as a share of the card's
peak. Then, with nothing waited for but the last step, the steps of training itself on four
minutes of noise: audio seconds per second of the first stage and of the last, with the data
decoded (--cache none) or in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from lightning_fabric import Fabric
from machine import processor
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from earvae import EarVAE
from earvae.config import ADVERSARIAL, TrainConfig, merged, parse, read
from earvae.discriminator import Discriminator
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.balance import Balance
from earvae.training.loader import make_batches, open_crops
from earvae.training.optimisers import optimiser_of
from earvae.training.set_up import compile_networks, set_recompute, set_up, with_model
from earvae.training.stages import Place, freeze
from earvae.training.step import adversarial_terms, discriminator_pass, train_step

PARTS = ("generator", "losses", "discriminator", "optimiser")
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Stopwatch:
    """Adds up the time of named parts, and the most memory; waits for the device at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, int] = defaultdict(int)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            most = torch.cuda.max_memory_allocated(self.device)
            self.bytes[part] = max(self.bytes[part], most)
        self.seconds[part] += time.perf_counter() - start


def measure(config: TrainConfig, options: argparse.Namespace) -> dict[str, float]:
    """Seconds per step and gigabytes by part, and the generator's operations per step."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    stage = config.stages[-1]
    vae = EarVAE(config.model).to(device).train()
    discriminator = Discriminator(config.discriminator).to(device).train()
    if device.type == "cuda":
        discriminator.to(memory_format=torch.channels_last)
    objective = PerceptualLoss(stage.balanced_objective(), config.model.sample_rate)
    objective = objective.to(device).train()
    batch = options.batch_size or stage.data.batch_size
    audio = 0.1 * torch.randn(batch, 2, stage.data.crop_samples, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae(audio[:1])
    flops = 3 * counter.get_total_flops() * batch  # the backward pass takes twice the forward's
    set_recompute(vae, options.recompute)
    if options.compile:
        compile_networks(vae, discriminator)
        if device.type == "cuda":
            objective.compile_terms()
    optimisers = [
        optimiser_of(vae, config.muon), optimiser_of(discriminator, config.discriminator_muon)
    ]  # fmt: skip
    noise = torch.randn(
        batch, config.model.latent_channels, -(-audio.shape[2] // config.model.hop_length),
        device=device,
    )  # fmt: skip
    weights = dict.fromkeys(ADVERSARIAL, 1.0)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")
    watch = Stopwatch(device)
    warm = 1 if device.type == "cpu" else 4
    for step in range(options.steps + warm):
        if step == warm:
            watch.seconds.clear()
        random = torch.Generator().manual_seed(step)
        view = discriminator.draw(audio.shape[2], random)
        with watch("generator"), bf16:
            fake, posterior = vae(audio, noise)
        with watch("losses"):
            terms = objective(fake.float(), audio, posterior.kl().float(), generator=random)
            gradient = torch.autograd.grad(terms.total, fake, retain_graph=True)[0]
        with watch("discriminator"):
            with bf16:
                own, real = discriminator_pass(discriminator, audio, fake, view)
            own.total.backward()
            at_fake = fake.detach().requires_grad_(True)
            with bf16:
                judged = adversarial_terms(discriminator, real, at_fake, view)
            through = sum(weights[name] * judged[name] for name in judged)
            gradient = gradient + torch.autograd.grad(through, at_fake)[0]
        with watch("generator"):
            fake.backward(gradient.to(fake.dtype))
        with watch("optimiser"):
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
    result = {part: watch.seconds[part] / options.steps for part in PARTS}
    result |= {f"{part}, GB": watch.bytes[part] / 1e9 for part in PARTS}
    result["audio"] = batch * audio.shape[2] / config.model.sample_rate
    result["flops"] = flops
    return result


def real_steps(config: TrainConfig, options: argparse.Namespace, index: int) -> float:
    """Audio seconds per second of training steps of stage ``index``, data and all."""
    rate = config.model.sample_rate
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        for number in range(4):
            noise = 0.1 * random.standard_normal((60 * rate, 2))
            soundfile.write(Path(folder) / f"{number}.flac", noise, rate)
        data = {"sources": [{"tracks": folder}], "cache": options.cache, "workers": options.workers}
        data["filters"] = {"true_peak_db": None, "bandwidth_hz": None}
        if options.batch_size:
            data["batch_size"] = options.batch_size
        stages = [merged(stage.model_dump(), {"data": data}) for stage in config.stages]
        if stages[index]["adversarial"]:
            stages[index]["adversarial"]["discriminator_only_steps"] = 0
        changes = {
            "stages": stages, "validation": None, "linear_code_crops": 0,
            "compile": options.compile, "recompute": options.recompute,
        }  # fmt: skip
        config = parse(TrainConfig, merged(config.model_dump(), changes), "benchmark")
        stage = config.stages[index]
        fabric = Fabric(
            accelerator=options.device, devices=1, precision=PRECISIONS[options.precision]
        )
        fabric.launch()
        with contextlib.redirect_stderr(None):
            state = set_up(fabric, config, Path(folder) / "run")
        freeze(state.vae, stage)
        objective = PerceptualLoss(stage.balanced_objective(), rate).to(fabric.device).train()
        if options.compile and fabric.device.type == "cuda":
            objective.compile_terms()
        state.balance = Balance(stage, fabric.device)
        crops = open_crops(stage.data, rate, fabric.device)
        warm = 1 if fabric.device.type == "cpu" else 10
        count = (warm + options.steps) * stage.crops(1)
        batches = make_batches(crops, 0, count, fabric.device)
        for step in range(warm + options.steps):
            if step == warm:
                _wait(fabric.device)
                start = time.perf_counter()
            train_step(fabric, config, Place(index, stage, step), state, objective, batches)
        _wait(fabric.device)
        elapsed = time.perf_counter() - start
    return options.steps * stage.crops(1) * stage.data.crop_samples / rate / elapsed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=3, help="timed, after some to warm up")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true", help="activations of the paper's model")
    parser.add_argument("--cache", choices=["none", "ram", "device"], default="ram")
    parser.add_argument("--workers", type=int, default=1, help="that decode, with --cache none")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peak-tflops", type=float, help="of the device, to tell the share of it")
    parser.add_argument("--only", choices=["parts", "steps"], help="one half of the table")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    flags = [name for name in ("compile", "recompute") if getattr(options, name)]
    threads = f"{torch.get_num_threads()} threads"
    said = ", ".join([processor(options.device), options.precision, threads, *flags])
    table = Table(title=f"seconds per step ({said})")
    table.add_column("")
    for path in options.recipes:
        table.add_column(path.stem, justify="right")
    configs = [with_model(read(TrainConfig, path)) for path in options.recipes]
    if options.only != "steps":
        found = [measure(config, options) for config in configs]
        for part in PARTS:
            table.add_row(part, *(f"{f[part]:.4f}" for f in found))
        table.add_section()
        rows = {
            "audio in a step, s": lambda f: f["audio"],
            "audio s/s, parts added up": lambda f: f["audio"] / sum(f[part] for part in PARTS),
            "audio s/s, no discriminator": lambda f: (
                f["audio"] / sum(f[part] for part in PARTS if part != "discriminator")
            ),
            "generator, TFLOP/s": lambda f: f["flops"] / f["generator"] / 1e12,
        }
        if options.peak_tflops:
            rows["generator, share of peak"] = lambda f: (
                f["flops"] / f["generator"] / 1e12 / options.peak_tflops
            )
        if options.device == "cuda":
            rows |= {f"{p}, GB": lambda f, p=p: f[f"{p}, GB"] for p in PARTS}
        for name, value in rows.items():
            table.add_row(name, *(f"{value(f):.3f}" for f in found))
        table.add_section()
    if options.only != "parts":
        for title, index in (("first", 0), ("last", -1)):
            speeds = [real_steps(config, options, index % len(config.stages)) for config in configs]
            row = f"audio s/s, {title} stage, data {options.cache}"
            table.add_row(row, *(f"{speed:.1f}" for speed in speeds))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
