"""``earvae info``: what a model, a latent file or an audio file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earvae.cli import options
from earvae.cli.batch import stdout
from earvae.cli.errors import usage_error
from earvae.errors import visible

if TYPE_CHECKING:
    from earvae.latents.file import Header


def info(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            show_default=False,
            help="A model (folder, weight file, ear-vae-44k), a latent file, or an audio file. "
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
        table.add_row(Text(visible(name.replace("_", " "))), Text(visible(str(value))))
    stdout().print(table)


def _rows(source: str | None, config: Path | None, sample_rate: int | None) -> dict:
    from earvae.latents import file
    from earvae.latents.metadata import OtherFormat
    from earvae.tracks import MEDIA_SUFFIXES, SUFFIXES

    rows = None
    if source is not None:
        path = Path(source)
        if source.startswith("hub:"):
            pass  # a model, whatever it ends in
        elif path.suffix.lower() in SUFFIXES | MEDIA_SUFFIXES:
            rows = _audio_rows(path)
        elif path.suffix in (file.SUFFIX, file.NPY):
            try:
                rows = _latent_rows(path, file.inspect(path))
            except OtherFormat:  # weights, perhaps
                if path.suffix == file.NPY:
                    raise
    if rows is None:
        return _model_rows(source, config, sample_rate)
    if config is not None or sample_rate is not None:
        usage_error(f"{source}: is no model; --config and --sample-rate are of models")
    return rows


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


def _latent_rows(path: Path, found: Header) -> dict:
    of = found.metadata
    return {
        "latent_file": str(path),
        "latents": f"{found.channels} × {found.frames} {found.dtype}",
        "drawn": "posterior mean" if of.seed is None else f"sample, seed {of.seed}",
        "normalised": of.normalised or "no",
        "model": of.model,
        "model_rate": of.sample_rate,
        "hop_length": of.hop_length,
        "original_rate": of.original_rate,
        "original_samples": of.original_samples,
        "original_channels": of.channels,
        "seconds": round(of.original_samples / of.original_rate, 3),
    }


def _model_rows(source: str | None, config: Path | None, sample_rate: int | None) -> dict:
    def millions(module) -> float:
        if module is None:
            return 0.0
        return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)

    from earvae.model.card import essentials
    from earvae.model.pretrained import locate, weight_file
    from earvae.model.weight_files import sha256

    path = locate(source)
    vae = options.load_model(source and str(path), config, sample_rate, "cpu")
    weights = weight_file(path)
    rows = {
        "model": source or "the model that comes with earvae",
        "identity": vae.identity,
        "weights": str(weights),
        "sha256": sha256(weights),
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
    card = essentials(path)
    return rows | {name: value for name, value in card.items() if name not in rows}
