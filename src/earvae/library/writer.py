"""From what became of a file to its record: latents are stored, failures noted."""

from __future__ import annotations

from torch import Tensor

from earvae.errors import EarvaeError, UnwritableName, WriteError, about
from earvae.latents.file import LatentsError
from earvae.latents.statistics import Statistics
from earvae.library.entries import entries_of
from earvae.library.items import Block, Item
from earvae.library.reader import Facts, Failure
from earvae.library.store import Record, Store
from earvae.model.posterior import Posterior
from earvae.tracks import printable


class Writer:
    """Stores what the encoder gives.

    Args:
        std_floor: of the model's posterior.
        statistics: to normalise with.
    """

    def __init__(self, store: Store, std_floor: float, statistics: Statistics | None) -> None:
        self.store, self.std_floor, self.statistics = store, std_floor, statistics

    def write(self, block: Block, item: Item, facts: Facts, parameters: Tensor) -> Record:
        """Store a file's latents, from posterior parameters ``[1, 2·latent, frames]``.

        What is wrong with this file alone is in the record. Raises WriteError where the next file
        could not be written either.
        """
        try:
            with about(item.path):
                posterior = Posterior(parameters, self.std_floor)
                entries = entries_of(item, facts, posterior, self.store.settings, self.statistics)
                return self.store.write(block, item, facts.state, entries)
        except EarvaeError as error:
            if isinstance(error, WriteError) and not isinstance(error, UnwritableName):
                raise
            line = f"{item.path}: {error}" if isinstance(error, LatentsError) else str(error)
            return failed(Failure(line, facts.state))


def failed(failure: Failure) -> Record:
    """The record of a file that could not be encoded."""
    return Record(failure.state, [], printable(failure.error))
