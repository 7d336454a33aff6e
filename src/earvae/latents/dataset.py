"""Latents to train on: random crops of a collection, in an order that can be gone on with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from earvae.latents import listing, statistics
from earvae.latents.file import Latents
from earvae.latents.listing import Entry
from earvae.latents.metadata import LatentsError
from earvae.latents.statistics import Statistics


class LatentDataset(IterableDataset):
    """Entries of latents, each once an epoch, as dicts that torch's default collation takes:

    - ``latents``: float32 ``[channels, frames]``;
    - ``mask``: bool ``[frames]``, True where a frame stands for audio, False where it is padding;
    - ``metadata``: ``source`` (the track's path below the library's input), ``entry`` (the file,
      or the shard and its member), ``sample_offset`` of the first frame in the track and
      ``samples`` of true audio from there (at the model's rate), ``seconds_start`` of the first
      frame and ``seconds_total`` of the track, ``epoch`` and ``position`` (see
      :meth:`state_dict`).

    The order, the crops and the noise follow from ``seed``, the epoch and the entry, and so do
    not depend on the number of ranks or workers. All ranks together go through the entries: rank
    r takes the places r, r + world, … of an endless order in which epoch follows upon epoch.

    Args:
        source: a library's folder or ``index.jsonl``, folders, ``.safetensors``, ``.npy`` and
            ``.tar`` files, or URLs of any of these but folders without an index; or a list.
        frames: of a crop, drawn anew each epoch. Shorter entries are given whole, then what is
            stored of their padding, then zeros. None: entries whole, of whatever length.
        statistics: what normalises the latents to mean 0 and std 1 by channel: of
            :func:`earvae.latents.statistics.read`, or their file. Latents that these normalised
            already are left as they are. None: nothing is done to any.
        sample: draw from the posterior: mean + std · noise. The entries hold ``std`` then
            (``earvae library --store mean+std``).
        seed: of all that is drawn.
        rank, world_size: this process of how many. Default: those of torch.distributed, else of
            the environment that torchrun makes (RANK, WORLD_SIZE), else 0 of 1.
        shuffle: False: in the order of the list, in every epoch. Crops are drawn all the same.
        epochs: after which iteration ends; ranks may then differ by one item. None: never.
        batch_size: the DataLoader's. Workers then take whole batches in turn, so that the batches
            are the same with any number of workers.
        problem: called with one line for an entry that cannot be used; the next in the order is
            given in its place. Default: iteration raises LatentsError.

    Attributes:
        entries: how many there are.
        channels, sample_rate, hop_length: of all latents; Hz, and samples a frame.
        model: identity of the model that made them.

    Raises LatentsError: no entries, some of another model, no ``std`` to sample with, statistics of
    another model or other latents than those that were normalised, a file that cannot be read.
    ValueError: arguments out of range.
    """

    def __init__(
        self,
        source: listing.Source,
        frames: int | None = None,
        statistics: Statistics | str | Path | None = None,
        sample: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: bool = True,
        epochs: int | None = None,
        *,
        batch_size: int = 1,
        problem: Callable[[str], None] | None = None,
    ) -> None:
        self.rank, self.world_size = _rank(rank, world_size)
        for name, value in (("frames", frames), ("epochs", epochs), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.frames, self.sample, self.seed = frames, sample, seed
        self.shuffle, self.epochs, self.batch_size = shuffle, epochs, batch_size
        self.statistics, self.problem = _statistics(statistics), problem
        self._entries = listing.find(source)
        self.entries = len(self._entries)
        self._kind = self._first()
        self.channels, self.hop_length, self.sample_rate, self.model = self._kind
        self._begun = 0  # items of all ranks, before those of this state
        self._given = self._resumed = 0  # items of this copy since; where iteration goes on

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The items of this rank, or, in a DataLoader's worker, the worker's part of them; from
        the beginning, or from the state that was loaded."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        order, of_epoch = np.arange(0), -1
        self._given = self._resumed
        while True:
            batch, inside = divmod(self._given, self.batch_size)
            own = (batch * workers + number) * self.batch_size + inside  # the rank's, since begun
            epoch, place = divmod(self._place(own), self.entries)
            if self.epochs is not None and epoch >= self.epochs:
                return
            if epoch != of_epoch:
                order, of_epoch = self._order(epoch), epoch
            item = self._usable(order, place, epoch)
            item["metadata"]["position"] = own
            self._given += 1
            yield item

    def state_dict(self, batch: dict[str, Any] | None = None) -> dict[str, int | str]:
        """Where to go on, for :meth:`load_state_dict` of this or another number of ranks.

        With a DataLoader that has workers, give the last batch (as collated) that was trained on:
        the copies in the workers are ahead of it, and this one has given nothing. Without one, it
        is after the last item of this copy; so torchdata's StatefulDataLoader asks in each worker.
        Raises ValueError for a batch of another size than ``batch_size``.
        """
        worker = get_worker_info()
        state: dict[str, int | str] = {"entries": self._digest()}
        if batch is not None:
            positions = torch.as_tensor(batch["metadata"]["position"]).reshape(-1).tolist()
            first, stop = positions[0], positions[-1] + 1
            last = self.epochs and self._place(stop) >= self.epochs * self.entries
            whole = first % self.batch_size == 0 and (last or stop % self.batch_size == 0)
            if not whole or positions != [*range(first, stop)]:
                raise ValueError(
                    f"the items {positions} are no batches of {self.batch_size}; give "
                    "LatentDataset the batch_size of its DataLoader"
                )
            begun = self._begun + stop * self.world_size
            return state | {"begun": begun, "given": 0, "workers": 0}
        if worker is None:
            begun = self._begun + self._given * self.world_size
            return state | {"begun": begun, "given": 0, "workers": 0}
        return state | {
            "begun": self._begun, "given": self._given, "workers": worker.num_workers,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go on where :meth:`state_dict` was asked. Raises ValueError if that was of other
        entries, another seed or another batch size, or of another number of workers."""
        if state["entries"] != self._digest():
            raise ValueError(
                "this state is of other entries, or of another seed, order or batch size"
            )
        worker = get_worker_info()
        workers = 0 if worker is None else worker.num_workers
        if state["workers"] not in (0, workers):
            raise ValueError(
                f"this state is of {state['workers']} workers, these are {workers}; go on with as "
                "many"
            )
        self._begun = int(state["begun"])
        self._given = self._resumed = int(state["given"])

    # ------------------------------------------------------------------------------ order

    def _place(self, own: int) -> int:
        """Where in the endless order an item of this rank lies, counted since ``_begun``."""
        return self._begun + own * self.world_size + self.rank

    def _order(self, epoch: int) -> np.ndarray:
        """Numbers of the entries in the order of an epoch."""
        if not self.shuffle:
            return np.arange(self.entries)
        # Raw bits of a bit generator are the same in every version of numpy.
        return np.argsort(_bits(self.entries, self.seed, epoch), kind="stable")

    def _digest(self) -> str:
        names = "\n".join(entry.name for entry in self._entries)
        what = f"{self.seed} {self.shuffle} {self.batch_size}\n{names}"
        return hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:12]

    # ------------------------------------------------------------------------------ items

    def _first(self) -> tuple[int, int, int, str]:
        """What all latents have in common, by the first that can be read."""
        failed: LatentsError | None = None
        for entry in self._entries:
            try:
                with entry.opened() as stored:
                    return _kind_of(stored)
            except LatentsError as error:
                if self.problem is None:
                    raise
                failed = failed or error
        assert failed is not None
        raise failed

    def _usable(self, order: np.ndarray, place: int, epoch: int) -> dict[str, Any]:
        """The item at a place of an epoch's order, or the next that can be used."""
        for step in range(self.entries):
            try:
                return self._item(int(order[(place + step) % self.entries]), epoch)
            except LatentsError as error:
                if self.problem is None:
                    raise
                self.problem(str(error))
        raise LatentsError("none of the latents can be used")

    def _item(self, number: int, epoch: int) -> dict[str, Any]:
        entry = self._entries[number]
        draw, noise = _bits(2, self.seed, epoch, number).tolist()
        with entry.opened() as stored:
            self._check(entry, stored)
            true = stored.metadata.true_frames
            length = stored.frames if self.frames is None else self.frames
            start = draw % (max(0, true - length) + 1)
            latents = stored.read(start, min(start + length, stored.frames))
        values = self._normalised(entry, latents, self._values(latents, noise))
        if missing := length - values.shape[1]:
            values = torch.nn.functional.pad(values, (0, missing))
        own, hop = latents.metadata, self.hop_length
        offset = (own.sample_offset or 0) + start * hop
        total = own.samples if own.track_samples is None else own.track_samples
        return {
            "latents": values,
            "mask": torch.arange(start, start + length) < true,
            "metadata": {
                "source": own.source or entry.name,
                "entry": entry.name,
                "sample_offset": offset,
                "samples": min(length * hop, own.samples - start * hop),
                "seconds_start": offset / self.sample_rate,
                "seconds_total": total / self.sample_rate,
                "epoch": epoch,
            },
        }

    def _check(self, entry: Entry, stored: Any) -> None:
        if (kind := _kind_of(stored)) != self._kind:
            raise LatentsError(
                f"{entry.location}: {entry.name} holds {_told(kind)}, the others hold "
                f"{_told(self._kind)}; train on one kind of latents"
            )
        if self.sample and "std" not in stored.arrays:
            raise LatentsError(
                f"{entry.location}: {entry.name} holds no std to sample with; encode with `earvae "
                "library --store mean+std`, or leave out sample=True"
            )

    def _values(self, latents: Latents, noise: int) -> Tensor:
        values = torch.from_numpy(latents.values.astype(np.float32))
        if not self.sample:
            return values
        assert latents.std is not None
        generator = torch.Generator().manual_seed(noise >> 1)
        std = torch.from_numpy(latents.std.astype(np.float32))
        return values + std * torch.randn(values.shape, generator=generator)

    def _normalised(self, entry: Entry, latents: Latents, values: Tensor) -> Tensor:
        own = latents.metadata
        if self.statistics is None or own.normalised == self.statistics.digest:
            return values
        if own.normalised is not None:
            raise LatentsError(
                f"{entry.location}: {entry.name} was normalised by statistics {own.normalised}, "
                f"these are {self.statistics.digest}"
            )
        return torch.from_numpy(self.statistics.normalise(values.numpy()))


def _statistics(given: Statistics | str | Path | None) -> Statistics | None:
    if isinstance(given, str | Path):
        return statistics.read(Path(given).expanduser())
    return given


def _kind_of(stored: Any) -> tuple[int, int, int, str]:
    own = stored.metadata
    return stored.arrays["latents"].shape[0], own.hop_length, own.sample_rate, own.model


def _told(kind: tuple[int, int, int, str]) -> str:
    channels, hop, rate, model = kind
    return f"{channels} latents per {hop} samples at {rate} Hz of model {model}"


def _bits(count: int, *seed: int) -> np.ndarray:
    return np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)


def _rank(rank: int | None, world: int | None) -> tuple[int, int]:
    """Raises ValueError."""
    if (rank is None) != (world is None):
        raise ValueError("rank and world_size belong together; give both")
    if rank is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world = (int(os.environ.get(k) or d) for k, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    assert world is not None
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}: ranks count from 0 to {world - 1}")
    return rank, world
