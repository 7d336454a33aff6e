"""Systems that only show what the metrics do: their rows are not ranked."""

from __future__ import annotations

from torch import Tensor

from earvae.evaluation.systems.system import System


class Check(System):
    """The reference, changed in a known way."""

    sanity = True
    kind: str

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.kind

    @property
    def settings(self) -> dict:
        return {"codec": self.kind}


class Identity(Check):
    """The reference itself: what the metrics give at best."""

    kind, description = "identity", "the reference itself"

    def round_trip(self, audio: Tensor) -> Tensor:
        return audio


class Flip(Check):
    """Polarity of both channels flipped: inaudible, and no metric here should mind."""

    kind, description = "flip", "the reference with its polarity flipped"

    def round_trip(self, audio: Tensor) -> Tensor:
        return -audio


class Mono(Check):
    """Both channels replaced by their mean: Mid is kept, Side is lost."""

    kind, description = "mono", "the reference folded down to mono"

    def round_trip(self, audio: Tensor) -> Tensor:
        return audio.mean(dim=0, keepdim=True).repeat(2, 1)
