"""Statistics of encoded files, shards and folders of them, one entry at a time."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from earvae.files import FORMAT, SUFFIX
from earvae.library.entries import read_safetensors_metadata
from earvae.library.items import LibraryError
from earvae.library.ranks import Rank
from earvae.library.statistics import NAME, Moments, Statistics, read

SUFFIXES = (SUFFIX, ".npy", ".tar")


@dataclass(frozen=True)
class Latents:
    """An entry as it was stored; true frames only."""

    values: np.ndarray  # [channels, frames]
    std: np.ndarray | None
    model: str
    kind: str  # "mean" or "sample"
    normalised: bool


def find(inputs: Sequence[Path]) -> list[Path]:
    """Latent files and shards, and earlier statistics, in the order of their names.

    Folders are searched, hidden things and statistics in them left out. Raises LibraryError.
    """
    found: list[Path] = []
    for entry in inputs:
        if entry.is_dir():
            for parent, folders, names in os.walk(entry):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                found += [
                    Path(parent, name)
                    for name in sorted(names)
                    if name.endswith(SUFFIXES) and not name.startswith(".")
                ]
        elif entry.is_file():
            found.append(entry)
        else:
            raise LibraryError(f"{entry}: no such file or folder")
    return found


def measure(
    paths: Sequence[Path],
    rank: Rank = Rank(),
    progress: Callable[[int], None] = lambda files: None,
) -> tuple[Statistics, bool]:
    """Statistics of this rank's share of the files, and whether the latents are normalised.

    Rank r of w takes every w-th file, from the r-th. Raises LibraryError: nothing there, latents
    of several models or kinds, a damaged file.
    """
    total: Statistics | None = None
    normalised: bool | None = None
    for path in paths[rank.rank :: rank.world]:
        if path.suffix == ".json":
            part = read(path)
            total = part if total is None else total.merge(part)
        else:
            for latents in entries(path):
                if normalised not in (None, latents.normalised):
                    raise LibraryError(f"{path}: normalised latents beside others that are not")
                normalised = latents.normalised
                part = _statistics(latents)
                if total is not None and total.mean.shape != part.mean.shape:
                    raise LibraryError(f"{path}: has other channels than the files before it")
                total = part if total is None else total.merge(part)
        progress(1)
    if total is None:
        raise LibraryError("no latents there: name files or folders that `earvae encode` wrote")
    return total, bool(normalised)


def entries(path: Path) -> Iterator[Latents]:
    """What a latent file or a shard holds; nothing for other safetensors files. Raises
    LibraryError where it is damaged."""
    try:
        if path.suffix == ".tar":
            yield from _of_shard(path)
        elif path.suffix == ".npy":
            sidecar = path.with_name(path.name[: -len(".npy")] + ".json")
            yield _of_npy(path.read_bytes(), json.loads(sidecar.read_bytes()))
        else:
            data = path.read_bytes()
            metadata = read_safetensors_metadata(data)
            if metadata.get("format") == FORMAT:
                yield _of_safetensors(data, metadata)
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, EOFError, tarfile.TarError) as error:
        raise LibraryError(
            f"{path}: damaged, or not latents of `earvae encode` ({error})"
        ) from None


def default_target(inputs: Sequence[Path]) -> Path | None:
    """``latent_stats.json`` in the folder that was named; None if there is not one of them."""
    return inputs[0] / NAME if len(inputs) == 1 and inputs[0].is_dir() else None


def _of_shard(path: Path) -> Iterator[Latents]:
    with tarfile.open(path) as shard:
        waiting: tuple[str, bytes] | None = None  # latents come before their JSON
        for member in shard:
            data = shard.extractfile(member).read()  # type: ignore[union-attr]
            stem, suffix = os.path.splitext(member.name)
            if suffix != ".json":
                waiting = (suffix, data)
            elif waiting is not None:
                metadata = json.loads(data)
                if waiting[0] == SUFFIX:
                    yield _of_safetensors(waiting[1], metadata)
                else:
                    yield _of_npy(waiting[1], metadata)
                waiting = None


def _of_npy(data: bytes, metadata: dict) -> Latents:
    values = np.load(io.BytesIO(data), allow_pickle=False)
    return _latents({"latents": values}, metadata)


def _of_safetensors(data: bytes, metadata: dict) -> Latents:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return _latents(load(data), metadata)
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _latents(tensors: dict[str, np.ndarray], metadata: dict) -> Latents:
    values, std = tensors["latents"], tensors.get("std")
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError("not finite numbers [channels, frames]")
    valid = -(-int(metadata["samples"]) // int(metadata["hop_length"]))
    return Latents(
        values[:, :valid],
        None if std is None else std[:, :valid],
        metadata["model"],
        metadata["latents"],
        "normalised" in metadata,
    )


def _statistics(latents: Latents) -> Statistics:
    variance = None
    if latents.std is not None:
        variance = np.square(latents.std.astype(np.float64)).mean(axis=1)
    return Statistics(latents.model, latents.kind, 1, Moments.of(latents.values), variance)
