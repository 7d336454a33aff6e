"""Freely licensed stereo music out of Debian packages, with a manifest.

Packages are fetched with ``apt-get download`` and unpacked with ``dpkg-deb`` (nothing is
installed); music inside ``.pk3`` and ``.zip`` archives is unpacked too. The manifest is JSON
Lines, one track a line, paths relative to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import soundfile

MUSIC_PACKAGES = (
    "0ad-data",
    "drascula-music",
    "freedroidrpg-data",
    "fretsonfire-songs-muldjord",
    "fretsonfire-songs-sectoid",
    "hedgewars-data",
    "hyperrogue-music",
    "marsshooter-data",
    "naev-data",
    "nexuiz-music",
    "planetblupi-music-ogg",
    "pushover-data",
    "singularity-music",
    "supertux-data",
    "supertuxkart-data",
    "ufoai-music",
    "warzone2100-music",
    "wesnoth-1.16-music",
    "widelands-data",
)
AUDIO_SUFFIXES = (".ogg", ".oga", ".opus", ".mp3", ".flac", ".wav")
ARCHIVE_SUFFIXES = (".pk3", ".zip")
MANIFEST = "manifest.jsonl"
MIN_SECONDS = 20.0  # shorter files are effects, voices and jingles
MIN_RATE = 44_100


class CorpusError(RuntimeError):
    """A package that could not be fetched or unpacked; the message says what to do."""


@dataclass(frozen=True)
class Track:
    """A line of the manifest. ``file`` and ``licence`` are relative to the manifest."""

    file: str
    package: str
    duration: float  # seconds
    rate: int  # Hz
    channels: int
    licence: str
    sha256: str
    split: str  # train, validation or test


def split_of(sha256: str) -> str:
    """Split by content: of 100 hash values, 90 are train, 5 validation, 5 test."""
    slot = int(sha256[:8], 16) % 100
    return "train" if slot < 90 else "validation" if slot < 95 else "test"


def fetch(package: str, folder: Path) -> Path:
    """Download a Debian package into ``folder`` (kept if already there); its path."""
    folder.mkdir(parents=True, exist_ok=True)
    if found := sorted(folder.glob(f"{package}_*.deb")):
        return found[-1]
    if shutil.which("apt-get") is None:
        raise CorpusError("apt-get not found: this needs a Debian or Ubuntu system")
    done = subprocess.run(
        ["apt-get", "download", package], cwd=folder, capture_output=True, text=True
    )
    found = sorted(folder.glob(f"{package}_*.deb"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise CorpusError(f"{package}: apt-get download failed ({reason}); try `apt-get update`")
    return found[-1]


def unpack(deb: Path, folder: Path) -> None:
    """Unpack the audio and the copyright file of a package into ``folder``.

    The folder appears under its name when it is complete, so an interrupted run starts that
    package again and a complete one is not unpacked twice.
    """
    if folder.is_dir():
        return
    if shutil.which("dpkg-deb") is None:
        raise CorpusError("dpkg-deb not found: install the package dpkg")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                name = member.name.lower()
                wanted = name.endswith(AUDIO_SUFFIXES + ARCHIVE_SUFFIXES)
                if member.isfile() and (wanted or name.endswith("/copyright")):
                    archive.extract(member, unfinished, filter="data")
    if process.returncode:
        raise CorpusError(f"{deb}: dpkg-deb failed with status {process.returncode}")
    for path in sorted(unfinished.rglob("*")):
        if path.suffix.lower() in ARCHIVE_SUFFIXES:
            _unzip_audio(path)
    os.replace(unfinished, folder)


def _unzip_audio(path: Path) -> None:
    """Replace an archive by a folder of the audio in it."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.lower().endswith(AUDIO_SUFFIXES):
                archive.extract(name, path.with_name(path.name + ".d"))
    path.unlink()


def describe(path: Path, root: Path, package: str, licence: Path) -> Track | str:
    """The manifest line of an audio file, or the reason why it is not music for training."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return "unreadable"
    if info.duration < MIN_SECONDS:
        return f"shorter than {MIN_SECONDS:.0f} s"
    if info.channels != 2:
        return "not stereo"
    if info.samplerate < MIN_RATE:
        return f"rate below {MIN_RATE} Hz"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest"
        ) else hashlib.sha256(file.read()).hexdigest()
    return Track(
        file=path.relative_to(root).as_posix(),
        package=package,
        duration=round(info.duration, 3),
        rate=info.samplerate,
        channels=info.channels,
        licence=licence.relative_to(root).as_posix(),
        sha256=digest,
        split=split_of(digest),
    )


def build(
    root: Path,
    packages: Iterable[str] = MUSIC_PACKAGES,
    debs: Path | None = None,
    tell: Callable[[str], None] = print,
) -> list[Track]:
    """Fetch and unpack ``packages`` under ``root`` and write ``manifest.jsonl``; its tracks.

    ``debs`` is where the packages are kept (default: ``root/debs``). A package that fails is
    told and left out; CorpusError is raised if none is left.
    """
    root.mkdir(parents=True, exist_ok=True)
    tracks: dict[str, Track] = {}
    dropped: Counter[str] = Counter()
    for package in packages:
        folder = root / package
        try:
            if not folder.is_dir():
                unpack(fetch(package, debs or root / "debs"), folder)
        except (CorpusError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            tell(f"{package}: left out: {error}")
            continue
        licence = next(iter(sorted(folder.glob("usr/share/doc/*/copyright"))), folder)
        hours = 0.0
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in AUDIO_SUFFIXES or not path.is_file():
                continue
            track = describe(path, root, package, licence)
            if isinstance(track, str):
                dropped[track] += 1
            elif track.sha256 in tracks:
                dropped["duplicate"] += 1
            else:
                tracks[track.sha256] = track
                hours += track.duration / 3600
        tell(f"{package}: {hours:.2f} h")
    if not tracks:
        raise CorpusError("no music found in any package")
    write_manifest(root / MANIFEST, list(tracks.values()))
    for reason, count in sorted(dropped.items()):
        tell(f"left out, {reason}: {count} files")
    for split in ("train", "validation", "test"):
        chosen = [track for track in tracks.values() if track.split == split]
        tell(f"{split}: {len(chosen)} tracks, {sum(t.duration for t in chosen) / 3600:.2f} h")
    return list(tracks.values())


def write_manifest(path: Path, tracks: list[Track]) -> None:
    """Write the manifest, sorted by file, under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lines = [json.dumps(asdict(track)) + "\n" for track in sorted(tracks, key=lambda t: t.file)]
    try:
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
