"""``earvae train``: a thin door to ``earvae.training.train``."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from earvae.cli.errors import one_line, usage_error

if TYPE_CHECKING:
    from earvae.config import TrainConfig


DEFAULT_RECIPE = "compact"
PRECISIONS = ("fp32", "tf32", "bf16")
SPELLINGS = {"32-true": "fp32", "bf16-mixed": "bf16"}  # Lightning's
CROPS_A_MINUTE = 150  # to fit a linear start on in a fifth of --minutes, at 0.08 s a crop


def train(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", show_default=False, help="Your own recipe, YAML or JSON."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="A recipe that comes with earvae; a wrong name lists them. Default: "
            f"{DEFAULT_RECIPE}.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Your music, in place of the recipe's: a folder, a .jsonl manifest or the "
            "index.json of a pack. May be given several times.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="What to start from, in place of the recipe's: shipped, ear-vae-44k, a run "
            "folder, a published weight file, or hub:owner/name/FILE. The model is then theirs.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", "-o", help="Folder of the run. Default: runs/ and the recipe's name."
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|tf32|bf16",
            help="Of the networks. tf32 is float32 with products of ten bits, on GPUs that have "
            "it; losses stay in float32, but for tf32.",
        ),
    ] = "fp32",
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
        int | None,
        typer.Option(help="CPU threads of the model; default: all cores.", min=1, max=1024),
    ] = None,
    log: Annotated[
        Literal["tensorboard", "csv"],
        typer.Option(
            help="Where figures go besides log.jsonl. TensorBoard also gets audio and spectrograms."
        ),
    ] = "tensorboard",
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop, validate and save so that the run ends within this time. Learning rates "
            "go by the recipe's steps all the same.",
            min=0.1,
        ),
    ] = None,
) -> None:
    """Train a model on your music, from scratch or from given weights.

    \b
    earvae train --data my_music                          a new small model
    earvae train --recipe finetune --data my_music        the shipped model goes on learning
    earvae train --recipe finetune_published --data my_music     the published model does
    earvae train my_recipe.yaml --run runs/mine           your own recipe

    Starts the recipe in the run folder; if a checkpoint of the same recipe is there, goes on
    with it, exactly where it stopped. Ctrl-C (or SIGTERM) saves and exits with status 75, a second
    Ctrl-C ends it at once. A run whose --minutes are over before its steps exits with 75, too.

    Several devices: --devices 8 --strategy ddp on one machine; under torchrun or SLURM the same
    command, started once a process, finds its place by itself.

    \b
    torchrun --nproc-per-node 8 -m earvae train --recipe paper_44k \\
        --data my_music -o runs/paper --devices 8 --strategy ddp --precision bf16
    tensorboard --logdir runs/compact/logs
    earvae reconstruct song.flac -o out.wav --weights runs/compact/ema
    """
    started = time.monotonic()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line when it is told
    if minutes is not None and not math.isfinite(minutes):
        usage_error(f"--minutes: {minutes} is no time; leave it out to train all steps")
    precision = SPELLINGS.get(precision, precision)
    if precision not in PRECISIONS:
        usage_error(f"--precision {precision}: use one of {', '.join(PRECISIONS)}")
    path = _recipe_file(config, recipe, data)
    run = run or Path("runs") / path.stem
    _print_once(f"recipe {path}; run {run}")  # what follows is slow to import
    try:
        import torch
        from lightning_fabric.loggers import CSVLogger

        from earvae.training import train as training
    except ModuleNotFoundError as error:
        one_line(f"training needs the package {error.name}: pip install 'earvae[train]'")
    if threads:
        torch.set_num_threads(threads)
    status = training.train(
        _chosen(path, data, weights, minutes),
        run,
        precision=precision,
        accelerator=device,
        devices=int(devices) if devices.isdigit() else devices,
        nodes=nodes,
        strategy=strategy,
        loggers=[CSVLogger(run, name="csv", version="")] if log == "csv" else None,
        minutes=minutes,
        started=started,
    )
    raise typer.Exit(status)


def _recipe_file(given: Path | None, name: str | None, data: list[str] | None) -> Path:
    """The recipe that the command line means; what it cannot mean is a usage error."""
    from earvae import recipes
    from earvae.config import ConfigError

    if given is None:
        if name is None and not data:
            usage_error("name your music with --data FOLDER, or a recipe; --help has examples")
        try:
            return recipes.path_of(name or DEFAULT_RECIPE)
        except ConfigError as error:
            usage_error(f"--recipe: {error}")
    if name is not None:
        usage_error(f"{given} and --recipe {name} are two recipes; leave one out")
    if given.is_dir():
        usage_error(f"{given}: is a folder and no recipe; --data {given} trains on it")
    if not given.exists() and str(given) in recipes.names():
        usage_error(f"{given}: no such file; --recipe {given} is the recipe that comes with earvae")
    return given


def _chosen(
    path: Path, data: list[str] | None, weights: str | None, minutes: float | None
) -> TrainConfig:
    """The recipe with what the command line replaces. Raises ConfigError."""
    from earvae.config import TrainConfig, parse, read
    from earvae.training.own_data import with_data

    config = read(TrainConfig, path)
    if weights is not None:
        values = config.model_dump(exclude_unset=True)
        config = parse(TrainConfig, values | {"initial_weights": weights, "model": None}, str(path))
    if minutes is not None:  # or the fit of the linear start alone would take longer
        crops = min(config.linear_code_crops, max(1, int(CROPS_A_MINUTE * minutes)))
        config = config.model_copy(update={"linear_code_crops": crops})
    if data:
        config, line = with_data(config, data)
        _print_once(f"data {', '.join(data)}; {line}")
    return config


def _print_once(line: str) -> None:
    """Print a line from one of a run's processes."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if next((rank for rank in ranks if rank is not None), "0") == "0":
        typer.echo(line)
