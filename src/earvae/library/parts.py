"""Parts of the work on a library: what is left to do of a block, in pieces of one computation."""

from __future__ import annotations

from dataclasses import dataclass

from earvae.library.items import Block, Item
from earvae.library.plan import Batch, Geometry, Solo, plan
from earvae.library.reader import Reader
from earvae.library.store import Record, Store


@dataclass(frozen=True)
class Part:
    """Files of a block that are computed together, or one by itself.

    Attributes:
        block: its number.
        work: a batch, or a file read as a stream; counts files in the block.
        items: the files.
        wanted: places in ``items`` of those that are not done.
    """

    block: int
    work: Batch | Solo
    items: tuple[Item, ...]
    wanted: frozenset[int]

    @property
    def places(self) -> tuple[int, ...]:
        """Places of the files in their block."""
        return self.work.items if isinstance(self.work, Batch) else (self.work.item,)


@dataclass(frozen=True)
class Survey:
    """A block as it was found.

    Attributes:
        records: of each file, None if it is to be encoded; to be filled in.
        done: files that need no encoding.
        unchanged: whether the block's own record and shard need no change.
        parts: that are left to do.
    """

    block: Block
    records: list[Record | None]
    done: int
    unchanged: bool
    parts: list[Part]


def survey(block: Block, store: Store, reader: Reader, geometry: Geometry) -> Survey:
    """Find out what is done of a block, and plan the rest.

    Batches are those of the whole block, so that what is left is computed in the same company.
    """
    records, unchanged = store.survey(block, reader)
    parts = []
    if any(record is None for record in records):
        for work in plan([reader.length(item) for item in block.items], geometry):
            places = work.items if isinstance(work, Batch) else (work.item,)
            wanted = frozenset(n for n, place in enumerate(places) if records[place] is None)
            if wanted:
                items = tuple(block.items[place] for place in places)
                parts.append(Part(block.number, work, items, wanted))
    done = sum(record is not None for record in records)
    return Survey(block, records, done, unchanged, parts)
