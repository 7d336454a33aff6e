"""Writing audio files: whole or not at all, with a policy for peaks beyond full scale."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from earvae import atomic
from earvae.audio.reading import BLOCK_SAMPLES, AudioFileError, ForwardFile, name_of, reason_of
from earvae.errors import EarvaeError

CONTAINERS = {
    ".wav": "WAV",
    ".flac": "FLAC",
    ".aiff": "AIFF",
    ".aif": "AIFF",
    ".w64": "W64",
    ".rf64": "RF64",
    ".caf": "CAF",
}
SUBTYPES = ("float", "pcm_16", "pcm_24", "pcm_32")
RIFF_LIMIT = 2**32 - 2**16  # bytes of audio a RIFF header can count, with room for the header

ClipPolicy = Literal["none", "clamp", "rescale"]


class OutputFormatError(EarvaeError):
    """Output options that do not go together; the message says which to give."""


@dataclass(frozen=True)
class OutputFormat:
    """How audio is written; see :func:`output_format`."""

    container: str
    subtype: str
    clip: ClipPolicy

    @property
    def integer(self) -> bool:
        """Whether samples beyond ±1 cannot be stored."""
        return self.subtype != "FLOAT"


def output_format(
    suffix: str, subtype: str | None = None, clip: ClipPolicy | None = None
) -> OutputFormat:
    """The format of files that end in ``suffix``, such as ``.wav``.

    Samples are float32 unless ``subtype`` (``float``, ``pcm_16``, ``pcm_24``, ``pcm_32``) says
    otherwise; FLAC holds integers only and takes ``pcm_24``. Decoded audio may exceed full
    scale, which integers cannot hold. What becomes of it is the ``clip`` policy:

    - ``none``: samples are left alone; an integer file that would overshoot is refused.
    - ``clamp``: samples beyond ±1 are cut to ±1.
    - ``rescale``: if the peak exceeds 1, the whole file is multiplied by 1/peak.

    Unless one is given, integers are rescaled, which loses nothing but level and is reported, and
    floats are left alone. Raises OutputFormatError.
    """
    container = CONTAINERS.get(suffix.lower())
    if container is None:
        raise OutputFormatError(
            f"cannot write {suffix or 'a file without a suffix'}; "
            f"use one of {', '.join(CONTAINERS)}"
        )
    if subtype is None:
        subtype = "pcm_24" if container == "FLAC" else "float"
    if subtype not in SUBTYPES:
        raise OutputFormatError(f"unknown subtype {subtype}; use one of {', '.join(SUBTYPES)}")
    if not soundfile.check_format(container, subtype.upper()):
        raise OutputFormatError(f"{container} files cannot hold {subtype} samples")
    return OutputFormat(
        container, subtype.upper(), clip or ("none" if subtype == "float" else "rescale")
    )


@dataclass(frozen=True)
class Written:
    """What was written: ``peak`` of the audio as it came (full scale 1), the ``gain`` applied to
    all of it, and how many values were ``clamped``."""

    peak: float
    gain: float
    clamped: int


def write(
    path: str | Path,
    blocks: Iterable[np.ndarray],
    rate: int,
    channels: int,
    samples: int,
    output: OutputFormat,
) -> Written:
    """Write blocks ``[channels, n]``, ``samples`` in all, atomically.

    The file appears under its name only when it is complete. WAV becomes RF64 where RIFF's
    32-bit sizes do not suffice. With the policies that must know the peak first (``rescale``,
    and ``none`` into integers), the audio goes through an unnamed float32 file beside the
    target. Raises WriteError where the folder cannot be written, AudioFileError where the disk is
    full or an overshoot is refused.
    """
    path = Path(path)
    peak, gain, clamped = 0.0, 1.0, 0
    with atomic.file(path) as temporary, tempfile.TemporaryFile(dir=temporary.parent) as spool:
        if output.clip == "rescale" or (output.clip == "none" and output.integer):
            for block in blocks:
                peak = max(peak, _peak(path, block))
                spool.write(np.ascontiguousarray(block.T, np.float32).tobytes())
            if output.clip == "none" and peak > 1:
                raise AudioFileError(
                    f"{path}: not written: the peak is {peak:.3f} and {output.subtype} ends at 1; "
                    "use --clip rescale or --clip clamp, or write float"
                )
            gain = 1 / max(peak, 1.0)
            spool.seek(0)
            blocks = _spooled(spool, channels)
        container = output.container
        width = {"PCM_16": 2, "PCM_24": 3}.get(output.subtype, 4)  # bytes of a value
        if container == "WAV" and samples * channels * width > RIFF_LIMIT:
            container = "RF64"
        with _opened_to_write(path, temporary, rate, channels, container, output.subtype) as file:
            for block in blocks:
                peak = max(peak, _peak(path, block))
                if gain != 1:
                    block = block * np.float32(gain)
                if output.clip == "clamp":
                    clamped += int(np.count_nonzero(np.abs(block) > 1))
                    block = block.clip(-1, 1)
                try:
                    file.write(np.ascontiguousarray(block.T))
                except (soundfile.SoundFileError, AssertionError):
                    raise AudioFileError(f"{path}: writing failed; is the disk full?") from None
        _verify(path, temporary, samples)
    return Written(peak, gain, clamped)


def _opened_to_write(
    path: Path, temporary: Path, rate: int, channels: int, container: str, subtype: str
) -> ForwardFile:
    try:
        return ForwardFile(name_of(temporary), "w", rate, channels, subtype, format=container)
    except soundfile.SoundFileError as error:
        raise AudioFileError(
            f"{path}: {container} cannot hold {channels} channels of {subtype} at {rate} Hz "
            f"({reason_of(error)}); write WAV"
        ) from None


def _verify(path: Path, temporary: Path, samples: int) -> None:
    """What lies on the disk has the length that was meant."""
    try:
        with ForwardFile(name_of(temporary)) as file:
            found = file.frames
    except soundfile.SoundFileError:
        found = 0
    if found != samples:
        raise AudioFileError(
            f"{path}: only {found} of {samples} samples were stored; is the disk full?"
        )


def _peak(path: Path, block: np.ndarray) -> float:
    peak = float(np.abs(block).max(initial=0))
    if not np.isfinite(peak):
        raise AudioFileError(
            f"{path}: not written: the model returned NaN or infinity; check its weights"
        )
    return peak


def _spooled(spool, channels: int) -> Iterator[np.ndarray]:
    size = BLOCK_SAMPLES * channels * 4
    while data := spool.read(size):
        yield np.frombuffer(data, np.float32).reshape(-1, channels).T
