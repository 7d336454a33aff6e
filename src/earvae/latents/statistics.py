"""Mean and spread of latents by channel: measuring them, their file, normalisation by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earvae import json_files
from earvae.latents import file
from earvae.latents.file import Latents
from earvae.latents.metadata import LatentsError, OtherFormat

if TYPE_CHECKING:
    from earvae.config import ModelConfig

NAME = "latent_stats.json"
FORMAT = "earvae-latent-stats"
VERSION = 1


class Moments:
    """Count, mean and sum of squared deviations by channel, in double precision.

    Chan, Golub and LeVeque (1979): batches and whole accumulations merge without the loss of
    digits that sums of squares suffer.
    """

    def __init__(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        self.count = count
        self.mean = mean  # [channels]
        self.squares = squares  # [channels], Σ (x − mean)²

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """The moments of values ``[channels, n]``, n ≥ 1."""
        values = values.astype(np.float64)
        mean = values.mean(axis=1)
        return cls(values.shape[1], mean, np.square(values - mean[:, None]).sum(axis=1))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together."""
        count = self.count + other.count
        distance = other.mean - self.mean
        mean = self.mean + distance * (other.count / count)
        squares = self.squares + other.squares
        squares = squares + distance**2 * (self.count * other.count / count)
        return Moments(count, mean, squares)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the population, ``[channels]``."""
        return np.sqrt(self.squares / self.count)


@dataclass(frozen=True)
class Statistics:
    """Per-channel statistics of a model's latents.

    Attributes:
        model: identity of the model that made the latents.
        latents: "mean" or "sample": what was measured.
        entries: latent files (or shard members) measured.
        moments: over all true frames (padding left out).
        mean_variance: ``[channels]``, the average of the posterior's variance where the files hold
            its std, else None. The variance of samples is that of the means plus this.
    """

    model: str
    latents: str
    entries: int
    moments: Moments
    mean_variance: np.ndarray | None = None

    @property
    def mean(self) -> np.ndarray:
        """``[channels]``."""
        return self.moments.mean

    @property
    def scale(self) -> np.ndarray:
        """What normalised latents are divided by, ``[channels]``: std, or 1 where that is 0."""
        std = self.moments.std
        return np.where(std > 0, std, 1.0)

    @property
    def digest(self) -> str:
        """Twelve hex digits of the numbers that normalise."""
        digest = hashlib.sha256(self.model.encode())
        for values in (self.mean, self.scale):
            digest.update(np.ascontiguousarray(values, "<f8").tobytes())
        return digest.hexdigest()[:12]

    def normalise(self, latents: np.ndarray) -> np.ndarray:
        """Latents ``[channels, n]`` with mean 0 and std 1 by channel, float32."""
        return ((latents - self.mean[:, None]) / self.scale[:, None]).astype(np.float32)

    def denormalise(self, latents: np.ndarray) -> np.ndarray:
        """Latents ``[channels, n]`` as the model gave them, float32."""
        return (latents * self.scale[:, None] + self.mean[:, None]).astype(np.float32)

    @classmethod
    def of(cls, latents: Latents) -> Statistics:
        """The statistics of an entry's true frames."""
        valid, variance = latents.metadata.true_frames, None
        if latents.std is not None:
            variance = np.square(latents.std[:, :valid].astype(np.float64)).mean(axis=1)
        moments = Moments.of(latents.values[:, :valid])
        return cls(latents.metadata.model, latents.metadata.latents, 1, moments, variance)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of latents. Raises LatentsError if they do not match."""
        if self.mean.shape != other.mean.shape:
            raise LatentsError("latents of different numbers of channels beside each other")
        if (self.model, self.latents) != (other.model, other.latents):
            raise LatentsError(
                f"latents of different kinds cannot be measured together: {self.latents} of model "
                f"{self.model}, and {other.latents} of model {other.model}"
            )
        variance = None
        if self.mean_variance is not None and other.mean_variance is not None:
            share = other.moments.count / (self.moments.count + other.moments.count)
            variance = self.mean_variance + share * (other.mean_variance - self.mean_variance)
        return Statistics(
            self.model,
            self.latents,
            self.entries + other.entries,
            self.moments.merge(other.moments),
            variance,
        )

    def to_json(self) -> str:
        """The text of ``latent_stats.json``."""
        values = {
            "format": FORMAT,
            "format_version": VERSION,
            "model": self.model,
            "latents": self.latents,
            "digest": self.digest,
            "entries": self.entries,
            "count": self.moments.count,
            "mean": self.mean.tolist(),
            "std": self.moments.std.tolist(),
            "squares": self.moments.squares.tolist(),
        }
        if self.mean_variance is not None:
            values["posterior_std"] = np.sqrt(self.mean_variance).tolist()
            variance = self.moments.std**2 + self.mean_variance
            values["sample_std"] = np.sqrt(variance).tolist()
        return json.dumps(values, indent=1) + "\n"


def read(path: Path) -> Statistics:
    """Statistics from their file, or from the folder that holds it. Raises LatentsError."""
    if path.is_dir():
        path = path / NAME
    try:
        values: Any = json_files.read(path)
        if (values["format"], values["format_version"]) != (FORMAT, VERSION):
            raise ValueError("another format")
        mean, squares = np.array(values["mean"], float), np.array(values["squares"], float)
        variance = np.square(np.array(values.get("posterior_std", 0 * mean), float))
        moments = Moments(int(values["count"]), mean, squares)
        found = Statistics(values["model"], values["latents"], int(values["entries"]), moments)
        if not mean.size or mean.ndim != 1 or not mean.shape == squares.shape == variance.shape:
            raise ValueError("numbers of other shapes")
        if squares.min() < 0 or not np.isfinite(variance).all() or moments.count < 1:
            raise ValueError("numbers that make no sense")
        if found.latents not in ("mean", "sample") or found.digest != values["digest"]:
            raise ValueError("its numbers are not those that were measured")
    except json_files.JsonError as error:
        raise LatentsError(f"{error}; measure again with `earvae stats`") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise LatentsError(
            f"{path}: is not statistics that `earvae stats` wrote ({error}); measure again"
        ) from None
    return replace(found, mean_variance=variance if "posterior_std" in values else None)


def of_config(config: ModelConfig, model: str) -> Statistics | None:
    """The statistics in a model's configuration (``earvae stats --write``); ``model`` is its
    identity. None where there are none. They normalise as those that were written, and have the
    same digest; of how many frames they were taken is not known."""
    if config.latents_mean is None or config.latents_std is None:
        return None
    mean, std = np.array(config.latents_mean), np.array(config.latents_std)
    return Statistics(model, "mean", 0, Moments(1, mean, np.square(std)))


def measure(
    paths: Sequence[Path],
    progress: Callable[[int], None] = lambda files: None,
    problem: Callable[[str], None] | None = None,
) -> tuple[Statistics, bool]:
    """The statistics of latent files and shards, and of earlier statistics (``.json``), merged;
    and whether the latents are normalised. One entry at a time is in memory.

    Files of other things, but for shards, are passed over. ``progress`` is called with the number
    of files just done. Raises LatentsError: no latents there, latents of several models or kinds, a
    damaged file; with ``problem``, that is called with the line instead, and the next one taken.
    """
    total: Statistics | None = None
    normalised: set[bool] = set()

    def entries(path: Path) -> Iterator[Statistics]:
        if path.suffix == file.SIDECAR:
            yield read(path)
            return
        for latents in file.read_shard(path) if path.suffix == file.SHARD else [file.read(path)]:
            own = latents.metadata.normalised is not None
            if (not own) in normalised:
                raise LatentsError(f"{path}: normalised latents beside others that are not")
            normalised.add(own)
            yield Statistics.of(latents)

    for path in paths:
        try:
            for entry in entries(path):
                total = entry if total is None else _merged(total, entry, path)
        except LatentsError as error:
            if isinstance(error, OtherFormat) and path.suffix != file.SHARD:
                pass  # a file of something else
            elif problem is None:
                raise
            else:
                problem(str(error))
        progress(1)
    if total is None:
        raise LatentsError(
            "no latents there: name files or folders that `earvae encode` or `earvae library` wrote"
        )
    return total, True in normalised


def _merged(total: Statistics, other: Statistics, path: Path) -> Statistics:
    try:
        return total.merge(other)
    except LatentsError as error:
        raise LatentsError(f"{path}: {error}") from None


def denormalised(
    path: Path, latents: Latents, statistics: Statistics | None = None, force: bool = False
) -> np.ndarray:
    """The values of the latents of ``path`` as the model gave them, float32.

    Latents that say they are normalised are put back by ``statistics``, or else by those found
    beside the file; others only if ``statistics`` are given. Raises LatentsError: no statistics,
    those of other channels or, unless ``force``, other than those that normalised.
    """
    values, digest = latents.values.astype(np.float32), latents.metadata.normalised
    if digest is not None and statistics is None:
        found = beside(path)
        if found is None:
            raise LatentsError(
                f"{path}: is normalised, and there is no {NAME} beside it; name that with "
                "--denormalise"
            )
        statistics = read(found)
    if statistics is None:
        return values
    if len(statistics.mean) != len(values):
        raise LatentsError(
            f"{path}: holds {len(values)} channels, the statistics {len(statistics.mean)}; give "
            "the right ones with --denormalise"
        )
    if digest not in (None, statistics.digest) and not force:
        raise LatentsError(
            f"{path}: was normalised by statistics {digest}, these are {statistics.digest}; give "
            "the right ones with --denormalise, or use --force"
        )
    return statistics.denormalise(values)


def beside(latents: Path) -> Path | None:
    """The ``latent_stats.json`` of a latent file: in its folder, or the nearest one above."""
    places = (folder / NAME for folder in latents.absolute().parents)
    return next((path for path in places if path.is_file()), None)
