"""``earvae info``: what a model, a latent file or an audio file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earvae.cli import options
from earvae.cli.batch import stdout
from earvae.cli.errors import one_line

if TYPE_CHECKING:
    from earvae import EarVAE


def info(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            show_default=False,
            help="A model (folder, weight file, hub id), a latent file, or an audio file. "
            "Default: the model that comes with earvae.",
        ),
    ] = None,
    config: options.PublishedConfig = None,
    sample_rate: options.SampleRate = None,
    as_json: options.Json = False,
) -> None:
    """Tell what something is: a model, a latent file, an audio file.

    \b
    earvae info                      # what the shipped model is, was trained on, and scores
    earvae info song.safetensors
    earvae info ear_vae_44k.pyt
    """
    rows = _rows(source, config, sample_rate)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), Text(str(value)))
    stdout().print(table)


def _rows(source: str | None, config: Path | None, sample_rate: int | None) -> dict:
    from earvae.audio import READABLE_SUFFIXES, AudioFileError
    from earvae.files import SUFFIX

    path = Path(source) if source else None
    try:
        if path is not None and path.suffix.lower() in READABLE_SUFFIXES:
            return _audio_rows(path)
        if path is not None and path.suffix == SUFFIX and _holds_latents(path):
            return _latent_rows(path)
    except AudioFileError as error:
        one_line(str(error))
    return _model_rows(options.load_model(source, config, sample_rate, "cpu"), source)


def _audio_rows(path: Path) -> dict:
    from earvae.audio import inspect

    found = inspect(path)
    length = found.header_samples
    return {
        "audio_file": str(path),
        "format": f"{found.container} {found.subtype}",
        "sample_rate": found.rate,
        "channels": found.channels,
        "samples": length,
        "seconds": None if length is None else round(length / found.rate, 3),
    }


def _holds_latents(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    from earvae.files import FORMAT

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _latent_rows(path: Path) -> dict:
    from earvae.files import inspect_encoded

    found = inspect_encoded(path)
    return {
        "latent_file": str(path),
        "latents": f"{found.latent_channels} × {found.frames} {found.dtype}",
        "drawn": "posterior mean" if found.seed is None else f"sample, seed {found.seed}",
        "model": found.model,
        "model_rate": found.sample_rate,
        "hop_length": found.hop_length,
        "original_rate": found.original_rate,
        "original_samples": found.original_samples,
        "original_channels": found.channels,
        "seconds": round(found.original_samples / found.original_rate, 3),
    }


def _model_rows(vae: EarVAE, source: str | None) -> dict:
    def millions(module) -> float:
        if module is None:
            return 0.0
        return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)

    from earvae.model.card import essentials
    from earvae.model.pretrained import SHIPPED

    rows = {
        "model": source or "the model that comes with earvae",
        "identity": vae.identity,
        "architecture": vae.config.architecture,
        "parameters_millions": millions(vae),
        "encoder_millions": millions(vae.encoder),
        "transformer_millions": millions(vae.transformers),
        "decoder_millions": millions(vae.decoder),
        "sample_rate": vae.sample_rate,
        "hop_length": vae.hop_length,
        "latent_channels": vae.latent_channels,
        "latents_per_second": round(vae.sample_rate / vae.hop_length, 2),
    }
    card = essentials(Path(source).expanduser() if source else SHIPPED)
    return rows | {name: value for name, value in card.items() if name not in rows}
