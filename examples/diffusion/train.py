"""Train the transformer on the latents of a library. Ctrl-C and the same command go on.

    python train.py latents/train latents/validation -o runs/diffusion

The run gets ``model.safetensors`` (averaged weights) and its ``config.json``, ``loss.csv``,
``loss.png``, and ``state.pt`` to go on from.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter

import torch
from look import draw_losses
from model import Config, Transformer, errors
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from earvae import atomic
from earvae.latents import LatentDataset, statistics


def class_of(source: str, depth: int) -> str:
    """The folder that a track is in, ``depth`` folders down."""
    return Path(source).parts[depth] if len(Path(source).parts) > depth + 1 else ""


def classes_in(library: Path, depth: int) -> tuple[str, ...]:
    lines = (library / "index.jsonl").read_text("utf-8").splitlines()
    return tuple(sorted({class_of(json.loads(line)["source"], depth) for line in lines}))


def batches(dataset: LatentDataset, classes: tuple[str, ...], depth: int, workers: int = 0):
    """Of latents [batch, channels, frames], masks [batch, frames], numbers of classes [batch], and
    where the dataset goes on after them."""
    numbers = {name: number for number, name in enumerate(classes)}

    def collate(items: list[dict]) -> tuple[Tensor, Tensor, Tensor, dict]:
        told = default_collate([item["metadata"] for item in items])
        names = [class_of(source, depth) for source in told["source"]]
        labels = torch.tensor([numbers.get(name, len(classes)) for name in names])
        latents, mask = (torch.stack([item[key] for item in items]) for key in ("latents", "mask"))
        return latents, mask, labels, {"metadata": told}

    return DataLoader(dataset, dataset.batch_size, collate_fn=collate, num_workers=workers)


def averaged(average: Tensor, now: Tensor, count: Tensor) -> Tensor:
    """The next exponential moving average, a short one at first."""
    return torch.lerp(average, now, 1 - min(0.998, (1 + int(count)) / (10 + int(count))))


@torch.no_grad()
def validate(model: Transformer, held_out: list[tuple], device: str) -> Tensor:
    """Mean error of each channel at times from 0 to 1, with the same noise every time."""
    random, sums, count = torch.Generator().manual_seed(0), 0.0, 0.0
    for latents, mask, label, _ in held_out:
        time = (torch.arange(len(latents)) * 0.618034 + torch.rand(1, generator=random)) % 1
        noise = torch.randn(latents.shape, generator=random)
        batch = (each.to(device) for each in (latents, noise, time, label, mask))
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            sums = sums + errors(model, *batch).sum((0, 2)).cpu()
        count += float(mask.sum())
    return sums / count


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path, help="made by `earvae library`, with its statistics")
    parser.add_argument("validation", type=Path, help="a library of other music")
    parser.add_argument("-o", "--run", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=100, help="steps between validations")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=432, help="of a crop; 43 are a second")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=0, help="processes that read latents")
    parser.add_argument("--class-depth", type=int, default=0, help="of the folder that is a class")
    for size in ("patch", "width", "depth", "heads"):
        parser.add_argument(f"--{size}", type=int, default=getattr(Config, size))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    given = options(arguments)
    stats, frames, depth = statistics.read(given.library), given.frames, given.class_depth
    classes = classes_in(given.library, depth)
    config = Config(len(stats.mean), frames, classes, given.patch, given.width, given.depth,
                    given.heads)  # fmt: skip
    torch.manual_seed(0)
    model = Transformer(config)
    some = LatentDataset(given.library, frames, stats, epochs=1)
    model.measure(torch.cat([item["latents"][:, item["mask"]] for item in some], 1)[None])
    model.to(given.device)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=averaged)
    optimiser = torch.optim.AdamW(model.parameters(), given.rate, (0.9, 0.98), weight_decay=0.01)
    dataset = LatentDataset(given.library, frames, stats, batch_size=given.batch)
    step, log, state = 0, ["step,training,validation"], given.run / "state.pt"
    if state.exists():
        saved = torch.load(state, given.device, weights_only=True)
        step, log = saved["step"], saved["log"]
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        dataset.load_state_dict(saved["order"])
    others = LatentDataset(given.validation, frames, stats, shuffle=False, epochs=4,
                           batch_size=given.batch)  # fmt: skip
    held_out = list(batches(others, classes, depth))
    model.save(given.run, average.module.state_dict())
    began, losses = perf_counter(), []
    for latents, mask, label, place in batches(dataset, classes, depth, given.workers):
        if step >= given.steps:
            break
        torch.manual_seed(step)  # of times, noise and what is left out, so that runs go on alike
        time, noise = torch.randn(len(latents)).sigmoid(), torch.randn(latents.shape)
        label[torch.rand(len(label)) < 0.1] = len(classes)
        batch = [each.to(given.device) for each in (latents, noise, time, label, mask)]
        with torch.autocast(given.device.split(":")[0], torch.bfloat16):
            loss = errors(model, *batch).sum() / (mask.sum() * len(stats.mean))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = given.rate * min(1, (step + 1) / 100)
        optimiser.step()
        average.update_parameters(model)
        losses.append(loss.item())
        step += 1
        if step % given.every == 0 or step == given.steps:
            by_channel = validate(average.module.eval(), held_out, given.device)
            log.append(f"{step},{sum(losses) / len(losses):.4f},{by_channel.mean():.4f}")
            speed = len(losses) * given.batch * frames / (perf_counter() - began)
            print(f"{log[0]}: {log[-1]} ({speed:.0f} frames a second)", flush=True)
            model.save(given.run, average.module.state_dict())
            (given.run / "loss.csv").write_text("\n".join(log) + "\n")
            (given.run / "channels.json").write_text(json.dumps(by_channel.tolist()))
            parts = {"model": model, "average": average, "optimiser": optimiser}
            states = {name: part.state_dict() for name, part in parts.items()}
            with atomic.file(state) as partial:
                torch.save(
                    {"step": step, "log": log, "order": dataset.state_dict(place)} | states, partial
                )
            draw_losses(given.run)
            began, losses = perf_counter(), []


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last line")
