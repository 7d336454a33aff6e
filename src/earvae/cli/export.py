"""``earvae export``: the model in other formats, for ONNX Runtime and for diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from earvae.cli import options
from earvae.cli.errors import one_line, usage_error


def export(
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx",
            metavar="FOLDER",
            help="encoder.onnx, decoder.onnx, transformer.onnx if there is one, and runner.py, "
            "which needs only onnxruntime, numpy and soundfile.",
        ),
    ] = None,
    diffusers: Annotated[
        Path | None,
        typer.Option(
            "--diffusers",
            metavar="FOLDER",
            help="What AutoencoderOobleck.from_pretrained loads: for models of the paper's "
            "architecture without a transformer.",
        ),
    ] = None,
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    half: Annotated[
        bool,
        typer.Option("--half", help="Store --onnx weights in float16; computation stays float32."),
    ] = False,
) -> None:
    """Write the model for programs without PyTorch, or for diffusers.

    What is written for diffusers can be given to --weights again, as can its folders of other
    models (Stable Audio Open).

    \b
    earvae export --onnx onnx/
    python onnx/runner.py reconstruct song.wav out.wav
    earvae export --diffusers vae/ --weights ear_vae_no_transformer.pyt
    """
    if onnx is None and diffusers is None:
        usage_error("say what to write: --onnx FOLDER or --diffusers FOLDER")
    if half and onnx is None:
        usage_error("--half belongs to --onnx; add that or leave out --half")
    if onnx is not None:
        try:
            from earvae.export.onnx import export_onnx
        except ModuleNotFoundError as error:
            one_line(f"--onnx needs the package {error.name}: pip install 'earvae[export]'")
    vae = options.load_model(weights, config, sample_rate, "cpu")

    if onnx is not None:
        for path in export_onnx(vae, onnx, half):
            typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    if diffusers is not None:
        from earvae.export.diffusers import export_diffusers

        differences = export_diffusers(vae, diffusers)
        typer.echo(f"{diffusers}: for AutoencoderOobleck.from_pretrained")
        for line in differences:
            typer.echo(f"note: {line}")
    typer.echo(f"model {vae.identity}")
