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
    """A block as it was found: for each file its record, or None if it is to be encoded; whether
    its own record and shard need no change; and the parts that are left to do."""

    block: Block
    records: list[Record | None]
    unchanged: bool
    parts: list[Part]

    @property
    def done(self) -> int:
        """Files that need no encoding."""
        return sum(record is not None for record in self.records)


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
    return Survey(block, records, unchanged, parts)
