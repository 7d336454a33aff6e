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

import torch
from torch import Tensor

from earvae import json_files
from earvae.atomic import Staging
from earvae.errors import EarvaeError
from earvae.latents.statistics import NAME as STATISTICS_NAME
from earvae.latents.statistics import Statistics
from earvae.library.compute import Encoder
from earvae.library.items import HIDDEN, Block, Library
from earvae.library.parts import survey
from earvae.library.plan import Batch, Geometry, Solo
from earvae.library.prefetch import prefetch
from earvae.library.ranks import Rank
from earvae.library.reader import Facts, Failure, LoadedBatch, LoadedWindows, Reader
from earvae.library.settings import Settings, claim
from earvae.library.store import SUMMARY, Record, Store
from earvae.library.writer import Writer, failed
from earvae.model.vae import EarVAE

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

    def add(self, record: Record, facts: Facts) -> None:
        """Count a file that was read, and perhaps stored."""
        if record.error is None:
            self.encoded += 1
            self.audio_seconds += facts.original_samples / facts.rate

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
    unchanged: bool


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

    def run(store: Store) -> Summary:
        return _Run(vae, library, store, geometry, rank, statistics, progress).everything(workers)

    return around(run, library, folder, settings, rank, statistics, replace)


def around(
    run: Callable[[Store], Summary],
    library: Library,
    folder: Path,
    settings: Settings,
    rank: Rank,
    statistics: Statistics | None,
    replace: bool,
) -> Result:
    """What comes before and after the work of a rank, which ``run`` does: the folder is claimed;
    the index and the summary are written once every block is recorded.

    Raises as :func:`encode_library`.
    """
    staging = Staging(folder / HIDDEN / "staging")
    try:
        store = Store(folder, settings, staging)
        store.claim(library, replace)
        claim(folder, settings, staging, replace)
        if statistics is not None:
            staging.write(folder / STATISTICS_NAME, statistics.to_json())
        summary = run(store)
        own = _rank_file(folder, rank)
        if summary.encoded or not own.is_file():  # else keep what the last real work took
            staging.write(own, json.dumps(summary.values()) + "\n")
        counts = store.conclude(library)
        if counts is not None:
            _write_summary(folder, settings, counts, rank, staging)
        return Result(summary, counts)
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
        self.reader = Reader(self.vae, self.store.settings, self.geometry)
        self.encoder = Encoder(self.vae, self.geometry.context)
        self.writer = Writer(self.store, self.vae.config.std_floor, self.statistics)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.unwritten: deque[tuple[Future, int]] = deque()  # jobs, and frames they hold
        self.summary = Summary(
            self.rank.rank, self.rank.world, str(self.encoder.device), torch.get_num_threads()
        )

    def everything(self, workers: int) -> Summary:
        """All blocks of this rank."""
        started = time.perf_counter()
        try:
            for task, loaded in prefetch(self._tasks(), workers):
                task(loaded)
            while self.unwritten:
                self.unwritten.popleft()[0].result()
        finally:
            self.thread.shutdown(cancel_futures=True)
        self.summary.seconds = time.perf_counter() - started
        self.summary.compute_seconds = self.encoder.seconds
        self.summary.peak_memory = peak_memory()
        return self.summary

    # ---------------------------------------------------------------- planning (in a thread)

    def _tasks(self) -> Iterator[tuple[Any, Callable[[], Iterable[Any]]]]:
        """Pairs of what to do with loaded audio, and how to load it."""
        for number in range(self.rank.rank, self.library.blocks, self.rank.world):
            found = survey(self.library.block(number), self.store, self.reader, self.geometry)
            done = found.done  # before records are filled in
            work = _Work(found.block, found.records, found.unchanged)
            for part in found.parts:
                if isinstance(part.work, Solo):
                    yield (
                        partial(self._solo, work, part.work.item),
                        partial(self.reader.solo, part.items[0]),
                    )
                else:
                    yield (
                        partial(self._batch, work, part.work),
                        partial(self.reader.batch, part.items, part.work, part.wanted),
                    )
            self.summary.files += len(found.records)
            self.summary.skipped += done
            finish = partial(self._finish, work)
            yield lambda _, finish=finish: self._write(finish), tuple
            self.progress(done)

    # ---------------------------------------------------------------- computing

    def _batch(self, work: _Work, batch: Batch, loaded: Iterable[LoadedBatch]) -> None:
        """Encode the files of a batch."""
        (found,) = loaded
        parameters = [] if found.audio is None else self.encoder.batch(found.audio, batch)
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

    def _solo(
        self, work: _Work, place: int, loaded: Iterable[LoadedWindows | Facts | Failure]
    ) -> None:
        """Encode one file from its windows."""
        parts: list[Tensor] = []
        for found in loaded:
            if isinstance(found, LoadedWindows):
                parts += self.encoder.windows(found)
            elif isinstance(found, Failure):
                self._write(partial(self._fail, work, place, found))
            else:
                parameters = torch.cat(parts, dim=2)
                job = partial(self._store, work, place, found, parameters)
                self._write(job, parameters.shape[2])

    # ---------------------------------------------------------------- writing (in a thread)

    def _write(self, job: Callable[[], None], frames: int = 0) -> None:
        """Hand a job that holds so many frames to the writer, and wait where too many wait."""
        self.unwritten.append((self.thread.submit(job), frames))
        while self.unwritten and (
            self.unwritten[0][0].done()
            or sum(frames for _, frames in self.unwritten) > UNWRITTEN_FRAMES
        ):
            self.unwritten.popleft()[0].result()

    def _store(self, work: _Work, place: int, facts: Facts, parameters: Tensor) -> None:
        record = self.writer.write(work.block, work.block.items[place], facts, parameters)
        work.records[place] = record
        self.summary.add(record, facts)
        self.progress(1)

    def _fail(self, work: _Work, place: int, failure: Failure) -> None:
        work.records[place] = failed(failure)
        self.progress(1)

    def _finish(self, work: _Work) -> None:
        """Record a block of which everything was stored."""
        records = [record for record in work.records if record is not None]
        if not work.unchanged:
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
