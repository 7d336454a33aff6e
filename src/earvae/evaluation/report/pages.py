"""From the folder of an evaluation to the pages of its report."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile

from earvae.evaluation.report import pictures, sound, tables
from earvae.evaluation.report.results import (
    Codec,
    Loudness,
    ReportError,
    Result,
    Results,
    Track,
    read_results,
)


@dataclass
class Version:
    """One player: the reference, or what a codec made of it."""

    name: str
    description: str
    codec: Codec | None = None
    result: Result | None = None
    path: Path | None = None
    """Of the sound; None if there is none, and ``missing`` says why."""
    missing: str = ""
    loudness: Loudness = Loudness()
    files: dict[str, str] = field(default_factory=dict)
    """Relative to the report: "sound", "mid", "side", "mid_difference", "side_difference"."""
    curves: dict[str, str] = field(default_factory=dict)
    """SVG paths."""
    matching: float = 0.0
    """dB that make it as loud as the others."""

    @property
    def sounds(self) -> bool:
        return self.path is not None


@dataclass
class TrackPage:
    """Everything that a track's page shows."""

    track: Track
    folder: str
    versions: list[Version]
    rate: int = 44_100
    frames: int = 0
    top_db: float = 0.0
    """Upper end of the spectrograms' colours."""
    levels_db: tuple[float, float] = (-60.0, 0.0)
    """Ends of the axis of the Mid and Side curves."""
    gains: sound.Gains | None = None
    envelope: list[int] = field(default_factory=list)

    @property
    def href(self) -> str:
        return f"tracks/{self.folder}.html"


def build(out: Path, progress: Callable[[str], None] | None = None) -> Path:
    """Make ``out/report`` of ``out/results.json`` and ``out/audio``; return its index.html.

    The report holds copies of everything that it shows and appears whole or not at all; an
    earlier one is replaced. ``progress`` is called with each track's name.
    Raises ReportError: no results, or results that cannot be understood.
    """
    out = Path(out)
    results = read_results(out / "results.json")
    report = out / "report"
    partial = Path(tempfile.mkdtemp(prefix=".report-", dir=out))
    try:
        partial.chmod(0o755)
        pages = _track_pages(results, out / "audio")
        for page in pages:
            if progress:
                progress(page.track.name)
            _write_media(page, partial)
        _write_pages(results, pages, partial)
        if report.exists():
            shutil.rmtree(report)
        partial.rename(report)
    except (OSError, soundfile.SoundFileError) as error:
        raise ReportError(f"{report}: cannot be made: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report / "index.html"


# ------------------------------------------------------------------------------ what is there


def _track_pages(results: Results, audio: Path) -> list[TrackPage]:
    pages: list[TrackPage] = []
    taken: set[str] = set()
    for track in results.tracks:
        reference = Version("Reference", "the original", loudness=track.loudness)
        versions = [reference] + [
            _version(codec, results.results.get((codec.name, track.name)))
            for codec in results.codecs
        ]
        for version in versions:
            stem = version.codec.name if version.codec else "reference"
            _find_sound(version, audio / track.slug / f"{stem}.wav")
        folder = _file_name(track.slug, taken)
        pages.append(TrackPage(track, folder, versions))
    return pages


def _version(codec: Codec, result: Result | None) -> Version:
    loudness = result.loudness if result else Loudness()
    version = Version(codec.name, codec.description, codec, result, loudness=loudness)
    if result is None:
        version.missing = "no result for this track"
    elif result.error:
        version.missing = result.error
    return version


def _find_sound(version: Version, path: Path) -> None:
    """Set the version's path and peak, or say what is missing."""
    try:
        if not path.is_file():
            raise ValueError("no audio for this track")
        if not soundfile.info(str(path)).frames:
            raise ValueError("no samples")
        peak = sound.peak_db(path)
    except (ValueError, soundfile.SoundFileError) as error:
        version.missing = version.missing or str(error)
        return
    known = version.loudness
    peaks = [p for p in (peak, known.true_peak_db) if p is not None]
    version.loudness = Loudness(known.lufs, known.lra, max(peaks, default=None))
    version.path = path


def _file_name(text: str, taken: set[str]) -> str:
    """A name that every file system and every archive takes, different from those taken."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:80] or "track"
    name, number = stem, 2
    while name.lower() in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name.lower())
    return name


# ------------------------------------------------------------------------------ sound and pictures


def _write_media(page: TrackPage, report: Path) -> None:
    """Sound files and pictures of one track."""
    reference = page.versions[0]
    if reference.path is None:
        return
    page.frames = soundfile.info(str(reference.path)).frames
    page.gains = sound.playback_gains([v.loudness for v in page.versions if v.sounds])
    matching = iter(page.gains.matching)
    folder = report / "media" / page.folder
    folder.mkdir(parents=True)
    spectra: dict[str, np.ndarray] = {}
    for number, version in enumerate(page.versions):
        if not version.sounds:
            continue
        version.matching = next(matching)
        audio, page.rate = _samples(version.path, page.frames)
        if version is reference:
            page.envelope = pictures.envelope(audio)
        own = {
            name: pictures.spectrogram(signal, page.rate)
            for name, signal in pictures.mid_side(audio).items()
        }
        if version is reference:
            spectra, page.top_db = own, pictures.top_of_scale(list(own.values()))
        for name, levels in own.items():
            picture = folder / f"{number}_{name}.webp"
            pictures.write_spectrogram(levels, page.top_db, picture)
            version.files[name] = picture.relative_to(report).as_posix()
            if version is not reference:
                picture = folder / f"{number}_{name}_difference.webp"
                pictures.write_difference(levels, spectra[name], page.top_db, picture)
                version.files[f"{name}_difference"] = picture.relative_to(report).as_posix()
        curves = pictures.curves(audio, page.rate)
        if version is reference:
            page.levels_db = pictures.level_range(curves)
        version.curves = _curve_paths(curves, page.levels_db)
        script = folder / f"{number}.js"
        data = sound.flac(version.path, page.gains.gain, page.frames)
        script.write_text(sound.script(f"{page.folder}/{number}", data), "ascii")
        version.files["sound"] = script.relative_to(report).as_posix()


def _samples(path: Path, frames: int) -> tuple[np.ndarray, int]:
    """float32 ``[frames, 2]``, and the sample rate."""
    audio, rate = soundfile.read(str(path), frames=frames, dtype="float32", always_2d=True)
    audio = audio[:, :2] if audio.shape[1] > 1 else np.repeat(audio, 2, axis=1)
    return np.pad(audio, ((0, frames - len(audio)), (0, 0))), rate


def _curve_paths(curves: pictures.Curves, levels_db: tuple[float, float]) -> dict[str, str]:
    return {
        "mid": pictures.path_data(curves.mid_db, *levels_db),
        "side": pictures.path_data(curves.side_db, *levels_db),
        "correlation": pictures.path_data(curves.correlation, -1, 1),
    }


# ------------------------------------------------------------------------------ pages


def _write_pages(results: Results, pages: list[TrackPage], report: Path) -> None:
    templates = _templates()
    metrics = tables.metrics_of(results)
    parts = ([m for m in metrics if m.in_paper], [m for m in metrics if not m.in_paper])
    groups = [part for part in parts if part]
    common = {"results": results, "pages": pages, "metrics": metrics}
    index = templates.get_template("index.html").render(
        root="",
        groups=[
            {
                "metrics": group,
                "mean": tables.summary_rows(results, group, "mean"),
                "median": tables.summary_rows(results, group, "median"),
            }
            for group in groups
        ],
        counts=tables.tracks_counted(results),
        bands=tables.band_tables(results),
        by_track={p.track.name: tables.track_rows(results, metrics, p.track.name) for p in pages},
        failures=[result for result in results.results.values() if result.error],
        **common,
    )
    _write(report / "index.html", index)
    (report / "tracks").mkdir()
    for number, page in enumerate(pages):
        text = templates.get_template("track.html").render(
            root="../",
            page=page,
            before=pages[number - 1] if number else None,
            after=pages[number + 1] if number + 1 < len(pages) else None,
            groups=[
                {"metrics": group, "rows": tables.track_rows(results, group, page.track.name)}
                for group in groups
            ],
            ticks=pictures.ticks(page.rate),
            times=_times(page.frames / page.rate),
            colours=pictures.colour_stops(),
            range_db=pictures.RANGE_DB,
            difference_db=pictures.DIFFERENCE_DB,
            data=_page_data(results, page),
            **common,
        )
        _write(report / page.href, text)
    static = resources.files("earvae.evaluation.report") / "static"
    with resources.as_file(static) as folder:
        shutil.copytree(folder, report / "static", ignore=shutil.ignore_patterns("__pycache__"))


def _write(path: Path, text: str) -> None:
    """Names of files may hold bytes that are no UTF-8; they are shown as question marks."""
    path.write_text(text, "utf-8", errors="replace")


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("earvae.evaluation.report"),
        autoescape=True,  # names of tracks and codecs may hold anything
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": tables.number, "count": tables.count}
    environment.globals["colours_of_difference"] = {
        "quieter": f"rgb{pictures.QUIETER}",
        "louder": f"rgb{pictures.LOUDER}",
    }
    return environment


def _page_data(results: Results, page: TrackPage) -> dict[str, Any]:
    """What the page's scripts need to know."""
    versions = [
        {
            "name": version.name,
            "script": version.files.get("sound"),
            "key": f"{page.folder}/{number}",
            "matching": version.matching,
        }
        for number, version in enumerate(page.versions)
    ]
    return {
        "report": results.identity,
        "track": page.track.name,
        "rate": page.rate,
        "frames": page.frames,
        "envelope": page.envelope,
        "versions": versions,
    }


def _times(seconds: float) -> list[tuple[str, float]]:
    """Labels of a time axis and their places, 0 to 1: about six, at round times."""
    if not seconds:
        return []
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
    step = next((s for s in steps if seconds / s <= 7), 7200)
    moments = [step * n for n in range(math.floor(seconds / step * 0.97) + 1)]
    return [(_clock(moment, step), moment / seconds) for moment in moments]


def _clock(moment: float, step: float) -> str:
    whole = f"{int(moment // 60)}:{int(moment % 60):02}"
    return whole if step >= 1 else f"{whole}.{round(moment % 1 * 10)}"
