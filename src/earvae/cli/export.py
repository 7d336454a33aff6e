"""``earvae export``: the model in other formats: ONNX Runtime, a web page, diffusers."""

from __future__ import annotations

from contextlib import suppress
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
    web: Annotated[
        Path | None,
        typer.Option(
            "--web",
            metavar="FOLDER",
            help="A web page that computes in the browser: drop a song, hear and see original and "
            "reconstruction. Nothing is uploaded.",
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then show the --web page to browsers on this machine.")
    ] = False,
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--onnxruntime-web",
            metavar="PATH",
            help="Its folder, or what `npm pack onnxruntime-web` leaves; default: npm is asked.",
        ),
    ] = None,
    weights: options.Weights = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    half: Annotated[
        bool,
        typer.Option("--half", help="Store weights in float16; computation stays float32."),
    ] = False,
) -> None:
    """Write the model for programs without PyTorch, for browsers, or for diffusers.

    What is written for diffusers can be given to --weights again, as can its folders of other
    models (Stable Audio Open).

    \b
    earvae export --onnx onnx/
    python onnx/runner.py reconstruct song.wav out.wav
    earvae export --web page/ --serve
    earvae export --diffusers vae/ --weights ear_vae_no_transformer.pyt
    """
    if onnx is None and web is None and diffusers is None:
        usage_error("say what to write: --onnx FOLDER, --web FOLDER or --diffusers FOLDER")
    if half and onnx is None and web is None:
        usage_error("--half belongs to --onnx or --web; add one of them or leave out --half")
    for option, given in (("--serve", serve), ("--onnxruntime-web", runtime)):
        if given and web is None:
            usage_error(f"{option} belongs to --web; add that or leave out {option}")
    if onnx is not None or web is not None:
        try:
            from earvae.export.onnx import export_onnx
        except ModuleNotFoundError as error:
            option = "--web" if onnx is None else "--onnx"
            one_line(f"{option} needs the package {error.name}: pip install 'earvae[export]'")
    vae = options.load_model(weights, config, sample_rate, "cpu")

    if onnx is not None:
        for path in export_onnx(vae, onnx, half):
            typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    if web is not None:
        from earvae.export.web import export_web, onnxruntime_web

        found = onnxruntime_web.find(runtime, lambda line: typer.echo(line, err=True))
        files = export_web(vae, web, found, half)
        size = sum(path.stat().st_size for path in files)
        typer.echo(f"{web}: {len(files)} files, {size / 1e6:.1f} MB, for any web server")
    if diffusers is not None:
        from earvae.export.diffusers import export_diffusers

        differences = export_diffusers(vae, diffusers)
        typer.echo(f"{diffusers}: for AutoencoderOobleck.from_pretrained")
        for line in differences:
            typer.echo(f"note: {line}")
    typer.echo(f"model {vae.identity}")
    if web is not None and serve:
        from earvae.export.web.serve import server

        with server(web) as running:
            typer.echo(f"http://localhost:{running.server_port}/ (Ctrl-C ends)")
            with suppress(KeyboardInterrupt):
                running.serve_forever()
