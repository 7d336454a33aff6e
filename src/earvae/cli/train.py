"""``earvae train``: a thin door to ``earvae.training.run``."""

from __future__ import annotations

import os
import sys
import time
import traceback
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from earvae.cli.errors import one_line


class Precision(str, Enum):
    """Arithmetic of the networks; the objective always computes in float32."""

    full = "32-true"
    bf16 = "bf16-mixed"


class Log(str, Enum):
    """Where figures go besides the run's log.jsonl."""

    tensorboard = "tensorboard"
    csv = "csv"


def train(
    config: Annotated[Path, typer.Argument(help="YAML or JSON recipe, see configs/.")],
    run: Annotated[Path, typer.Option("--run", "-o", help="Folder of the run.")],
    precision: Annotated[
        Precision, typer.Option(help="Of the networks; losses stay in float32.")
    ] = Precision.full,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[str, typer.Option(help="How many on this machine, or auto.")] = "1",
    nodes: Annotated[int, typer.Option(help="Machines that train together.", min=1)] = 1,
    strategy: Annotated[
        str,
        typer.Option(
            help="Over several devices: ddp; fsdp, which shards the generator; or another name "
            "that Lightning Fabric knows."
        ),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the model; default: all cores.", min=1)
    ] = None,
    log: Annotated[
        Log, typer.Option(help="TensorBoard also gets audio and spectrograms.")
    ] = Log.tensorboard,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop, validate and save so that the run ends within this time. Learning rates "
            "go by the recipe's steps all the same.",
            min=0.1,
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of failures.")] = False,
) -> None:
    """Train a model on your music, from scratch or from given weights.

    Starts the recipe in the run folder; if a checkpoint of the same recipe is there, goes on
    with it, exactly where it stopped. Ctrl-C (or SIGTERM) saves and exits with status 75, a second
    Ctrl-C ends it at once. A run whose --minutes are over before its steps exits with 75, too.

    Several devices: --devices 8 --strategy ddp on one machine; under torchrun or SLURM the same
    command, started once a process, finds its place by itself.

    \b
    earvae train configs/smoke.yaml --run runs/smoke
    earvae train configs/finetune_published.yaml --run runs/mine
    torchrun --nproc-per-node 8 -m earvae.cli.main train configs/paper_44k.yaml \\
        -o runs/paper --devices 8 --strategy ddp --precision bf16-mixed
    tensorboard --logdir runs/smoke/logs
    earvae reconstruct song.flac -o out.wav --weights runs/smoke/ema
    """
    started = time.monotonic()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line when it is told
    if os.environ.get("LOCAL_RANK", "0") == "0":
        typer.echo(f"earvae train {config} --run {run}")  # what follows is slow to import
    from earvae.config import TrainConfig, read

    try:
        import torch
        from lightning_fabric.loggers import CSVLogger

        from earvae.training import run as training
    except ModuleNotFoundError as error:
        one_line(f"training needs the package {error.name}: pip install 'earvae[train]'")
    if threads:
        torch.set_num_threads(threads)
    try:
        status = training.train(
            read(TrainConfig, config),
            run,
            precision=precision.value,
            accelerator=device,
            devices=int(devices) if devices.isdigit() else devices,
            nodes=nodes,
            strategy=strategy,
            loggers=[CSVLogger(run, name="csv", version="")] if log is Log.csv else None,
            minutes=minutes,
            started=started,
        )
    except Exception as error:
        if debug:
            traceback.print_exc()
        one_line(str(error) or type(error).__name__)
    raise typer.Exit(status)
