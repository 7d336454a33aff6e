"""Encode a library: plan, decode ahead, compute, write; once for each rank."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earvae import codec, json_files
from earvae.atomic import Staging
from earvae.errors import EarvaeError, UnwritableName, WriteError, about
from earvae.latents.file import LatentsError
from earvae.latents.statistics import NAME as STATISTICS_NAME
from earvae.latents.statistics import Statistics
from earvae.library.entries import entries_of
from earvae.library.items import HIDDEN, Library
from earvae.library.plan import Batch, Geometry, Solo, plan
from earvae.library.prefetch import prefetch
from earvae.library.ranks import Rank
from earvae.library.reader import Facts, Failure, LoadedBatch, LoadedWindows, Reader
from earvae.library.settings import Settings, claim
from earvae.library.store import SUMMARY, Block, Record, Store
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE
from earvae.tracks import printable

UNWRITTEN_FRAMES = 100_000  # of results that may wait for the writer: 50 MB of 64 channels

Progress = Callable[[int], None]
"""Called with the number of files that have just been dealt with."""


@dataclass
class Summary:
    """What a rank did. Seconds are of the wall clock, from the first file to the last."""

    rank: int
    world: int
    device: str
    threads: int
    files: int = 0  # of this rank
    encoded: int = 0
    skipped: int = 0  # were done already
    failures: list[str] = field(default_factory=list)
    audio_seconds: float = 0.0  # encoded now
    seconds: float = 0.0
    compute_seconds: float = 0.0  # in the encoder
    peak_memory: int = 0  # bytes resident at most, of the process

    @property
    def files_per_second(self) -> float:
        """Files encoded now, a second."""
        return self.encoded / max(self.seconds, 1e-9)

    @property
    def compute_share(self) -> float:
        """The share of the time in the encoder, 0…1."""
        return self.compute_seconds / max(self.seconds, 1e-9)

    @property
    def speed(self) -> float:
        """Seconds of audio for each second."""
        return self.audio_seconds / max(self.seconds, 1e-9)

    def values(self) -> dict:
        """The figures for JSON."""
        return asdict(self) | {
            "failures": len(self.failures),
            "files_per_second": round(self.files_per_second, 3),
            "compute_share": round(self.compute_share, 4),
            "speed": round(self.speed, 2),
        }


@dataclass(frozen=True)
class Result:
    """What :func:`encode_library` did. ``counts`` are of the whole library, None while other
    ranks are still at it."""

    summary: Summary
    counts: dict[str, int] | None


@dataclass
class _Work:
    """A block in the making; ``records`` are filled in by place."""

    block: Block
    records: list[Record | None]


def encode_library(
    vae: EarVAE,
    library: Library,
    folder: Path,
    settings: Settings,
    geometry: Geometry,
    rank: Rank = Rank(),
    workers: int = 2,
    statistics: Statistics | None = None,
    replace: bool = False,
    progress: Progress = lambda files: None,
) -> Result:
    """Encode this rank's share of a library into ``folder``.

    What is done already stays; a file that cannot be read is listed and the others are encoded.
    The content does not depend on when a run was killed and
    how often, nor on the number of ranks (of equal device and threads). ``vae`` may be one of
    :func:`earvae.engine.accelerate`; ``settings`` name its engine and precision.

    Raises LibraryError for other settings than before without ``replace``, and as
    :meth:`Store.claim`; WriteError for a folder that cannot be written or holds what is not ours.
    """
    staging = Staging(folder / HIDDEN / "staging")
    try:
        store = Store(folder, settings, staging)
        store.claim(library, replace)
        claim(folder, settings, staging, replace)
        if statistics is not None:
            staging.write(folder / STATISTICS_NAME, statistics.to_json())
        run = _Run(vae, library, store, geometry, rank, statistics, progress)
        run.everything(workers)
        own = _rank_file(folder, rank)
        if run.summary.encoded or not own.is_file():  # else keep what the last real work took
            staging.write(own, json.dumps(run.summary.values()) + "\n")
        counts = store.conclude(library)
        if counts is not None:
            _write_summary(folder, settings, counts, rank, staging)
        return Result(run.summary, counts)
    finally:
        staging.close()


@dataclass
class _Run:
    """One rank's work."""

    vae: EarVAE
    library: Library
    store: Store
    geometry: Geometry
    rank: Rank
    statistics: Statistics | None
    progress: Progress

    def __post_init__(self) -> None:
        self.settings = self.store.settings
        self.device = next(self.vae.parameters()).device
        self.reader = Reader(self.vae, self.settings, self.geometry)
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.unwritten: deque[tuple[Future, int]] = deque()  # jobs, and frames they hold
        self.summary = Summary(
            self.rank.rank, self.rank.world, str(self.device), torch.get_num_threads()
        )

    def everything(self, workers: int) -> None:
        """All blocks of this rank."""
        started = time.perf_counter()
        try:
            for task, loaded in prefetch(self._tasks(), workers):
                task(loaded)
            while self.unwritten:
                self.unwritten.popleft()[0].result()
        finally:
            self.writer.shutdown(cancel_futures=True)
        self.summary.seconds = time.perf_counter() - started
        self.summary.peak_memory = peak_memory()

    # ---------------------------------------------------------------- planning (in a thread)

    def _tasks(self) -> Iterator[tuple[Any, Callable[[], Iterable[Any]]]]:
        """Pairs of what to do with loaded audio, and how to load it."""
        for number in range(self.rank.rank, self.library.blocks, self.rank.world):
            block = self.library.block(number)
            records, unchanged = self.store.survey(block, self.reader)
            work = _Work(block, records)
            wanted = {place for place, record in enumerate(records) if record is None}
            if wanted:
                lengths = [self.reader.length(item) for item in block.items]
                for part in plan(lengths, self.geometry):
                    if isinstance(part, Solo):
                        if part.item in wanted:
                            item = block.items[part.item]
                            yield (
                                partial(self._solo, work, part.item),
                                partial(self.reader.solo, item),
                            )
                        continue
                    own = frozenset(n for n, item in enumerate(part.items) if item in wanted)
                    if own:
                        items = [block.items[place] for place in part.items]
                        yield (
                            partial(self._batch, work, part),
                            partial(self.reader.batch, items, part, own),
                        )
            skipped = len(records) - len(wanted)
            self.summary.files += len(records)
            self.summary.skipped += skipped
            finish = partial(self._finish, work, unchanged)
            yield lambda _, finish=finish: self._write(finish), tuple
            self.progress(skipped)

    # ---------------------------------------------------------------- computing

    def _batch(self, work: _Work, batch: Batch, loaded: Iterable[LoadedBatch]) -> None:
        """Encode the files of a batch."""
        (found,) = loaded
        parameters = self._encode_batch(found.audio, batch) if found.audio is not None else []
        for place, facts in found.found.items():
            position = batch.items[place]
            if facts is None:  # not as long as its header says: by itself
                self._solo(work, position, self.reader.solo(work.block.items[position]))
            elif isinstance(facts, Failure):
                self._write(partial(self._fail, work, position, facts))
            else:
                self._write(
                    partial(self._store, work, position, facts, parameters[place]),
                    batch.lengths[place],
                )

    def _encode_batch(self, audio: np.ndarray, batch: Batch) -> list[Tensor]:
        """Posterior parameters ``[1, 2·latent, frames]`` of each file of a batch."""
        whole = codec.as_alone(
            lambda some, _: self._encode(some.numpy()),
            torch.from_numpy(audio), batch.lengths, self.geometry.context, self.vae.hop_length, 1,
        )  # fmt: skip
        return [whole[n : n + 1, :, :frames].clone() for n, frames in enumerate(batch.lengths)]

    def _solo(
        self, work: _Work, place: int, loaded: Iterable[LoadedWindows | Facts | Failure]
    ) -> None:
        """Encode one file from its windows."""
        parts: list[Tensor] = []
        for found in loaded:
            if isinstance(found, LoadedWindows):
                encoded = self._encode(found.audio)
                parts += [
                    window[:, first:last]
                    for window, (first, last) in zip(encoded, found.keep, strict=True)
                ]
            elif isinstance(found, Failure):
                self._write(partial(self._fail, work, place, found))
            else:
                parameters = torch.cat(parts, dim=1).unsqueeze(0)
                job = partial(self._store, work, place, found, parameters)
                self._write(job, parameters.shape[2])

    def _encode(self, audio: np.ndarray) -> Tensor:
        """The encoder on ``[n, 2, samples]``: ``[n, 2·latent, frames]`` on the CPU, float32."""
        started = time.perf_counter()
        with torch.no_grad():
            parameters = self.vae.encoder(torch.from_numpy(audio).to(self.device)).float().cpu()
        self.summary.compute_seconds += time.perf_counter() - started
        return parameters

    # ---------------------------------------------------------------- writing (in a thread)

    def _write(self, job: Callable[[], None], frames: int = 0) -> None:
        """Hand a job that holds so many frames to the writer, and wait where too many wait."""
        self.unwritten.append((self.writer.submit(job), frames))
        while self.unwritten and (
            self.unwritten[0][0].done()
            or sum(frames for _, frames in self.unwritten) > UNWRITTEN_FRAMES
        ):
            self.unwritten.popleft()[0].result()

    def _store(self, work: _Work, place: int, facts: Facts, parameters: Tensor) -> None:
        item = work.block.items[place]
        try:
            with about(item.path):
                posterior = Posterior(parameters, self.vae.config.std_floor)
                entries = entries_of(item, facts, posterior, self.settings, self.statistics)
                work.records[place] = self.store.write(work.block, item, facts.state, entries)
        except EarvaeError as error:
            if isinstance(error, WriteError) and not isinstance(error, UnwritableName):
                raise  # no place for the next file either
            line = f"{item.path}: {error}" if isinstance(error, LatentsError) else str(error)
            self._fail(work, place, Failure(line, facts.state))
            return
        self.summary.encoded += 1
        self.summary.audio_seconds += facts.original_samples / facts.rate
        self.progress(1)

    def _fail(self, work: _Work, place: int, failure: Failure) -> None:
        work.records[place] = Record(failure.state, [], printable(failure.error))
        self.progress(1)

    def _finish(self, work: _Work, unchanged: bool) -> None:
        """Record a block of which everything was stored."""
        records = [record for record in work.records if record is not None]
        if not unchanged:
            self.store.finish(work.block, records)
        self.summary.failures += [record.error for record in records if record.error]


def peak_memory() -> int:
    """Bytes that this process has held at most; 0 where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _rank_file(folder: Path, rank: Rank) -> Path:
    return folder / HIDDEN / "ranks" / f"{rank}.json"


def _write_summary(
    folder: Path, settings: Settings, counts: dict[str, int], rank: Rank, staging: Staging
) -> None:
    """The whole library's counts and what each rank of this run reported."""
    ending = _rank_file(folder, rank).name.removeprefix(str(rank.rank))
    found = {}
    for path in (folder / HIDDEN / "ranks").iterdir():  # there may be fewer than ranks
        number = path.name.removesuffix(ending)
        if path.name.endswith(ending) and number.isdecimal():
            with suppress(EarvaeError):  # it finished its blocks, and writes this in a moment
                found[int(number)] = json_files.read(path)
    ranks = [found[number] for number in sorted(found)]
    values = {
        "files": counts["files"],
        "encoded": counts["files"] - counts["failed"],
        "failed": counts["failed"],
        "entries": counts["entries"],
        "frames": counts["frames"],
        "audio_seconds": round(counts["samples"] / settings.sample_rate, 3),
        "model": settings.model,
        "settings": settings.digest,
        "ranks": ranks,
    }
    staging.write(folder / SUMMARY, json.dumps(values, indent=2) + "\n")
