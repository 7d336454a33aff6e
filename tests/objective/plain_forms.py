"""The plain forms of docs/objective.md, run: what every hand-written slope is held to.

By automatic differentiation and by finite differences; and what ``benchmarks/objective.py`` times
the single pass against.
"""

from __future__ import annotations

import re
import warnings
from functools import cache, partial
from pathlib import Path

import librosa
import numpy as np
import torch
from torch import Tensor

from earvae.objective.terms import BY_HAND, MAGNITUDE, STEREO

PAGE = Path(__file__).parents[2] / "docs" / "objective.md"


class _Forms:
    """The functions of the page's section as attributes."""

    def __init__(self) -> None:
        section = re.search(r"^## The plain forms$(.*?)^## ", PAGE.read_text(), re.M | re.S)[1]
        blocks = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
        exec(compile("\n".join(blocks), str(PAGE), "exec"), self.__dict__)  # noqa: S102


forms = _Forms()


@cache
def mel_filters(length: int) -> np.ndarray:
    """Bands as librosa has them at 44.1 kHz, as many of 64, 32, … as have a bin each."""
    for count in (64, 32, 16, 8, 4):
        with warnings.catch_warnings(action="ignore"):  # of empty bands, which this looks for
            filters = librosa.filters.mel(sr=44_100, n_fft=length, n_mels=count, dtype=np.float64)
        if filters.any(axis=1).all():
            break
    return filters.astype(np.float32)  # as the objective keeps them


def term(name: str, ours: Tensor, target: Tensor, held: Tensor, config) -> Tensor:
    """One raw term of left-right spectra at one resolution, [batch].

    ``held``: spectra whose magnitudes weigh the bins of the correlation terms.
    """
    form = getattr(forms, name)
    which = config.magnitude_channels if name in MAGNITUDE else config.phase_channels
    which = "lr" if name in STEREO else which
    ours, target, held = (forms.channels(x, which) for x in (ours, target, held.detach()))
    if name == "magnitude_mel":
        filters = mel_filters(2 * (ours.shape[-1] - 1))
        form = partial(form, filters=torch.from_numpy(filters).to(ours.real).T)
    if name.startswith("correlation"):
        form = partial(form, held=held)
    return form(ours, target, config)


def terms(audio: Tensor, target: Tensor, config, held=None, names=BY_HAND) -> dict[str, Tensor]:
    """Raw terms of the config, averaged over items and resolutions.

    ``held``: audio whose magnitudes weigh the bins of the correlation terms, if not ``audio``.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for length in config.resolutions:
        spectra = [forms.stft(x, length) for x in (audio, target, audio if held is None else held)]
        for name in names:
            found[name].append(term(name, *spectra, config).mean())
    return {name: torch.stack(values).mean() for name, values in found.items()}
