"""Perceptual judges: models of listeners that give a mean opinion score, from their own packages.

Zimtohrli (Alakuijala et al., Google; Apache-2.0) and ViSQOL's audio mode (Chinen et al., "ViSQOL
v3", QoMEX 2020; Apache-2.0) as the package visqol-python computes it. docs/measures.md says how
far to trust them. Both take one channel at 48 kHz, so each ear is judged for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module, metadata

import numpy as np
import torch
from torch import Tensor

from earvae.audio import resample
from earvae.errors import EarvaeError
from earvae.evaluation.metrics.octaves import SILENCE
from earvae.evaluation.metrics.signal import Signal

PACKAGES = {"zimtohrli": "zimtohrli", "visqol": "visqol-python"}
"""By the name that is imported, the one that is installed."""
RATE = 48_000  # Hz
PIECE_SECONDS = 30.0  # at most: Zimtohrli's time grows with the square
LEAST_SECONDS = 1.0
WORST = 1.0  # opinion

Judge = Callable[[np.ndarray, np.ndarray], float]
"""Target and reconstruction, float32 ``[samples]`` at 48 kHz, to an opinion, 1 to 5."""


class NoJudges(EarvaeError):
    """Judges that are not installed: one line that names the extra."""


def versions() -> str:
    """The packages and their versions, in one line. Raises NoJudges."""
    for module, package in PACKAGES.items():
        try:
            import_module(module)
        except ImportError:
            raise NoJudges(
                f"the perceptual judges need the package {package}: pip install 'earvae[judges]'"
            ) from None
    return ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES.values())


def zimtohrli_figure(reconstruction: Signal, target: Signal) -> float:
    """Zimtohrli's opinion, 1 to 5, mean over channels and pieces; 5 is the target itself.

    The lower half of its scale is empty: silence in the place of music has about 2.9. NaN for
    less than a second, and where the target is silent. Raises ImportError without the package.
    """
    import zimtohrli

    return _opinion(zimtohrli.mos_from_signals, reconstruction, target)


def visqol_figure(reconstruction: Signal, target: Signal) -> float:
    """ViSQOL's opinion in audio mode, 1 to 4.73, which is the target itself; as above.

    It brings both signals to one level first, so it does not hear the loudness.
    """
    return _opinion(_visqol(), reconstruction, target)


@cache
def _visqol() -> Judge:
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="audio")

    def judge(target: np.ndarray, reconstruction: np.ndarray) -> float:
        pair = target.astype(np.float64), reconstruction.astype(np.float64)
        return float(api.measure_from_arrays(*pair, sample_rate=RATE).moslqo)

    return judge


def _opinion(judge: Judge, reconstruction: Signal, target: Signal) -> float:
    """Mean over the channels that differ and over pieces of up to 30 s that sound."""
    ours, theirs = reconstruction.audio, target.audio
    if all(torch.equal(audio[0], audio[-1]) for audio in (ours, theirs)):
        ours, theirs = ours[:1], theirs[:1]  # both ears hear the same
    opinions = [
        judge(y, x) if _sounds(x) else WORST
        for x, y in zip(_pieces(ours, target), _pieces(theirs, target), strict=True)
        if _sounds(y)
    ]
    return float(np.mean(opinions)) if opinions else math.nan


def _pieces(audio: Tensor, like: Signal) -> Iterator[np.ndarray]:
    """Pieces of equal length of each channel at 48 kHz; none of what lasts under a second."""
    seconds = audio.shape[1] / like.sample_rate
    if seconds < LEAST_SECONDS:
        return
    for channel in audio.float().cpu().numpy():
        blocks = resample([channel[None]], like.sample_rate, RATE)
        whole = np.concatenate(list(blocks), axis=1)[0]
        yield from np.array_split(whole, math.ceil(seconds / PIECE_SECONDS))


def _sounds(piece: np.ndarray) -> bool:
    return bool(np.square(piece).mean() > SILENCE)
