"""A library on a Ray cluster: read on CPUs, encoded on GPUs (or CPUs), written; by Ray Data.

Scheduling, retries of what a lost worker had, and pools that grow with the cluster are Ray's. What
is done here is its input. All that may depend on the moment is settled first: what is done of each
block, and the parts that are left. After that a part becomes the same files however often and
wherever it is worked on, so that work may be lost and done again at any stage.

Reading, encoding and writing are the same classes as in a local run. Audio goes from reader to
encoder through Ray's object store; of a file longer than LONGEST_SENT only the name does, and the
encoder reads it as a stream.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from earvae import engine
from earvae.atomic import Staging, sweep
from earvae.config import ModelConfig
from earvae.errors import named
from earvae.latents.statistics import Statistics
from earvae.library.compute import Encoder
from earvae.library.encode import Progress, Result, Summary, around, peak_memory
from earvae.library.items import HIDDEN, Block, Item, Library, LibraryError
from earvae.library.parts import Part, Survey, survey
from earvae.library.plan import Batch, Geometry
from earvae.library.prefetch import prefetch
from earvae.library.ranks import Rank
from earvae.library.reader import Facts, Failure, LoadedWindows, Reader
from earvae.library.settings import RECORD, Settings
from earvae.library.store import Record, Store
from earvae.library.writer import Writer, failed
from earvae.model.vae import EarVAE

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.data import Dataset

EXTRA = "`--ray` needs Ray; install it here and on every node: pip install 'earvae[ray]'"
LONGEST_SENT = 600.0  # seconds: 200 MB of audio
PARTS_A_TASK = 4  # what a reader does before anything of it is passed on
SECONDS_TO_ANSWER = 10.0
SURVEYING = 8  # threads that find out what is done; they wait for disks
UNFINISHED = 8  # shards that are packed at a time
LOCAL = "local"
RUNNING = "auto"

Elements = list[LoadedWindows | Facts | Failure]


# ------------------------------------------------------------------------------ the cluster


@contextmanager
def connected(address: str = RUNNING) -> Iterator[None]:
    """A Ray cluster inside: ``HOST:PORT`` of its head, ``local`` (started here, and stopped at the
    end), or ``auto``: that of RAY_ADDRESS, else one that runs on this machine, else a local one.

    A connection that the process has already is used, and kept. Raises LibraryError.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it tells of its own affairs
        import ray
        import ray.data
    except ImportError:
        raise LibraryError(EXTRA) from None
    asked = os.environ.get("RAY_ADDRESS", "") if address == RUNNING else address
    if "://" in asked:
        raise LibraryError(
            f"--ray {asked}: Ray Data runs inside a cluster; give HOST:PORT of its head, or run "
            "this command on a node of it"
        )
    if ray.is_initialized():
        yield
        return
    if ":" in asked:
        _knock(asked)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _unseen():
            ray.init(
                address=None if address == RUNNING else address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise LibraryError(f"--ray {address}: no cluster there: {reason}") from None
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise LibraryError if nobody answers there; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LibraryError(
            f"--ray {address}: nobody answers there ({reason}); `ray status` on a node of the "
            "cluster tells the address"
        ) from None


@contextmanager
def _unseen() -> Iterator[None]:
    """Nothing goes to standard error: Ray's C++ says there that it was asked to be silent."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def device_of(wanted: str) -> str:
    """``cuda`` or ``cpu``, for ``auto`` by whether the cluster has a GPU. Raises LibraryError."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if wanted not in ("auto", "cpu", "cuda"):
        raise LibraryError(f"--device {wanted}: with --ray one of auto, cpu and cuda")
    if wanted == "cuda" and not gpus:
        raise LibraryError("--device cuda: no node of the cluster has a GPU; add one, or use cpu")
    return "cuda" if gpus and wanted != "cpu" else "cpu"


def threads_of() -> int:
    """Threads that PyTorch has here, or as many as the largest node has CPUs."""
    import ray

    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    return max(1, min(torch.get_num_threads(), int(largest)))


@dataclass(frozen=True)
class Workers:
    """What the workers of a cluster encode with.

    Attributes:
        device: ``cuda``, a GPU for each encoder, or ``cpu``.
        engine: a name that :func:`earvae.engine.accelerate` takes.
        threads: of each encoder. Latents of some models depend on it in their last bits.
    """

    device: str
    engine: str = "auto"
    threads: int = 1

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Parts of CPUs and GPUs that a reader, an encoder and a writer are counted as. Of a CPU
        that also encodes a reader needs a small part."""
        if self.device == "cuda":
            encoder, reader = {"num_gpus": 1.0, "num_cpus": 0.5}, {"num_cpus": 1.0}
        else:
            encoder, reader = {"num_cpus": 0.7 * self.threads}, {"num_cpus": 0.25}
        return {"read": reader, "encode": encoder, "write": {"num_cpus": 0.05}}


def engine_of(vae: EarVAE, workers: Workers) -> tuple[str, str]:
    """Engine and precision that the workers will have. Raises EarvaeError."""
    if workers.device == "cpu":
        return engine.choose(vae, workers.engine)
    import ray

    @ray.remote(num_gpus=1, num_cpus=0)
    def ask() -> tuple[str, str] | str:
        try:
            return engine.choose(EarVAE(config).to("cuda"), name)
        except Exception as error:
            return str(named(socket.gethostname(), error))

    config, name = vae.config, workers.engine
    with _of_ray():
        found = ray.get(ask.remote())
    if isinstance(found, str):
        raise engine.EngineError(found)
    return found


# ------------------------------------------------------------------------------ what is sent


@dataclass(frozen=True)
class _Job:
    """What every worker knows."""

    config: ModelConfig
    settings: Settings
    geometry: Geometry
    folder: Path
    statistics: Statistics | None
    workers: Workers
    place: str  # where the command runs
    music: str  # a folder with music


@dataclass(frozen=True)
class _Broken:
    """Why the run cannot go on."""

    line: str


@dataclass
class _Loaded:
    """A part that was read: its batch, as LoadedBatch has it; and by its place each file that is
    encoded by itself, None where the encoder is to read it."""

    part: Part
    audio: Any = None
    found: dict[int, Facts | Failure | None] = field(default_factory=dict)
    solos: dict[int, Elements | None] = field(default_factory=dict)


@dataclass
class _Encoded:
    """What became of the files of a part: their place in it, facts, and parameters."""

    part: Part
    files: list[tuple[int, Facts | Failure, Any]]
    seconds: float  # in the encoder


@dataclass
class _Written:
    """Records of a part's files by their place in the block, and facts of those that were read."""

    block: int
    records: list[tuple[int, Record, Facts | None]]
    seconds: float


# ------------------------------------------------------------------------------ workers


class _Worker:
    """An actor: things to others, in rows. What goes wrong becomes a _Broken."""

    threads = 1

    def __init__(self, job: _Job, *more: Any) -> None:
        self.job = job
        self.broken: _Broken | None = None
        with self._explained():
            with suppress(OSError):
                os.chdir(job.place)  # paths may be relative
            self._look(job.folder / RECORD)
            self._look(job.music)
            torch.set_num_threads(self.threads)
            self.start(*more)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        thing = _of_row(row)
        if isinstance(thing, _Broken):
            return row
        with self._explained():
            if self.broken is None:
                return _row(self.work(thing))
        return _row(self.broken)

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
            self.broken = _Broken(f"{socket.gethostname()}: out of memory; {advice}")
        except Exception as error:
            self.broken = _Broken(str(named(f"a worker on {socket.gethostname()}", error)))

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


class _Reading(_Worker):
    """Part → _Loaded."""

    def start(self) -> None:
        self.own = self.reader()
        rate = self.job.settings.sample_rate / self.job.settings.hop_length
        self.longest = LONGEST_SENT * rate  # frames

    def work(self, part: Part) -> _Loaded:
        loaded = _Loaded(part)
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
        if (self.own.length(item) or 0) > self.longest:
            return None
        elements: Elements = []
        frames = 0
        for element in self.own.solo(item):
            elements.append(element)
            if isinstance(element, LoadedWindows):
                frames += sum(last - first for first, last in element.keep)
                if frames > self.longest:
                    return None
        return elements


class _Encoding(_Worker):
    """_Loaded → _Encoded."""

    def __init__(self, job: _Job, model: ObjectRef) -> None:
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
        self.own = self.reader()

    def work(self, loaded: _Loaded) -> _Encoded:
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
        return _Encoded(part, files, self.encoder.seconds - before)

    def _solo(self, item: Item, elements: Elements | None) -> tuple[Facts | Failure, Any]:
        if elements is None:
            return self._windows(next(prefetch([(item, partial(self.own.solo, item))], 1))[1])
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


class _Writing(_Worker):
    """_Encoded → _Written."""

    def start(self) -> None:
        job = self.job
        self.writer = Writer(self.store(), job.config.std_floor, job.statistics)

    def work(self, encoded: _Encoded) -> _Written:
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
        return _Written(part.block, records, encoded.seconds)


class _Finishing(_Worker):
    """Packs and records a block of which everything is stored; no actor, one for each shard."""

    def start(self) -> None:
        self.own = self.store()

    def work(self, whole: tuple[Block, list[Record]]) -> None:
        try:
            self.own.finish(*whole)
        finally:
            self.own.staging.close()


def _finish(job: _Job, block: Block, records: list[Record]) -> _Broken | None:
    return _of_row(_Finishing(job)(_row((block, records))))


# ------------------------------------------------------------------------------ the run


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
        job = _Job(vae.config, settings, geometry, folder, statistics, workers, os.getcwd(), music)
        with _of_ray():
            try:
                return _Run(vae, library, store, job, progress).everything()
            finally:
                sweep(folder / HIDDEN / "staging", everything=True)  # of workers that are gone

    return around(run, library, folder, settings, Rank(), statistics, replace)


class _Run:
    """The driver's part."""

    def __init__(
        self, vae: EarVAE, library: Library, store: Store, job: _Job, progress: Progress
    ) -> None:
        import ray

        self.vae, self.library, self.store = vae, library, store
        self.job, self.progress = job, progress
        self.summary = Summary(0, 1, job.workers.device, job.workers.threads)
        self.blocks: dict[int, Survey] = {}  # that are not finished
        self.left: dict[int, int] = {}  # files to do of each
        self.finishing: deque[ObjectRef] = deque()
        self.finish = ray.remote(num_cpus=0, max_retries=-1)(_finish)

    def everything(self) -> Summary:
        """All blocks."""
        import ray

        started = time.perf_counter()
        parts = self._survey()
        if parts:
            model = ray.put(self.vae)
            rows = _rows(parts, PARTS_A_TASK)
            for stage, worker, more in (
                ("read", _Reading, ()), ("encode", _Encoding, (model,)), ("write", _Writing, ()),
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

    def _through(self, rows: Dataset, stage: str, worker: type[_Worker], *more: Any) -> Dataset:
        from ray.data import ActorPoolStrategy

        return rows.map(
            worker,
            fn_constructor_args=(self.job, *more),
            compute=ActorPoolStrategy(min_size=1),
            **self.job.workers.shares[stage],
        )

    def _take(self, written: _Written) -> None:
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


def _row(thing: Any) -> dict[str, bytes]:
    """A row as Ray Data passes it from process to process. It would serialise other than plain
    values itself in the same way, and warn."""
    import ray.cloudpickle

    return {"it": ray.cloudpickle.dumps(thing)}


def _of_row(row: dict[str, bytes]) -> Any:
    """What a process of this run put into a row."""
    import ray.cloudpickle

    return ray.cloudpickle.loads(row["it"])


def _rows(things: list[Any], a_task: int) -> Dataset:
    """A data set of things, so many to a task."""
    import ray.data

    return ray.data.from_items(
        [_row(thing) for thing in things], override_num_blocks=-(-len(things) // a_task)
    )


def _things(rows: Dataset) -> Iterator[Any]:
    """What a data set holds, as it comes. Raises LibraryError for a _Broken."""
    for row in rows.iter_rows():
        if isinstance(thing := _of_row(row), _Broken):
            raise LibraryError(thing.line)
        yield thing


@contextmanager
def _of_ray() -> Iterator[None]:
    """Ray's failures become a LibraryError of one line; its own telling is turned off."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        missing = next((line for line in reversed(lines) if "No module named" in line), None)
        if missing is not None:
            raise LibraryError(f"Ray: a node lacks what it needs ({missing}); {EXTRA}") from error
        raise LibraryError(f"Ray: {lines[0] if lines else type(error).__name__}") from error
