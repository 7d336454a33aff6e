"""What files of latents say of them: the names, what may stand there, and what must agree.

Plain Python, as programs without the rest of the package use it too.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from earvae.audio.reading import RATES
from earvae.errors import EarvaeError

FORMAT = "earvae-latents"
VERSION = "1"
NOT_FINITE = "its latents are not finite; check its level and the model's weights"
MOST_SAMPLES = 1 << 40  # months of any rate


class LatentsError(EarvaeError):
    """Latents or statistics of them that cannot be used; the message names the file."""


class OtherFormat(LatentsError):
    """A file that does not say that it holds latents; it may be whole and good. ``format``: what
    it says instead."""

    format: object = None


def _of(allowed: range | tuple[str, ...], default: Any = MISSING) -> Any:
    """A field of whole numbers in a range, or one of these words."""
    return field(default=default, metadata={"allowed": allowed})


RATE = range(RATES.start, RATES.stop)
COUNT = range(1, MOST_SAMPLES)
PLACE = range(MOST_SAMPLES)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What files say of their latents, under their names and in their order.

    Fields are None where a file does not say. From ``settings`` on, but for ``samples`` and
    ``original_samples``, they are of entries of a library. Samples are counted per channel.
    """

    sample_rate: int = _of(RATE)  # Hz, of the model
    original_rate: int = _of(RATE)  # Hz, of the source
    channels: int = _of(range(1, 3))  # of the source
    hop_length: int = _of(COUNT)  # samples at the model's rate for each frame
    model: str  # EarVAE.identity
    latents: str = _of(("mean", "sample"))
    seed: int | None = _of(range(1 << 63), None)  # of the sample
    normalised: str | None = None  # digest of the statistics; None: as the model gave them
    settings: str | None = None  # digest of the library's settings
    source: str | None = None  # path below the library's input
    source_sha256: str | None = None
    track_samples: int | None = _of(COUNT, None)  # of the whole track, at the model's rate
    samples: int = _of(COUNT)  # at the model's rate
    sample_offset: int | None = _of(PLACE, None)  # in the track
    original_samples: int = _of(COUNT)  # at the source's rate
    original_offset: int | None = _of(PLACE, None)
    frames: int | None = _of(COUNT, None)
    frames_valid: int | None = _of(COUNT, None)  # the mask: what follows is padding
    segment: int | None = _of(PLACE, None)  # from 0, of a track that was cut; None: a whole track
    segments: int | None = _of(COUNT, None)

    @property
    def true_frames(self) -> int:
        """Frames that stand for audio, of files with and without a mask."""
        return -(-self.samples // self.hop_length)

    def values(self) -> dict[str, int | str]:
        """The metadata as JSON holds them, the format's name and version first."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in own.items() if value is not None}
        return {"format": FORMAT, "format_version": VERSION} | given

    @classmethod
    def parse(cls, values: object) -> Metadata:
        """The metadata of a header (strings) or a sidecar; other names are ignored. Raises
        LatentsError (that does not name the file)."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            error = OtherFormat(f"not latents of `earvae encode` (no format={FORMAT})")
            error.format = values.get("format") if isinstance(values, dict) else None
            raise error
        if (version := values.get("format_version")) != VERSION:
            raise LatentsError(f"format version {version}, this program reads {VERSION}; "
                               "update earvae")  # fmt: skip
        known = {}
        for own in fields(cls):
            if own.name not in values:
                if own.default is MISSING:
                    raise LatentsError(f"its metadata have no {own.name}; encode it again")
                continue
            value, allowed = values[own.name], own.metadata.get("allowed")
            number = isinstance(allowed, range)
            if number and isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value):
                value = int(value)
            # The type first: whether a word is in a range is found by going through the range.
            if type(value) is not (int if number else str) or allowed and value not in allowed:
                raise LatentsError(
                    f"its metadata make no sense ({own.name} {value!r:.30}); encode it again"
                )
            known[own.name] = value
        found = cls(**known)
        # Rates and lengths say the same, but for a sample that was rounded at either rate.
        own_length, original = found.samples * found.original_rate, found.original_samples
        if abs(own_length - original * found.sample_rate) > found.sample_rate + found.original_rate:
            raise LatentsError(
                f"its metadata make no sense ({found.samples} samples at {found.sample_rate} Hz "
                f"are not {original} at {found.original_rate} Hz); encode it again"
            )
        return found

    def check(self, frames: int) -> None:
        """Raise LatentsError where latents of so many frames are not what these tell of."""
        padded = self.frames is not None and self.frames_valid is not None
        true = self.true_frames
        if padded and (self.frames, self.frames_valid) != (frames, true):
            told = f"{self.frames} frames, {self.frames_valid} of them valid"
        elif frames < true or not padded and frames > true + 1:
            told = f"{self.samples} samples, {true} frames"
        else:
            return
        raise LatentsError(f"holds {frames} frames, its metadata say {told}; encode it again")
