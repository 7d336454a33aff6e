"""Systems that only show what the metrics do: their rows are not ranked."""

from __future__ import annotations

from torch import Tensor

from earvae.evaluation.systems.system import System

CHECKS = {
    # what the metrics give at best
    "identity": ("the reference itself", lambda audio: audio),
    # inaudible: no metric here should mind
    "flip": ("the reference with its polarity flipped", lambda audio: -audio),
    # Mid is kept, Side is lost
    "mono": ("the reference folded down to mono", lambda audio: audio.mean(0).expand(2, -1)),
}


class Check(System):
    """The reference, changed in a known way.

    Args:
        kind: one of ``CHECKS``.
        name: of the row.
    """

    sanity = True

    def __init__(self, kind: str, name: str | None = None) -> None:
        self.name = name or kind
        self.description, self.change = CHECKS[kind]
        self.settings = {"codec": kind}

    def round_trip(self, audio: Tensor) -> Tensor:
        return self.change(audio)
