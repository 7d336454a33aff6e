"""``earvae export-weights``: the generator out of a run, without what only training needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earvae.cli.errors import one_line


def export_weights(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for config.json, model.safetensors.")
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="The last weights, not their running average.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="In half precision: half the size.")] = False,
) -> None:
    """Extract a run's generator as safetensors, for earvae --weights and others.

    \b
    earvae export-weights runs/compact -o my_model --half
    earvae reconstruct song.flac -o out.wav --weights my_model
    """
    try:
        import torch

        from earvae.model.saved import CONFIG_NAME, WEIGHTS_NAME
        from earvae.owned import WEIGHTS, Owned
        from earvae.training import checkpoint
    except ModuleNotFoundError as error:
        one_line(f"reading a run needs the package {error.name}: pip install 'earvae[train]'")
    saved = checkpoint.read(run)
    if saved is None:
        one_line(f"{run}: no {checkpoint.CHECKPOINT} there; name the folder of a run")
    vae = saved.generator(averaged=not raw)
    Owned(output, WEIGHTS).claim(CONFIG_NAME, WEIGHTS_NAME)
    vae.save_pretrained(output, dtype=torch.float16 if half else None)
    which = "last" if raw else "averaged"
    typer.echo(f"{output}: {which} weights after step {saved.step}, model {vae.identity}")
