"""What a sound file announces, held against what it holds, before anything is decoded.

libsndfile reads the first stream of a file, believes its sizes where they are too small, and takes
a file that ends early for one that was meant to. So each family of containers has a module that
finds where its streams lie (:class:`Part`), and that raises :class:`ContainerError` where some of
what is announced is missing. A file may be several streams, one after the other.
"""

from __future__ import annotations

from typing import BinaryIO

from earvae.audio.containers import chunked, flac, media, mpeg, ogg
from earvae.audio.containers.parts import ContainerError, Part, PartFile, bytes_at
from earvae.audio.containers.tags import past_tags

FAMILIES = (chunked, flac, ogg, mpeg, media)
MOST_BEHIND = 4096  # bytes behind the last stream that nobody asks about
MOST_PARTS = 4096

__all__ = ["ContainerError", "Part", "PartFile", "survey"]


def survey(file: BinaryIO, size: int, thorough: bool = True) -> list[Part]:
    """The streams in a file of ``size`` bytes, in their order; none where the container is unknown.

    With ``thorough``, FLAC and Ogg files are read from end to end; without, only their two ends
    are looked at, so that a copy of a file behind itself goes unseen. Raises ContainerError where
    audio is missing or damaged, OSError where the file cannot be read.
    """
    parts: list[Part] = []
    at, last = 0, None
    while (at := past_tags(file, at, size)) < size:
        family = next((one for one in FAMILIES if one.begins(file, at, size)), None)
        if family is None and not parts and (found := mpeg.search(file, at, size)) is not None:
            family, at = mpeg, found  # behind bytes of no meaning
        if family is None:
            break
        streams, at = family.parts(file, at, size, thorough)
        parts += streams
        if len(parts) > MOST_PARTS:
            raise ContainerError(f"is more than {MOST_PARTS} files, one after the other")
        last = family
    if last in (chunked, media) and size - at > MOST_BEHIND and any(bytes_at(file, at, 1 << 20)):
        raise ContainerError(
            f"{size - at} bytes lie behind the audio that its header announces, so the announced "
            "length is wrong, or they do not belong there"
        )
    return parts
