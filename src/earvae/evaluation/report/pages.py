"""From the folder of an evaluation to the pages of its report."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np

from earvae import atomic
from earvae.audio import read_audio
from earvae.errors import EarvaeError, about
from earvae.evaluation.figures import band_name, groups
from earvae.evaluation.metrics.loudness import Loudness
from earvae.evaluation.report import cells, curves, sound, spectrograms
from earvae.evaluation.results import Codec, Reference, Result, Results

INDEX_ENVELOPE_POINTS = 225  # of each track's seek bar on the first page


class ReportError(EarvaeError):
    """Sound that cannot be shown: one line that says why."""


@dataclass(frozen=True)
class Presentation:
    """What a report says of itself, and how it sounds."""

    title: str = "Listening report"
    notes: str = ""
    """Plain text for the first page; an empty line begins a paragraph."""
    audio: sound.Kind = "flac"
    """FLAC is exact to 16 bits; Opus is a fifth of it in size, and codes what codecs have made
    once more."""


@dataclass
class Version:
    """One player: the reference, or what a codec made of it."""

    name: str
    description: str
    loudness: Loudness
    codec: Codec | None = None
    result: Result | None = None
    missing: str = ""
    """Why there is no sound, if there is none."""
    files: dict[str, str] = field(default_factory=dict)
    """Relative to the report: "sound", "mid", "side", "mid_difference", "side_difference"."""
    curves: dict[str, str] = field(default_factory=dict)
    """SVG paths."""
    matching: float = 0.0
    """dB that make it as loud as the others."""


@dataclass
class TrackPage:
    """Everything that a track's page shows; the reference is its first version."""

    track: Reference
    versions: list[Version]
    gains: sound.Gains
    frames: int = 0
    top_db: float = 0.0
    """Upper end of the spectrograms' colours."""
    levels_db: tuple[float, float] = (-60.0, 0.0)
    """Ends of the axis of the Mid and Side curves."""
    envelope: list[int] = field(default_factory=list)

    @property
    def href(self) -> str:
        return f"tracks/{self.track.slug}.html"


def build(
    out: str | Path,
    presentation: Presentation = Presentation(),
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Make ``out/report`` of ``out/results.json`` and ``out/audio``; return its index.html.

    The report holds copies of everything that it shows and appears whole or not at all; an
    earlier one is replaced, but for one that something was added to, or that is not ours.
    ``progress`` is called with each track's name.
    Raises ResultsError: no results, or results that cannot be understood; SoundError: no Opus
    here; WriteError.
    """
    out = Path(out)
    results = Results.read(out / "results.json")
    with atomic.folder(out / "report") as partial:
        pages = [_track_page(results, track, out / "audio") for track in results.tracks]
        for page in pages:
            if progress:
                progress(page.track.name)
            encode = sound.ENCODERS[presentation.audio]
            _write_media(page, results.settings.sample_rate, out / "audio", partial, encode)
        _write_pages(results, pages, presentation, partial)
    return out / "report" / "index.html"


def _track_page(results: Results, track: Reference, audio: Path) -> TrackPage:
    """A page, what it shows still to be drawn."""
    versions = [Version("Reference", "the original", track.loudness)]
    for codec in results.codecs:
        result = results.result_of[codec.name, track.name]
        missing = result.error or ""
        if not missing and not (audio / track.slug / f"{codec.name}.wav").is_file():
            missing = "no audio for this track"
        versions.append(
            Version(codec.name, codec.description, result.loudness, codec, result, missing)
        )
    gains = sound.playback_gains([v.loudness for v in versions if not v.missing])
    return TrackPage(track, versions, gains)


# ------------------------------------------------------------------------------ sound and pictures


def _write_media(
    page: TrackPage,
    rate: int,
    sounds: Path,
    report: Path,
    encode: Callable[[np.ndarray, int, float], bytes],
) -> None:
    """Sound files and pictures of one track."""
    matching = iter(page.gains.matching)
    folder = report / "media" / page.track.slug
    folder.mkdir(parents=True)
    reference: dict[str, np.ndarray] = {}  # spectrograms of Mid and Side
    for number, version in enumerate(page.versions):
        if version.missing:
            continue
        version.matching = next(matching)
        audio = _sound(page, version, rate, sounds)
        if audio is None:
            continue
        own = {
            name: spectrograms.spectrogram(signal, rate)
            for name, signal in spectrograms.mid_side(audio).items()
        }
        drawn = curves.curves(audio, rate)
        if not version.codec:
            reference, page.top_db = own, spectrograms.top_of_scale(list(own.values()))
            page.levels_db = curves.level_range(drawn)
            page.frames, page.envelope = len(audio), curves.envelope(audio)
        for name, levels in own.items():
            picture = folder / f"{number}_{name}.webp"
            spectrograms.write_spectrogram(levels, page.top_db, picture)
            version.files[name] = picture.relative_to(report).as_posix()
            if version.codec:
                picture = folder / f"{number}_{name}_difference.webp"
                spectrograms.write_difference(levels, reference[name], page.top_db, picture)
                version.files[f"{name}_difference"] = picture.relative_to(report).as_posix()
        version.curves = _curve_paths(drawn, page.levels_db)
        script = folder / f"{number}.js"
        data = encode(audio, rate, page.gains.gain)
        script.write_text(sound.script(f"{page.track.slug}/{number}", data), "ascii")
        version.files["sound"] = script.relative_to(report).as_posix()


def _sound(page: TrackPage, version: Version, rate: int, sounds: Path) -> np.ndarray | None:
    """``[samples, 2]``, as long as the reference; else None, and the version says why."""
    reference = page.versions[0]
    path = sounds / page.track.slug / f"{version.codec.name if version.codec else 'reference'}.wav"
    try:
        if reference.missing:
            raise ReportError("there is no sound of the reference")
        with about(path):
            audio = read_audio(path, rate).numpy().T
        if audio.shape[1:] != (2,) or len(audio) != (page.frames or len(audio) or 1):
            raise ReportError(f"{path}: is not as long as the reference, or not stereo")
    except EarvaeError as error:
        version.missing = str(error)
        return None
    return audio


def _curve_paths(drawn: curves.Curves, levels_db: tuple[float, float]) -> dict[str, str]:
    return {
        "mid": curves.path_data(drawn.mid_db, *levels_db),
        "side": curves.path_data(drawn.side_db, *levels_db),
        "correlation": curves.path_data(drawn.correlation, -1, 1),
    }


# ------------------------------------------------------------------------------ pages


def _write_pages(
    results: Results, pages: list[TrackPage], presentation: Presentation, report: Path
) -> None:
    templates, rate = _templates(), results.settings.sample_rate
    plain = [figure for figure in results.figures if not figure.bands]
    common = {"results": results, "pages": pages, "metrics": plain, "presentation": presentation}
    listening = _listening_data(results, pages, presentation)
    index = templates.get_template("index.html").render(
        root="",
        groups=[
            {
                "title": title,
                "metrics": group,
                "mean": cells.summary_rows(results, group, "mean"),
                "median": cells.summary_rows(results, group, "median"),
            }
            for title, group in groups(results.figures, with_bands=False)
        ],
        counts=cells.tracks_counted(results),
        bands=[
            {
                "title": title,
                "tables": [(figure, cells.band_rows(results, figure)) for figure in group],
            }
            for title, group in groups(results.figures, with_bands=True)
        ],
        by_track={p.track.name: cells.track_rows(results, plain, p.track.name) for p in pages},
        failures=[r for r in results.results if r.error and not r.missing],
        paragraphs=[p.strip() for p in re.split(r"\n\s*\n", presentation.notes) if p.strip()],
        data=listening,
        **common,
    )
    (report / "index.html").write_text(index, "utf-8")
    test = templates.get_template("mushra.html").render(root="", data=listening, **common)
    (report / "mushra.html").write_text(test, "utf-8")
    (report / "tracks").mkdir()
    for number, page in enumerate(pages):
        text = templates.get_template("track.html").render(
            root="../",
            page=page,
            before=pages[number - 1] if number else None,
            after=pages[number + 1] if number + 1 < len(pages) else None,
            groups=[
                {"metrics": group, "rows": cells.track_rows(results, group, page.track.name)}
                for _, group in groups(results.figures, with_bands=False)
            ],
            rate=rate,
            ticks=spectrograms.ticks(rate),
            times=_times(page.frames / rate) if page.frames else [],
            colours=spectrograms.colour_stops(),
            range_db=spectrograms.RANGE_DB,
            difference_db=spectrograms.DIFFERENCE_DB,
            data=_page_data(results, page, presentation),
            **common,
        )
        (report / page.href).write_text(text, "utf-8")
    static = resources.files("earvae.evaluation.report") / "static"
    with resources.as_file(static) as folder:
        shutil.copytree(folder, report / "static", ignore=shutil.ignore_patterns("__pycache__"))


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("earvae.evaluation.report"),
        autoescape=True,  # names of tracks and codecs may hold anything
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": cells.number, "count": cells.count, "band": band_name}
    environment.globals["colours_of_difference"] = {
        "quieter": f"rgb{spectrograms.QUIETER}",
        "louder": f"rgb{spectrograms.LOUDER}",
    }
    return environment


def _page_data(
    results: Results, page: TrackPage, presentation: Presentation, points: int | None = None
) -> dict[str, Any]:
    """What the page's scripts need to know; the envelope with ``points`` points, or all."""
    versions = [
        {
            "name": version.name,
            "script": version.files.get("sound"),
            "key": f"{page.track.slug}/{number}",
            "matching": version.matching,
            "sanity": bool(version.codec and version.codec.sanity),
        }
        for number, version in enumerate(page.versions)
    ]
    step = -(-len(page.envelope) // points) if points and page.envelope else 1
    peaks = [max(page.envelope[at : at + step]) for at in range(0, len(page.envelope), step)]
    return {
        "report": results.identity,
        "title": presentation.title,
        "audio": presentation.audio,
        "track": page.track.name,
        "href": quote(page.href),
        "rate": results.settings.sample_rate,
        "frames": page.frames,
        "envelope": peaks,
        "versions": versions,
    }


def _listening_data(
    results: Results, pages: list[TrackPage], presentation: Presentation
) -> list[dict[str, Any]]:
    """The tracks that can be heard, for the pages on which one is chosen."""
    return [
        _page_data(results, page, presentation, INDEX_ENVELOPE_POINTS)
        for page in pages
        if page.frames
    ]


def _times(seconds: float) -> list[tuple[str, float]]:
    """Labels of a time axis and their places, 0 to 1: about six, at round times."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
    step = next((s for s in steps if seconds / s <= 7), 7200)
    moments = [step * n for n in range(math.floor(seconds / step * 0.97) + 1)]
    return [(_clock(moment, step), moment / seconds) for moment in moments]


def _clock(moment: float, step: float) -> str:
    whole = f"{int(moment // 60)}:{int(moment % 60):02}"
    return whole if step >= 1 else f"{whole}.{round(moment % 1 * 10)}"
