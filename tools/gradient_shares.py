"""What each term of a recipe pulls: its share of the gradient by the reconstruction.

    python tools/gradient_shares.py RECIPE --data MUSIC [--weights WEIGHTS] [--crops 4]

For every stage, at its beginning: the recipe's model (from its start, or ``--weights``) on crops of
MUSIC, a new discriminator, and the norms of the weighted gradients over their sum, with the weight
that the recipe or its ``balance`` gives. A training run logs the same as ``share/``.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from earvae.config import TrainConfig, merged, parse, read
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.balance import Balance
from earvae.training.loader import make_batches, open_crops
from earvae.training.set_up import set_up, with_model
from earvae.training.state import State
from earvae.training.step import step_generator, term_gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", required=True, help="folder, manifest or index of shards")
    parser.add_argument("--split", help="of a manifest")
    parser.add_argument("--weights", help="in place of the recipe's start")
    parser.add_argument("--crops", type=int, default=4)
    options = parser.parse_args()
    data = {
        "sources": [{"tracks": options.data, "split": options.split}], "batch_size": 1,
        "workers": 0, "cache": "none",
    }  # fmt: skip
    config = with_model(read(TrainConfig, options.recipe))
    stages = [merged(stage.model_dump(), {"data": data}) for stage in config.stages]
    changes = {"stages": stages, "validation": None, "compile": False}
    if options.weights:
        changes |= {"initial_weights": options.weights, "model": None}
    config = with_model(parse(TrainConfig, merged(config.model_dump(), changes), "recipe"))
    fabric = Fabric(accelerator="auto", devices=1)
    fabric.launch()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(None):
        state = set_up(fabric, config, Path(folder))
    table = Table(title=f"{options.recipe.stem}: weight and share at the start of each stage")
    table.add_column("term")
    columns = []
    for stage in config.stages:
        table.add_column(stage.name, justify="right")
        columns.append(shares(fabric, config, stage, state, options.crops))
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [
            f"{column[name][0]:.3g} · {column[name][1]:.1%}" if name in column else "–"
            for column in columns
        ]
        table.add_row(name, *cells)
    Console(width=100).print(table)


def shares(fabric: Fabric, config: TrainConfig, stage, state: State, crops: int) -> dict:
    """Weight and share by term, from mean norms over crops."""
    rate = config.model.sample_rate
    objective = PerceptualLoss(stage.balanced_objective(), rate).to(fabric.device)
    balance = state.balance = Balance(stage, fabric.device)
    found: dict[str, list[torch.Tensor]] = {}
    batches = make_batches(open_crops(stage.data, rate, fabric.device), 0, crops, fabric.device)
    for number, batch in enumerate(batches):
        audio = batch["audio"]
        with torch.no_grad():
            fake, _ = state.vae(audio)
        view, real = None, []
        if stage.adversarial:
            view = state.discriminator.draw(audio.shape[2], step_generator(0, number, 2))
            real = state.discriminator(audio, view)
        generator = step_generator(0, number, 1)
        gradients = term_gradients(fabric, state, objective, audio, fake, real, view, generator)
        for name, gradient in gradients.items():
            found.setdefault(name, []).append(gradient.flatten())
    stacked = {name: torch.stack(each).unsqueeze(1) for name, each in found.items()}
    balance.note(fabric, {name: each / crops for name, each in stacked.items()})
    weights, parts = balance.weights(), balance.shares()
    return {name: (float(weights[name]), float(parts[name])) for name in parts}


if __name__ == "__main__":
    main()
