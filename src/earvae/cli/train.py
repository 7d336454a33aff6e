"""``earvae train``: a thin door to ``earvae.training.run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="YAML or JSON recipe, see configs/.")],
    run: Annotated[Path, typer.Option("--run", "-o", help="Folder of the run.")],
    precision: Annotated[
        str, typer.Option(help="32-true or bf16-mixed (the objective stays in float32).")
    ] = "32-true",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many devices, or auto.")] = "1",
    strategy: Annotated[
        str, typer.Option(help="Lightning Fabric strategy: auto, ddp, fsdp.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the model; default: all cores.", min=1)
    ] = None,
) -> None:
    """Train a model on your music.

    Starts the recipe in the run folder; if a checkpoint of the same recipe is there, goes on
    with it, exactly where it stopped. Ctrl-C (or SIGTERM) saves and exits with status 75.

    \b
    earvae train configs/compact.yaml --run runs/compact
    tensorboard --logdir runs/compact/logs
    earvae reconstruct song.flac -o out.wav --weights runs/compact/ema
    """
    from earvae.cli.errors import one_line
    from earvae.config import ConfigError, TrainConfig, read

    try:
        import torch

        from earvae.training import run as training
    except ModuleNotFoundError as error:
        one_line(f"training needs the package {error.name}: pip install 'earvae[train]'")
    if threads:
        torch.set_num_threads(threads)
    try:
        status = training.train(
            read(TrainConfig, config),
            run,
            precision=precision,
            accelerator=device,
            devices=int(devices) if devices.isdigit() else devices,
            strategy=strategy,
        )
    except (ConfigError, OSError, ValueError) as error:
        one_line(str(error))
    raise typer.Exit(status)
