"""``earvae info``: what a model, a latent file or an audio file is."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earvae.cli import options
from earvae.cli.batch import stdout
from earvae.cli.errors import usage_error
from earvae.errors import EarvaeError, WeightsError, visible

if TYPE_CHECKING:
    from earvae.latents.file import Header
    from earvae.latents.metadata import Metadata


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
    from earvae.latents import bare, file
    from earvae.latents.metadata import OtherFormat
    from earvae.library.settings import RECORD
    from earvae.tracks import MEDIA_SUFFIXES, SUFFIXES

    rows = None
    if source is not None:
        path = Path(source)
        if source.startswith("hub:"):
            pass  # a model, whatever it ends in
        elif path.suffix.lower() in SUFFIXES | MEDIA_SUFFIXES:
            rows = _audio_rows(path)
        elif path.suffix == file.SHARD or (path / RECORD).is_file():
            rows = _collection_rows(path)
        elif path.suffix == file.NPY and bare.is_bare(path):
            rows = _bare_rows(path)
        elif path.suffix in (file.SUFFIX, file.NPY):
            with suppress(OtherFormat):  # weights, perhaps
                rows = _latent_rows(path, file.inspect(path))
    if rows is None:
        try:
            return _model_rows(source, config, sample_rate)
        except WeightsError as error:
            if source is None or not Path(source).is_file():
                raise
            try:
                rows = _bare_rows(Path(source))
            except EarvaeError:
                raise error from None
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
        **_origin_rows(of),
        "original_rate": of.original_rate,
        "original_samples": of.original_samples,
        "original_channels": of.channels,
        "seconds": round(of.original_samples / of.original_rate, 3),
    }


def _origin_rows(of: Metadata) -> dict:
    """What latents of one run have in common."""
    return {
        "drawn": "posterior mean" if of.seed is None else f"sample, seed {of.seed}",
        "normalised": of.normalised or "no",
        "model": of.model,
        "model_rate": of.sample_rate,
        "hop_length": of.hop_length,
    }


def _collection_rows(path: Path) -> dict:
    """Rows of a shard or a library. Of a shard all entries are looked at, of a library the first
    one and what its last run counted."""
    from earvae import json_files
    from earvae.latents import listing
    from earvae.library.store import SUMMARY

    entries = listing.find(path)
    with entries[0].opened() as first:
        own, latents = first.metadata, first.arrays["latents"]
    seconds = None
    if path.is_dir():
        with suppress(EarvaeError, KeyError, TypeError):
            counts: Any = json_files.read(path / SUMMARY)
            seconds = counts["audio_seconds"]
    else:
        seconds = 0.0
        for entry in entries:
            with entry.opened() as stored:
                seconds += stored.metadata.samples / stored.metadata.sample_rate
    return {
        "latent_library" if path.is_dir() else "latent_shard": str(path),
        "entries": len(entries),
        "latents": f"{latents.shape[0]} × frames {latents.dtype}",
        "std": "yes" if "std" in first.arrays else "no",
        "segment_frames": "whole tracks" if own.segment is None else latents.shape[1],
        **_origin_rows(own),
        "seconds": None if seconds is None else round(seconds, 3),
    }


def _bare_rows(path: Path) -> dict:
    """Rows of an array that says nothing of itself. Raises EarvaeError."""
    from earvae.latents import bare

    shape = bare.shape(path)
    return {
        "bare_array": str(path),
        "batch": shape[0],
        "channels": shape[1],
        "frames": shape[2],
        "model": "not told; `earvae decode` takes it for latents of the model in --weights",
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
    refiner = getattr(vae.decoder, "refiner", None)  # of εar-VAE2; a part of the decoder
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
        **({"refiner_millions": millions(refiner)} if refiner else {}),
        "sample_rate": vae.sample_rate,
        "hop_length": vae.hop_length,
        "latent_channels": vae.latent_channels,
        "latents_per_second": round(vae.sample_rate / vae.hop_length, 2),
    }
    card = essentials(path)
    return rows | {name: value for name, value in card.items() if name not in rows}
