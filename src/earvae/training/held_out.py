"""Which tracks of a folder are kept out of training, to validate on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

TRAIN, VALIDATION = "train", "validation"
SHARE = 0.05  # of the tracks
FEWEST = 5  # tracks: of fewer, each is needed to train on


def held_out(paths: Sequence[Path], folder: Path) -> list[bool]:
    """For each track in ``folder``, whether it is held out: a twentieth, at least one, of five or
    more.

    Chosen by a hash of the name alone, so that more tracks in the folder hardly change what was
    held out before. Tracks that differ in the suffix alone share their fate: they are one song.
    """
    places = [_place(path.relative_to(folder).with_suffix("").as_posix()) for path in paths]
    if len(set(places)) < FEWEST:
        return [False] * len(places)
    limit = max(SHARE, min(places))
    return [place <= limit for place in places]


def _place(name: str) -> float:
    """A number from 0 to 1, evenly spread over names."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
