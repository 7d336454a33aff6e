"""Sound for the page: gains for fair listening, and files that a page on disk can load.

A page that is opened from disk may not fetch files, and what its <audio> elements play cannot
be looked at or switched to the sample. So each version is a FLAC or Opus file in base64 inside a
script, which the page loads when it needs it and decodes itself.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile

from earvae.audio import resample
from earvae.errors import EarvaeError
from earvae.evaluation.metrics.loudness import Loudness
from earvae.signals import held

TARGET_LUFS = -14.0
CEILING_DB = -1.0  # true peak of what is played
MOST_MATCHING_DB = 12.0  # a version that is nearly silent is not raised to the others
BLOCK = 1 << 18  # samples
OPUS_RATE = 48_000
OPUS_LEVEL = 0.5  # of libsndfile: about 260 kb/s

Kind = Literal["flac", "opus"]


class SoundError(EarvaeError):
    """A kind of sound file that cannot be written here."""


@dataclass(frozen=True)
class Gains:
    """How loud the versions of one track are played, in dB.

    ``gain`` is applied to all versions of a track, so that errors of level stay audible.
    ``matching`` is what each version needs on top of it to be as loud as all the others.
    """

    gain: float
    limited: bool
    """Whether the ceiling of the peaks kept ``gain`` from reaching the target."""
    loudness: float | None
    """LUFS at which the reference then plays."""
    matching: list[float]
    matched_loudness: float | None


def playback_gains(versions: Sequence[Loudness]) -> Gains:
    """Gains for the versions of one track, the reference first.

    A peak (``true_peak_db``) of None is that of silence, and so is a loudness of None.
    """
    reference = versions[0].lufs
    room = [CEILING_DB - (v.true_peak_db or 0.0) for v in versions]
    wanted = 0.0 if reference is None else TARGET_LUFS - reference
    gain = min([wanted, *room])
    limited = gain < wanted - 0.005
    if reference is None:
        return Gains(gain, limited, None, [0.0] * len(versions), None)
    usual = [v.lufs is not None and reference - v.lufs < MOST_MATCHING_DB for v in versions]
    reached = [v.lufs + r for v, r, u in zip(versions, room, usual, strict=True) if u]
    common = min([TARGET_LUFS, *reached])
    matching = [
        common - v.lufs - gain if matched else 0.0
        for v, matched in zip(versions, usual, strict=True)
    ]
    return Gains(gain, limited, reference + gain, matching, common)


def flac(audio: np.ndarray, rate: int, gain_db: float) -> bytes:
    """Audio, float32 ``[samples, 2]``, as 16-bit FLAC with TPDF dither.

    The dither is the same for every version, so that equal audio stays equal and differences are
    those of the audio.
    """
    file = io.BytesIO()
    noise = np.random.default_rng(0)
    scale = np.float32(10 ** (gain_db / 20) * 32768)
    with held(), soundfile.SoundFile(file, "w", rate, 2, "PCM_16", format="FLAC") as output:
        for first in range(0, len(audio), BLOCK):
            output.write(_dithered(audio[first : first + BLOCK] * scale, noise))
    return file.getvalue()


def opus(audio: np.ndarray, rate: int, gain_db: float) -> bytes:
    """Audio, float32 ``[samples, 2]``, as Opus at about 260 kb/s, resampled to 48 kHz.

    Equal audio stays equal. Raises SoundError where libsndfile or soundfile is too old for it.
    """
    file = io.BytesIO()
    scale = np.float32(10 ** (gain_db / 20))
    blocks = (scale * audio[first : first + BLOCK].T for first in range(0, len(audio), BLOCK))
    try:
        with (
            held(),
            soundfile.SoundFile(
                file, "w", OPUS_RATE, 2, "OPUS", format="OGG", compression_level=OPUS_LEVEL
            ) as output,
        ):
            for block in resample(blocks, rate, OPUS_RATE):
                output.write(block.T)
    except (TypeError, ValueError, soundfile.LibsndfileError):
        raise SoundError(
            "Opus sound needs soundfile 0.13 and libsndfile 1.0.29 or later (pip install -U "
            "soundfile); FLAC needs neither"
        ) from None
    return file.getvalue()


ENCODERS: dict[Kind, Callable[[np.ndarray, int, float], bytes]] = {"flac": flac, "opus": opus}


def script(key: str, data: bytes) -> str:
    """JavaScript that hands ``data`` to the page under ``key``."""
    return f'earvaeSound({json.dumps(key)}, "{base64.b64encode(data).decode()}");\n'


def _dithered(block: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    """Samples in units of the last bit, plus triangular noise of two such units, as integers."""
    first, second = noise.random((2, *block.shape), dtype=np.float32)
    return np.clip(np.rint(block + first - second), -32768, 32767).astype(np.int16)
