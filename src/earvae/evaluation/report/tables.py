"""Tables of figures: what each metric is called, how it is written, which value is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from earvae.evaluation.aggregate import HIGHER_IS_BETTER
from earvae.evaluation.report.results import Figures, Results

Better = Literal["higher", "lower", "zero"]
MISSING = "–"


@dataclass(frozen=True)
class Metric:
    """How a figure is shown. ``scale`` is applied first (100 for shares shown in per cent)."""

    key: str
    label: str
    unit: str
    better: Better
    digits: int
    meaning: str
    scale: float = 1.0

    @property
    def in_paper(self) -> bool:
        """Whether it is a column of the paper's table."""
        return self.key in ("mel", "stft", "icpc", "ccpc", "si_sdr")

    @property
    def direction(self) -> str:
        """In words."""
        return {
            "higher": "higher is better",
            "lower": "lower is better",
            "zero": "nearest to zero is best",
        }[self.better]

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "zero": "→ 0"}[self.better]

    def text(self, value: float | None) -> str:
        """The value as shown, without its unit."""
        if value is None:
            return MISSING
        return signed(value * self.scale, self.digits, plus=self.better == "zero")

    def merit(self, value: float) -> float:
        """A number that is larger for better values and equal for values that look equal."""
        shown = round(value * self.scale, self.digits)
        return {"higher": shown, "lower": -shown, "zero": -abs(shown)}[self.better]


KNOWN = (  # the paper's columns first, in its order
    Metric("mel", "Mel distance", "", "lower", 3,
           "Multi-resolution distance of A-weighted Mel spectra"),
    Metric("stft", "STFT distance", "", "lower", 3,
           "Multi-resolution distance of A-weighted spectra"),
    Metric("icpc", "ICPC", "%", "higher", 2, "Phase coherence within each channel", 100),
    Metric("ccpc", "CCPC", "%", "higher", 2, "Phase coherence between Left and Right", 100),
    Metric("si_sdr", "SI-SDR", "dB", "higher", 2,
           "Scale-invariant ratio of signal to distortion"),
    Metric("lsd_high", "LSD above 8 kHz", "dB", "lower", 2,
           "Log-spectral distance of the treble"),
    Metric("treble_lsd", "LSD above 8 kHz", "dB", "lower", 2,
           "Log-spectral distance of the treble"),
    Metric("band_lsd_high", "Band LSD above 8 kHz", "dB", "lower", 2,
           "Log-spectral distance of the treble's power in bands of 500 Hz"),
    Metric("level_high", "Level above 8 kHz", "dB", "zero", 2,
           "Power of the treble, reconstruction over reference"),
    Metric("mid_si_sdr", "Mid SI-SDR", "dB", "higher", 2, "SI-SDR of Left + Right"),
    Metric("side_si_sdr", "Side SI-SDR", "dB", "higher", 2, "SI-SDR of Left − Right"),
    Metric("lufs_difference", "Loudness difference", "LU", "zero", 2,
           "Integrated loudness, reconstruction − reference"),
    Metric("lra_difference", "Range difference", "LU", "zero", 2,
           "Loudness range, reconstruction − reference"),
    Metric("true_peak_difference", "True-peak difference", "dB", "zero", 2,
           "True peak, reconstruction − reference"),
    Metric("level_error", "Image level error", "dB", "lower", 2,
           "Error of the level between the channels, mean over octaves"),
    Metric("phase_error", "Image phase error", "rad", "lower", 3,
           "Error of the phase between the channels, mean over octaves"),
    Metric("coherence_error", "Image coherence error", "", "lower", 3,
           "Error of the coherence between the channels, mean over octaves"),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One figure of a table. ``order`` sorts, ``mark`` is "best", "second" or nothing."""

    text: str
    order: float | None
    mark: str = ""
    note: str = ""
    """Shown under the figure, small."""


def metrics_of(results: Results) -> list[Metric]:
    """Every metric that the results hold: the known ones in their order, then the others."""
    keys = dict.fromkeys(key for _, key in results.summary)
    keys |= dict.fromkeys(key for result in results.results.values() for key in result.metrics)
    known = {metric.key: metric for metric in KNOWN}
    others = [
        Metric(
            key,
            key.replace("_", " "),
            "",
            "higher" if key in HIGHER_IS_BETTER else "lower",
            3,
            "",
        )
        for key in keys
        if key not in known
    ]
    return [metric for metric in KNOWN if metric.key in keys] + others


def marks(values: Mapping[str, float | None], metric: Metric) -> dict[str, str]:
    """Who is "best" and who is "second" among named values. Values that look equal share a mark;
    a single value is not marked, for there is nothing it is better than."""
    merits = {name: metric.merit(value) for name, value in values.items() if value is not None}
    ranks = sorted(set(merits.values()), reverse=True)
    if len(merits) < 2:
        return {}
    names = dict(zip(ranks, ("best", "second"), strict=False))
    return {name: names[merit] for name, merit in merits.items() if merit in names}


def tracks_counted(results: Results) -> dict[str, int]:
    """By codec, the tracks that its best covered metric is a mean of."""
    counts = {codec.name: 0 for codec in results.codecs}
    for (name, _), summary in results.summary.items():
        counts[name] = max(counts.get(name, 0), summary.count)
    return counts


def summary_rows(
    results: Results, metrics: Sequence[Metric], statistic: Literal["mean", "median"]
) -> dict[str, list[Cell]]:
    """By codec, the cells of the table of means (of the codecs with 95 % intervals) or medians."""
    contenders = [codec.name for codec in results.codecs if not codec.sanity]
    rows: dict[str, list[Cell]] = {codec.name: [] for codec in results.codecs}
    for metric in metrics:
        found = {name: results.summary.get((name, metric.key)) for name in rows}
        values = {name: getattr(s, statistic) if s else None for name, s in found.items()}
        marked = marks({name: values[name] for name in contenders}, metric)
        for name, row in rows.items():
            note, summary = "", found[name]
            shown = summary and statistic == "mean" and name in contenders
            if shown and None not in (summary.low, summary.high):
                note = f"{metric.text(summary.low)} … {metric.text(summary.high)}"
            row.append(_cell(metric, values[name], marked.get(name, ""), note))
    return rows


def track_rows(
    results: Results, metrics: Sequence[Metric], track: str
) -> dict[str, list[Cell] | None]:
    """By codec, the cells of one track's table; None for codecs that have no result there."""
    found = {codec.name: results.results.get((codec.name, track)) for codec in results.codecs}
    rows: dict[str, list[Cell] | None] = {
        name: [] if result and result.metrics else None for name, result in found.items()
    }
    contenders = [codec.name for codec in results.codecs if not codec.sanity]
    for metric in metrics:
        values: Figures = {
            name: result.metrics.get(metric.key) if result else None
            for name, result in found.items()
        }
        marked = marks({name: values[name] for name in contenders}, metric)
        for name, row in rows.items():
            if row is not None:
                row.append(_cell(metric, values[name], marked.get(name, "")))
    return rows


@dataclass(frozen=True)
class BandTable:
    """One spatial error by codec and octave, mean over tracks."""

    title: str
    unit: str
    octaves: list[int]
    rows: dict[str, list[tuple[str, float]]]
    """By codec, text and share (0 to 1) of the largest error that a codec makes."""


BANDS = (
    ("level_error", "Inter-channel level error", "dB", 2),
    ("phase_error", "Inter-channel phase error", "rad", 2),
    ("coherence_error", "Inter-channel coherence error", "", 3),
)


def band_tables(results: Results) -> list[BandTable]:
    """The errors of the stereo image per octave band, as far as the results hold them."""
    tables = []
    for key, title, unit, digits in BANDS:
        means: dict[str, dict[int, float]] = {}
        for codec in results.codecs:
            values: dict[int, list[float]] = {}
            for track in results.tracks:
                result = results.results.get((codec.name, track.name))
                for octave, value in _octaves(result.bands if result else {}, key):
                    values.setdefault(octave, []).append(value)
            means[codec.name] = {octave: sum(v) / len(v) for octave, v in values.items()}
        octaves = sorted({octave for row in means.values() for octave in row})
        if not octaves:
            continue
        contenders = [means[codec.name] for codec in results.codecs if not codec.sanity]
        largest = max((v for row in contenders for v in row.values()), default=0.0) or 1.0
        rows = {
            name: [
                (signed(row[octave], digits), min(1.0, row[octave] / largest))
                if octave in row
                else (MISSING, 0.0)
                for octave in octaves
            ]
            for name, row in means.items()
            if row
        }
        tables.append(BandTable(title, unit, octaves, rows))
    return tables


def _octaves(bands: Figures, key: str) -> list[tuple[int, float]]:
    found = []
    for name, value in bands.items():
        stem, _, octave = name.rpartition("_")
        if stem == key and octave.isdigit() and value is not None:
            found.append((int(octave), value))
    return found


def _cell(metric: Metric, value: float | None, mark: str, note: str = "") -> Cell:
    order = None if value is None else value if metric.better != "zero" else abs(value)
    return Cell(metric.text(value), order, mark, note)


def signed(value: float, digits: int, plus: bool = False) -> str:
    """A number with a true minus sign, never "−0.00"."""
    text = f"{round(value, digits) + 0.0:+.{digits}f}"
    text = text.replace("-", "−")
    return text if plus and round(value, digits) else text.lstrip("+")


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number and its unit, or a dash."""
    if value is None:
        return MISSING
    return signed(value, digits) + (f"\u202f{unit}" if unit else "")


def count(value: float | None) -> str:
    """A count, shortened: 950, 12.4 k, 4.5 M."""
    if value is None:
        return MISSING
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}\u202f{letter}"
    return f"{value:.4g}"
