"""A library on a Ray cluster: read on CPUs, encoded on GPUs (or CPUs), written; by Ray Data.

Scheduling, retries of what a lost worker had, and pools that grow with the cluster are Ray's. What
is done here is its input. All that may depend on the moment is settled first: what is done of each
block, and the parts that are left. After that a part becomes the same files however often and
wherever it is worked on (``stages.py``), so that work may be lost and done again at any stage.

Audio goes from reader to encoder through Ray's object store; of a file longer than LONGEST_SENT
only the name does, and the encoder reads it as a stream.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earvae.atomic import sweep
from earvae.latents.statistics import Statistics
from earvae.library.cluster import Workers, explained
from earvae.library.encode import Progress, Result, Summary, around, peak_memory
from earvae.library.items import HIDDEN, Library, LibraryError
from earvae.library.parts import Part, Survey, survey
from earvae.library.plan import Geometry
from earvae.library.ranks import Rank
from earvae.library.reader import Reader
from earvae.library.settings import Settings
from earvae.library.stages import (
    Broken,
    Encoding,
    Job,
    Reading,
    Worker,
    Writing,
    Written,
    finish,
    of_row,
    row_of,
)  # fmt: skip
from earvae.library.store import Store
from earvae.model.vae import EarVAE

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.data import Dataset

LONGEST_SENT = 600.0  # seconds: 200 MB of audio
PARTS_A_TASK = 4  # what a reader does before anything of it is passed on
SURVEYING = 8  # threads that find out what is done; they wait for disks
UNFINISHED = 8  # shards that are packed at a time


def encode_on_cluster(
    vae: EarVAE,
    workers: Workers,
    library: Library,
    folder: Path,
    settings: Settings,
    geometry: Geometry,
    statistics: Statistics | None = None,
    replace: bool = False,
    progress: Progress = lambda files: None,
) -> Result:
    """Encode a library into ``folder`` on the cluster that is :func:`connected`.

    As :func:`earvae.library.encode.encode_library`, with the same content; either goes on where
    the other was stopped. ``vae`` is a plain model on the CPU; ``settings`` name engine and
    precision of :func:`engine_of`.

    Raises as that does, and LibraryError where nodes lack what they need or the cluster is gone.
    """

    def run(store: Store) -> Summary:
        if not library.files:
            return Summary(0, 1, workers.device, workers.threads)
        music = os.path.dirname(library.files[0].path) or os.curdir
        longest = round(LONGEST_SENT * settings.sample_rate / settings.hop_length)
        job = Job(
            vae.config, settings, geometry, folder, statistics, workers, os.getcwd(), music, longest
        )
        with explained():
            try:
                return _Run(vae, library, store, job, progress).everything()
            finally:
                sweep(folder / HIDDEN / "staging", everything=True)  # of workers that are gone

    return around(run, library, folder, settings, Rank(), statistics, replace)


class _Run:
    """The driver's part."""

    def __init__(
        self, vae: EarVAE, library: Library, store: Store, job: Job, progress: Progress
    ) -> None:
        import ray

        self.vae, self.library, self.store = vae, library, store
        self.job, self.progress = job, progress
        self.summary = Summary(0, 1, job.workers.device, job.workers.threads)
        self.blocks: dict[int, Survey] = {}  # that are not finished
        self.left: dict[int, int] = {}  # files to do of each
        self.finishing: deque[ObjectRef] = deque()
        self.finish = ray.remote(num_cpus=0, max_retries=-1)(finish)

    def everything(self) -> Summary:
        """All blocks."""
        import ray

        started = time.perf_counter()
        parts = self._survey()
        if parts:
            model = ray.put(self.vae)
            rows = _rows(parts, PARTS_A_TASK)
            for stage, worker, more in (
                ("read", Reading, ()), ("encode", Encoding, (model,)), ("write", Writing, ()),
            ):  # fmt: skip
                rows = self._through(rows, stage, worker, *more)
            for written in _things(rows):
                self._take(written)
        while self.finishing:
            self._wait()
        self.summary.seconds = time.perf_counter() - started
        self.summary.peak_memory = peak_memory()
        return self.summary

    def _survey(self) -> list[Part]:
        """Look at all blocks; the parts that are to be done."""
        look = partial(
            survey, store=self.store, reader=Reader(self.vae, self.job.settings, self.job.geometry),
            geometry=self.job.geometry,
        )  # fmt: skip
        parts: list[Part] = []
        with ThreadPoolExecutor(SURVEYING) as pool:
            for found in pool.map(look, map(self.library.block, range(self.library.blocks))):
                number = found.block.number
                self.summary.files += len(found.records)
                self.summary.skipped += found.done
                self.progress(found.done)
                self.blocks[number] = found
                self.left[number] = len(found.records) - found.done
                if not self.left[number]:
                    self._finish(number)
                parts += found.parts
        return parts

    def _through(self, rows: Dataset, stage: str, worker: type[Worker], *more: Any) -> Dataset:
        from ray.data import ActorPoolStrategy

        return rows.map(
            worker,
            fn_constructor_args=(self.job, *more),
            compute=ActorPoolStrategy(min_size=1),
            **self.job.workers.shares[stage],
        )

    def _take(self, written: Written) -> None:
        """Note what became of a part."""
        found = self.blocks[written.block]
        for position, record, facts in written.records:
            found.records[position] = record
            if facts is not None:
                self.summary.add(record, facts)
        self.summary.compute_seconds += written.seconds
        self.left[written.block] -= len(written.records)
        if not self.left[written.block]:
            self._finish(written.block)
        self.progress(len(written.records))

    def _finish(self, number: int) -> None:
        """Have a block recorded of which everything is stored."""
        found = self.blocks.pop(number)
        records = [record for record in found.records if record is not None]
        self.summary.failures += [record.error for record in records if record.error]
        if found.unchanged:
            return
        if not self.store.sharded:
            self.store.finish(found.block, records)
            return
        self.finishing.append(self.finish.remote(self.job, found.block, records))
        while len(self.finishing) > UNFINISHED:
            self._wait()

    def _wait(self) -> None:
        import ray

        if (broken := ray.get(self.finishing.popleft())) is not None:
            raise LibraryError(broken.line)


def _rows(things: list[Any], a_task: int) -> Dataset:
    """A data set of things, so many to a task."""
    import ray.data

    return ray.data.from_items(
        [row_of(thing) for thing in things], override_num_blocks=-(-len(things) // a_task)
    )


def _things(rows: Dataset) -> Iterator[Any]:
    """What a data set holds, as it comes. Raises LibraryError for a Broken."""
    for row in rows.iter_rows():
        if isinstance(thing := of_row(row), Broken):
            raise LibraryError(thing.line)
        yield thing
