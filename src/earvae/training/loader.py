"""Batches on the device that trains, decoded as they are needed or out of memory.

What trains calls :func:`open_crops` once and :func:`make_batches` for every stretch of crops, and
does not see which of the two it is.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from earvae.config import ConfigError, DataConfig
from earvae.training.cache import CachedCrops, LastDecoded, Progress
from earvae.training.crops import ATTEMPTS, CropDataset
from earvae.training.ending import SIGNALS
from earvae.training.filters import DROP_REASONS

TIMEOUT = 600  # seconds without a batch from the decoding processes
DRAWS_TO_JUDGE_BY = 200  # of a source; then so many must not be refused:
MOST_REFUSED = 0.9
HOPELESS_CROPS = 3  # of a source, all given up, and none that was not


def open_crops(
    config: DataConfig,
    sample_rate: int,
    device: torch.device,
    copies: int = 1,
    progress: Progress | None = None,
    last: LastDecoded | None = None,
) -> CropDataset:
    """The crops that ``config`` describes; with a cache, decoded when this returns.

    ``copies``, ``progress`` and ``last`` are those of :class:`earvae.training.cache.CachedCrops`.
    Raises ConfigError.
    """
    if config.cache == "none":
        return CropDataset(config, sample_rate)
    holder = device if config.cache == "device" else torch.device("cpu")
    return CachedCrops(config, sample_rate, holder, copies, progress, last)


def make_batches(
    crops: CropDataset,
    start: int,
    stop: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """Batches of crops start…stop−1; ``rank`` of ``world_size`` takes its share of each.

    ``audio`` float32 ``[batch, 2, crop_samples]`` is on ``device``; ``source`` int64 ``[batch]``,
    ``dropped`` int64 ``[batch, len(DROP_REASONS)]`` and ``augmented`` bool
    ``[batch, len(AUGMENTATIONS)]`` stay on the CPU, where they are counted. Processes that decode
    have started when this returns.

    A batch raises ConfigError, naming the source, when one gives next to nothing that can be used.
    """
    watch = SourceWatch(crops.config)
    if isinstance(crops, CachedCrops):
        own = shares(start, stop, crops.config.batch_size, rank, world_size)
        batches = (crops.batch(indices, device) for indices in own)
    else:
        pinned = device.type == "cuda"
        loader = iter(make_loader(crops, start, stop, rank, world_size, pinned))
        batches = (
            batch | {"audio": batch["audio"].to(device, non_blocking=pinned)} for batch in loader
        )
    return map(watch.noted, batches)


def shares(
    start: int, stop: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[range]:
    """Indices start…stop−1 in batches: of each ``world_size`` neighbouring ones, the rank's own."""
    for first in range(start + rank * batch_size, stop, batch_size * world_size):
        yield range(first, min(first + batch_size, stop))


def make_loader(
    dataset: CropDataset,
    start: int,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches of crops start…stop−1, to go through once: the items' tensors, stacked. ``rank`` of
    ``world_size`` takes its share (:func:`shares`). ``pin_memory`` is for copies to a GPU that
    nothing waits for.
    """
    config = dataset.config
    return DataLoader(
        dataset,
        batch_sampler=shares(start, stop, config.batch_size, rank, world_size),
        num_workers=config.workers,
        worker_init_fn=_start_worker,
        timeout=TIMEOUT if config.workers else 0,
        persistent_workers=False,
        pin_memory=pin_memory,
    )


def _start_worker(_worker: int) -> None:
    """One thread each. Signals are the main process's to act on: one sent to the whole group must
    not take the workers away before it has saved. They end with it in any case.
    """
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class SourceWatch:
    """Notices a source of which nearly every draw is refused: the run would train on silence."""

    def __init__(self, config: DataConfig) -> None:
        self.names = [source.tracks for source in config.sources]
        self.seen = [Counter() for _ in self.names]  # crops good or given up; draws by DROP_REASONS

    def noted(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch, counted. Raises ConfigError."""
        sources = batch["source"].tolist()
        for source, dropped in zip(sources, batch["dropped"].tolist(), strict=True):
            self.seen[source]["given up" if sum(dropped) >= ATTEMPTS else "good"] += 1
            self.seen[source].update(dict(zip(DROP_REASONS, dropped, strict=True)))
        for source in set(sources):
            self._judge(self.names[source], self.seen[source])
        return batch

    def _judge(self, name: str, seen: Counter[str]) -> None:
        by_reason = {reason: seen[reason] for reason in DROP_REASONS if seen[reason]}
        refused = sum(by_reason.values())
        draws = refused + seen["good"]
        nothing = seen["good"] == 0 and seen["given up"] >= HOPELESS_CROPS
        if nothing or (draws >= DRAWS_TO_JUDGE_BY and refused > MOST_REFUSED * draws):
            reasons = ", ".join(f"{count} {reason}" for reason, count in by_reason.items())
            raise ConfigError(
                f"{name}: {refused} of {draws} draws were refused ({reasons}); "
                "look at its files, or at data.filters"
            )
