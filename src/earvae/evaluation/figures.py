"""The one table of what is measured.

The terminal, results.json, results.csv, results.md and the listening report all read it: a line
here is a column there. A new metric is a module in ``metrics/`` with a function of two
:class:`Signal` (docs/extend.md shows one), and a line in ``FIGURES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from earvae.evaluation.metrics.evenness import evenness_figures
from earvae.evaluation.metrics.image import OCTAVES, image_figures
from earvae.evaluation.metrics.judges import visqol_figure, zimtohrli_figure
from earvae.evaluation.metrics.lines import LINE_BANDS, line_figures
from earvae.evaluation.metrics.loudness import loudness_figures
from earvae.evaluation.metrics.octaves import BANDS_HZ, octave_figures
from earvae.evaluation.metrics.panning import panning_figures
from earvae.evaluation.metrics.published import published_figures
from earvae.evaluation.metrics.repetition import repetition_figures
from earvae.evaluation.metrics.signal import Signal
from earvae.evaluation.metrics.treble import treble_figures

VERSION = 5  # raised with any change of a definition: results that were kept are then stale
MISSING = "–"

Metric = Callable[[Signal, Signal], "float | dict[str, float]"]
"""A function of reconstruction and target to one number, or to several by their figures' keys."""


class Best(Enum):
    """Which values of a figure are good."""

    HIGHER = ("↑", "higher is better")
    LOWER = ("↓", "lower is better")
    ZERO = ("→ 0", "nearest to zero is best")

    @property
    def arrow(self) -> str:
        return self.value[0]

    @property
    def words(self) -> str:
        return self.value[1]


HIGHER, LOWER, ZERO = Best

PUBLISHED = "Figures over all tracks"
JUDGES = "Perceptual judges"
MORE = "Treble, stereo image and loudness"
IMAGE = "Stereo image by octave"
HEARING = "What the distances do not hear, by octave"


@dataclass(frozen=True)
class Figure:
    """A number that is measured of every reconstruction, and how it is shown.

    Args:
        key: its name in results.json and results.csv.
        label: its name for people.
        unit: or nothing.
        best: which values are good.
        digits: that are shown after the point.
        meaning: half a sentence.
        metric: what computes it, perhaps with others: each metric runs once.
        group: the heading that it stands under in the report.
        factor: that shown values are multiplied with: 100 for shares in per cent.
        short: heading in the compact table of the terminal and results.md, with the unit; figures
            without one are not in it.
        bands: names of bands, of a figure that has a value in each, as ``<key>_<band>``.
    """

    key: str
    label: str
    unit: str
    best: Best
    digits: int
    meaning: str
    metric: Metric
    group: str = MORE
    factor: float = 1.0
    short: str = ""
    bands: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its values in results.json and results.csv."""
        return tuple(f"{self.key}_{band}" for band in self.bands) or (self.key,)

    def text(self, value: float | None) -> str:
        """A value as shown, without its unit."""
        if value is None:
            return MISSING
        return signed(value * self.factor, self.digits, plus=self.best is ZERO)

    def merit(self, value: float) -> float:
        """A number that is larger for better values."""
        return {HIGHER: value, LOWER: -value, ZERO: -abs(value)}[self.best]

    def shown_merit(self, value: float) -> float:
        """The merit of what is shown: equal for values that look equal."""
        return self.merit(round(value * self.factor, self.digits))


_OCTAVES = {"group": IMAGE, "bands": tuple(map(str, OCTAVES))}
_BANDS = {"group": HEARING, "bands": tuple(BANDS_HZ)}
_LINES = {"group": HEARING, "bands": LINE_BANDS}

FIGURES: tuple[Figure, ...] = (
    Figure("mel", "Mel distance", "", LOWER, 3,
           "Multi-resolution distance of A-weighted Mel spectra",
           published_figures, PUBLISHED, short="Mel"),
    Figure("stft", "STFT distance", "", LOWER, 3,
           "Multi-resolution distance of A-weighted spectra",
           published_figures, PUBLISHED, short="STFT"),
    Figure("icpc", "ICPC", "%", HIGHER, 2, "Phase coherence within each channel",
           published_figures, PUBLISHED, 100, short="ICPC %"),
    Figure("ccpc", "CCPC", "%", HIGHER, 2, "Phase coherence between Left and Right",
           published_figures, PUBLISHED, 100, short="CCPC %"),
    Figure("si_sdr", "SI-SDR", "dB", HIGHER, 2, "Scale-invariant ratio of signal to distortion",
           published_figures, PUBLISHED, short="SI-SDR dB"),
    Figure("zimtohrli", "Zimtohrli", "", HIGHER, 2, "Opinion of a model of listeners, 1 to 5",
           zimtohrli_figure, JUDGES, short="Zimtohrli"),
    Figure("visqol", "ViSQOL", "", HIGHER, 2, "Opinion of a model of listeners, 1 to 4.73",
           visqol_figure, JUDGES, short="ViSQOL"),
    Figure("lsd_high", "LSD above 8 kHz", "dB", LOWER, 2, "Log-spectral distance of the treble",
           treble_figures),
    Figure("band_lsd_high", "Band LSD above 8 kHz", "dB", LOWER, 2,
           "Log-spectral distance of the treble's power in bands of 500 Hz", treble_figures),
    Figure("level_high", "Level above 8 kHz", "dB", ZERO, 2,
           "Power of the treble, reconstruction over reference", treble_figures),
    Figure("mid_si_sdr", "Mid SI-SDR", "dB", HIGHER, 2, "SI-SDR of Left + Right", image_figures),
    Figure("side_si_sdr", "Side SI-SDR", "dB", HIGHER, 2, "SI-SDR of Left − Right", image_figures),
    Figure("lufs_difference", "Loudness difference", "LU", ZERO, 2,
           "Integrated loudness, reconstruction − reference", loudness_figures, short="Δ LUFS"),
    Figure("lra_difference", "Range difference", "LU", ZERO, 2,
           "Loudness range, reconstruction − reference", loudness_figures, short="Δ LRA"),
    Figure("true_peak_difference", "True-peak difference", "dB", ZERO, 2,
           "True peak, reconstruction − reference", loudness_figures, short="Δ dBTP"),
    Figure("level_error", "Image level error", "dB", LOWER, 2,
           "Error of the level between the channels, mean over octaves", image_figures),
    Figure("phase_error", "Image phase error", "rad", LOWER, 3,
           "Error of the phase between the channels, mean over octaves", image_figures),
    Figure("coherence_error", "Image coherence error", "", LOWER, 3,
           "Error of the coherence between the channels, mean over octaves", image_figures),
    Figure("level_error", "Level", "dB", LOWER, 2,
           "Error of the level between the channels", image_figures, **_OCTAVES),
    Figure("phase_error", "Phase", "rad", LOWER, 2,
           "Error of the phase between the channels", image_figures, **_OCTAVES),
    Figure("coherence_error", "Coherence", "", LOWER, 3,
           "Error of the coherence between the channels", image_figures, **_OCTAVES),
    Figure("repetition", "Repetition", "", ZERO, 2,
           "Self-similarity at multiples of the codec's frame, beyond the reference's",
           repetition_figures, **_BANDS),
    Figure("evenness", "Evenness", "dB", ZERO, 1,
           "Spectral flatness within 500 Hz and 50 ms, beyond the reference's",
           evenness_figures, **_BANDS),
    Figure("level", "Level", "dB", ZERO, 1, "Power of Mid, reconstruction over reference",
           octave_figures, **_BANDS),
    Figure("sdr", "SDR", "dB", HIGHER, 1, "Power of Mid over that of the difference",
           octave_figures, **_BANDS),
    Figure("panning", "Panning", "dB", ZERO, 1,
           "Level of the quieter channel against the other where it is 12 dB or more below, "
           "reconstruction − reference", panning_figures, **_BANDS),
    Figure("lines_f1", "Lines F1", "", HIGHER, 2,
           "Spectral lines kept and invented, in one number", line_figures, **_LINES),
    Figure("kept", "Lines kept", "", HIGHER, 2,
           "Spectral lines of the reference that are there, over all of them",
           line_figures, **_LINES),
    Figure("invented", "Lines invented", "", LOWER, 2,
           "Spectral lines that are not the reference's, over all of the reference's",
           line_figures, **_LINES),
)  # fmt: skip

BY_KEY: dict[str, Figure] = {key: figure for figure in FIGURES for key in figure.keys}
"""The figure of every key of results.json and results.csv, in order."""


def listed(judges: bool) -> list[Figure]:
    """The figures of an evaluation, with the perceptual judges' or without."""
    return [figure for figure in FIGURES if judges or figure.group != JUDGES]


def of_group(group: str) -> list[Figure]:
    """The figures under a heading."""
    return [figure for figure in FIGURES if figure.group == group]


def measure(
    reconstruction: Signal, target: Signal, wanted: Iterable[Figure] | None = None
) -> dict[str, float | None]:
    """The wanted figures of a reconstruction, by key; None where the target gives one no meaning.

    All but the perceptual judges' where ``wanted`` is None: these take seconds and an extra
    (``metrics.judges.versions`` says whether it is there).
    Raises ValueError: shapes differ, or the signals are no stereo or too short.
    """
    ours, theirs = reconstruction.audio, target.audio
    if ours.shape != theirs.shape:
        raise ValueError(f"reconstruction {list(ours.shape)} and target {list(theirs.shape)} "
                         "differ in shape")  # fmt: skip
    if ours.shape[0] != 2:
        raise ValueError(f"a track is [2, samples], not {list(ours.shape)}")
    found: dict[str, float] = {}
    wanted = listed(judges=False) if wanted is None else [*wanted]
    for metric in dict.fromkeys(figure.metric for figure in wanted):
        value = metric(reconstruction, target)
        if not isinstance(value, dict):
            value = {figure.key: float(value) for figure in wanted if figure.metric is metric}
        found |= value
    keys = [key for figure in wanted for key in figure.keys]
    return {key: found[key] if math.isfinite(found[key]) else None for key in keys}


def groups(figures: Iterable[Figure], with_bands: bool) -> Iterator[tuple[str, list[Figure]]]:
    """Headings and their figures, of one value each or with a value in each band."""
    chosen = [figure for figure in figures if bool(figure.bands) is with_bands]
    for group in dict.fromkeys(figure.group for figure in chosen):
        yield group, [figure for figure in chosen if figure.group == group]


def signed(value: float, digits: int, plus: bool = False) -> str:
    """A number with a true minus sign, never "−0.00"."""
    text = f"{round(value, digits) + 0.0:+.{digits}f}"
    text = text.replace("-", "−")
    return text if plus and round(value, digits) else text.lstrip("+")


def band_name(name: str) -> str:
    """A band's name with its unit: an octave's centre in Hz, or both edges in kHz."""
    if "-" in name:
        return f"{name.replace('-', '–')} kHz"
    return f"{int(name) // 1000} kHz" if int(name) >= 1000 else f"{name} Hz"
