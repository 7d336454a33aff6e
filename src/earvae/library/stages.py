"""What the workers of a cluster do with a part of a library: read, encode, write.

Each is an actor of Ray Data and does its work by the classes of a local run. Whatever goes wrong
becomes a Broken, which later stages hand on to the command.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from earvae import engine
from earvae.atomic import Staging
from earvae.config import ModelConfig
from earvae.errors import named
from earvae.latents.statistics import Statistics
from earvae.library.cluster import Workers
from earvae.library.compute import Encoder
from earvae.library.items import HIDDEN, Block, Item, LibraryError
from earvae.library.parts import Part
from earvae.library.plan import Batch, Geometry
from earvae.library.prefetch import prefetch
from earvae.library.reader import Facts, Failure, LoadedWindows, Reader
from earvae.library.settings import RECORD, Settings
from earvae.library.store import Record, Store
from earvae.library.writer import Writer, failed
from earvae.model.vae import EarVAE

if TYPE_CHECKING:
    from ray import ObjectRef

Elements = list[LoadedWindows | Facts | Failure]


@dataclass(frozen=True)
class Job:
    """What every worker knows."""

    config: ModelConfig
    settings: Settings
    geometry: Geometry
    folder: Path
    statistics: Statistics | None
    workers: Workers
    place: str  # where the command runs
    music: str  # a folder with music
    longest: int  # frames of a file that is sent from reader to encoder


@dataclass(frozen=True)
class Broken:
    """Why the run cannot go on."""

    line: str


@dataclass
class Loaded:
    """A part that was read: its batch, as LoadedBatch has it; and by its place each file that is
    encoded by itself, None where the encoder is to read it."""

    part: Part
    audio: Any = None
    found: dict[int, Facts | Failure | None] = field(default_factory=dict)
    solos: dict[int, Elements | None] = field(default_factory=dict)


@dataclass
class Encoded:
    """What became of the files of a part: their place in it, facts, and parameters."""

    part: Part
    files: list[tuple[int, Facts | Failure, Any]]
    seconds: float  # in the encoder


@dataclass
class Written:
    """Records of a part's files by their place in the block, and facts of those that were read."""

    block: int
    records: list[tuple[int, Record, Facts | None]]
    seconds: float


def row_of(thing: Any) -> dict[str, bytes]:
    """A row as Ray Data passes it from process to process. It would serialise other than plain
    values itself in the same way, and warn."""
    import ray.cloudpickle

    return {"it": ray.cloudpickle.dumps(thing)}


def of_row(row: dict[str, bytes]) -> Any:
    """What a process of this run put into a row."""
    import ray.cloudpickle

    return ray.cloudpickle.loads(row["it"])


class Worker:
    """An actor: things to others, in rows. What goes wrong becomes a Broken."""

    threads = 1

    def __init__(self, job: Job, *more: Any) -> None:
        self.job = job
        self.broken: Broken | None = None
        with self._explained():
            with suppress(OSError):
                os.chdir(job.place)  # paths may be relative
            self._look(job.folder / RECORD)
            self._look(job.music)
            torch.set_num_threads(self.threads)
            self.start(*more)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        thing = of_row(row)
        if isinstance(thing, Broken):
            return row
        with self._explained():
            if self.broken is None:
                return row_of(self.work(thing))
        return row_of(self.broken)

    def start(self, *more: Any) -> None:
        """Get ready."""

    def work(self, thing: Any) -> Any:
        """One row's content to another's."""
        raise NotImplementedError

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            advice = "use a smaller --batch-seconds or --chunk-seconds"
            self.broken = Broken(f"{socket.gethostname()}: out of memory; {advice}")
        except Exception as error:
            self.broken = Broken(str(named(f"a worker on {socket.gethostname()}", error)))

    def _look(self, path: str | Path) -> None:
        if not os.path.exists(path):
            raise LibraryError(
                f"{path}: is not to be seen from {socket.gethostname()}; music and OUT need the "
                "same paths on all nodes of the cluster"
            )

    def reader(self) -> Reader:
        """Reads for the model, of which it needs no weights."""
        with torch.device("meta"):
            return Reader(EarVAE(self.job.config), self.job.settings, self.job.geometry)

    def store(self) -> Store:
        """The output folder."""
        folder = self.job.folder
        return Store(folder, self.job.settings, Staging(folder / HIDDEN / "staging"))


class Reading(Worker):
    """Part → Loaded."""

    def start(self) -> None:
        self.own = self.reader()

    def work(self, part: Part) -> Loaded:
        loaded = Loaded(part)
        if isinstance(part.work, Batch):
            (batch,) = self.own.batch(part.items, part.work, part.wanted)
            loaded.audio, loaded.found = batch.audio, batch.found
            alone = [place for place, facts in batch.found.items() if facts is None]
        else:
            alone = [0]
        for place in alone:
            loaded.solos[place] = self._solo(part.items[place])
        return loaded

    def _solo(self, item: Item) -> Elements | None:
        if (self.own.length(item) or 0) > self.job.longest:
            return None
        elements: Elements = []
        frames = 0
        for element in self.own.solo(item):
            elements.append(element)
            if isinstance(element, LoadedWindows):
                frames += sum(last - first for first, last in element.keep)
                if frames > self.job.longest:
                    return None
        return elements


class Encoding(Worker):
    """Loaded → Encoded."""

    def __init__(self, job: Job, model: ObjectRef) -> None:
        self.threads = job.workers.threads
        super().__init__(job, model)

    def start(self, model: ObjectRef) -> None:
        import ray

        workers, settings = self.job.workers, self.job.settings
        vae = engine.accelerate(ray.get(model).to(workers.device), workers.engine)
        if (vae.engine, vae.precision) != (settings.engine, settings.precision):
            raise LibraryError(
                f"{socket.gethostname()} has the engine {vae.engine} in {vae.precision}, and the "
                f"others {settings.engine} in {settings.precision}; name one with --engine"
            )
        self.encoder = Encoder(vae, self.job.geometry.context)
        self.own = Reader(vae, settings, self.job.geometry)

    def work(self, loaded: Loaded) -> Encoded:
        before = self.encoder.seconds
        part, files = loaded.part, []
        if isinstance(part.work, Batch):
            parameters = []
            if loaded.audio is not None:
                parameters = self.encoder.batch(loaded.audio, part.work)
            for place, facts in loaded.found.items():
                if facts is not None:
                    own = parameters[place].numpy() if isinstance(facts, Facts) else None
                    files.append((place, facts, own))
        for place, elements in loaded.solos.items():
            files.append((place, *self._solo(part.items[place], elements)))
        return Encoded(part, files, self.encoder.seconds - before)

    def _solo(self, item: Item, elements: Elements | None) -> tuple[Facts | Failure, Any]:
        if elements is None:
            for _, stream in prefetch([(item, partial(self.own.solo, item))], 1):
                return self._windows(stream)
        return self._windows(elements)

    def _windows(self, elements: Iterable[LoadedWindows | Facts | Failure]) -> tuple[Any, Any]:
        parts = []
        for element in elements:
            if isinstance(element, LoadedWindows):
                parts += self.encoder.windows(element)
            elif isinstance(element, Failure):
                return element, None
            else:
                return element, torch.cat(parts, dim=2).numpy()
        raise AssertionError("a file without an end")


class Writing(Worker):
    """Encoded → Written."""

    def start(self) -> None:
        job = self.job
        self.writer = Writer(self.store(), job.config.std_floor, job.statistics)

    def work(self, encoded: Encoded) -> Written:
        part, records = encoded.part, []
        block = Block(part.block, list(part.items))
        for place, facts, parameters in encoded.files:
            position = part.places[place]
            if isinstance(facts, Failure):
                records.append((position, failed(facts), None))
            else:
                tensor = torch.from_numpy(parameters)
                record = self.writer.write(block, part.items[place], facts, tensor)
                records.append((position, record, facts))
        return Written(part.block, records, encoded.seconds)


class Finishing(Worker):
    """Packs and records a block of which everything is stored; no actor, one for each shard."""

    def start(self) -> None:
        self.own = self.store()

    def work(self, whole: tuple[Block, list[Record]]) -> None:
        try:
            self.own.finish(*whole)
        finally:
            self.own.staging.close()


def finish(job: Job, block: Block, records: list[Record]) -> Broken | None:
    return of_row(Finishing(job)(row_of((block, records))))
