"""Gather freely licensed stereo music from Debian packages, with a manifest (docs/corpus.md).

    python tools/corpus.py corpus
    python tools/corpus.py corpus --package warzone2100-music --package drascula-music

Needs a Debian or Ubuntu system: packages are fetched with ``apt-get download`` and unpacked with
``dpkg-deb`` (nothing is installed); music inside ``.pk3`` and ``.zip`` archives is unpacked too.
Downloads 4 GB into OUT/debs (delete it afterwards if you like) and unpacks 2 GB. Run it again to
go on after an interruption. ``earvae train --data OUT/manifest.jsonl`` trains on the result: JSON
Lines, one track a line, paths relative to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from earvae import atomic
from earvae.errors import EarvaeError

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
MOST_EXPANSION = 20  # times an archive's bytes that its music may take; coded music hardly shrinks
SLACK_BYTES = 1 << 26  # that any archive may take
MANIFEST = "manifest.jsonl"
MIN_SECONDS = 20.0  # shorter files are effects, voices and jingles
MIN_RATE = 44_100
SILENCE = 1e-3  # peak of full scale: -60 dB
PROBES = 8  # seconds of a file, evenly spread, that are looked at for silence
EFFECT_FOLDERS = {"ambient", "sfx", "sounds", "speech"}
# Words that tell apart the versions of one piece, or the stems of one recording.
VARIANT_WORDS = frozenset(
    "alt alternative enhanced extended f fast final full guitar instrumental intro loop looped "
    "mix new old outro remake remaster remastered remix revisited rhythm short slow song "
    "version".split()
)
# Pieces that share a recording under unlike names, found by fingerprint (docs/corpus.md).
SHARED_RECORDINGS = {
    ("freedroidrpg-data", "ambientbattle"): "techbattle",
    ("naev-data", "liftoff"): "launch3chatstart",
    ("supertux-data", "christmas theme"): "theme",
}
SPLITS = ("train", "validation", "test")
VERSION_FILE = "VERSION"


class CorpusError(EarvaeError):
    """A package that could not be fetched or unpacked; the message says what to do."""


@dataclass(frozen=True)
class Track:
    """A line of the manifest. ``file`` and ``licence`` are relative to the manifest."""

    file: str
    package: str
    version: str  # of the package
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


def piece_of(track: Track) -> tuple[str, str]:
    """What the versions of one piece share: the package and the file's name without suffix and
    ``VARIANT_WORDS`` (``menu_enhanced.opus`` is the piece ``menu``). A name made of such words
    alone (``guitar.ogg`` beside ``song.ogg``) stands for its folder. ``SHARED_RECORDINGS`` joins
    those whose names do not tell.
    """
    path = Path(track.file)
    words = [word for word in re.split(r"[\W_]+", path.stem.lower()) if word]
    own = [word for word in words if word not in VARIANT_WORDS]
    name = " ".join(own) if own else path.parent.as_posix()
    return track.package, SHARED_RECORDINGS.get((track.package, name), name)


def keep_pieces_together(tracks: list[Track]) -> list[Track]:
    """Give all versions of a piece one split: train if any hash says so, else validation.

    In that order, so that a version found later can only take a track out of the test split,
    never put one there that a model has been trained on.
    """
    splits: dict[tuple[str, str], str] = {}
    for track in tracks:
        piece = piece_of(track)
        splits[piece] = min(splits.get(piece, track.split), track.split, key=SPLITS.index)
    return [replace(track, split=splits[piece_of(track)]) for track in tracks]


def fetch(package: str, folder: Path) -> Path:
    """Download a Debian package into ``folder`` (kept if already there); its path."""
    folder.mkdir(parents=True, exist_ok=True)
    if found := sorted(folder.glob(f"{package}_*.deb")):
        return found[-1]
    if shutil.which("apt-get") is None:
        raise CorpusError("apt-get not found: this needs a Debian or Ubuntu system")
    unfinished = folder / f".{package}.unfinished"  # so that half a download is never taken for one
    unfinished.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            ["apt-get", "download", package], cwd=unfinished, capture_output=True, text=True
        )
        found = sorted(unfinished.glob(f"{package}_*.deb"))
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise CorpusError(
                f"{package}: apt-get download failed ({reason}); try `apt-get update`"
            )
        return Path(shutil.move(found[-1], folder))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def unpack(
    deb: Path, folder: Path, suffixes: tuple[str, ...] = AUDIO_SUFFIXES + ARCHIVE_SUFFIXES
) -> None:
    """Unpack what has one of ``suffixes`` and the copyright file of a package into ``folder``.

    The folder appears under its name when it is complete, so an interrupted run starts that
    package again and a complete one is not unpacked twice.
    """
    if folder.is_dir():
        return
    if shutil.which("dpkg-deb") is None:
        raise CorpusError("dpkg-deb not found: install the package dpkg")
    command = ["dpkg-deb", "--fsys-tarfile", deb]
    left = _room(deb)
    with atomic.folder(folder) as unfinished:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.lower()
                    wanted = name.endswith(suffixes)
                    left = _less(left, member.size, deb)
                    if member.isreg() and (wanted or name.endswith("/copyright")):
                        archive.extract(member, unfinished, filter="data")
        if process.returncode:
            raise CorpusError(f"{deb}: dpkg-deb failed with status {process.returncode}")
        for path in sorted(unfinished.rglob("*")):
            if path.suffix.lower() in ARCHIVE_SUFFIXES:
                _unzip_audio(path)


def version_of(deb: Path) -> str:
    """The version of a package, as it says itself."""
    done = subprocess.run(
        ["dpkg-deb", "--field", deb, "Version"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def provide(
    package: str,
    folder: Path,
    debs: Path,
    report: Callable[[str], None],
    suffixes: tuple[str, ...] = AUDIO_SUFFIXES + ARCHIVE_SUFFIXES,
) -> tuple[str, Path]:
    """Fetch and unpack a package into ``folder`` unless it is there; its version and copyright
    file. What is unpacked does without ``debs``."""
    if not folder.is_dir():
        report(f"{package}: fetching and unpacking")
        unpack(fetch(package, debs), folder, suffixes)
    if not (folder / VERSION_FILE).is_file():
        (folder / VERSION_FILE).write_text(version_of(fetch(package, debs)) + "\n")
    licence = next(iter(sorted(folder.glob("usr/share/doc/*/copyright"))), folder)
    return (folder / VERSION_FILE).read_text().strip(), licence


def _unzip_audio(path: Path) -> None:
    """Replace an archive by a folder of the audio in it."""
    left = _room(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.lower().endswith(AUDIO_SUFFIXES):
                left = _less(left, member.file_size, path)
                archive.extract(member, path.with_name(path.name + ".d"))
    path.unlink()


def _room(archive: Path) -> int:
    """Bytes that may be unpacked from an archive."""
    return SLACK_BYTES + MOST_EXPANSION * archive.stat().st_size


def _less(left: int, size: int, archive: Path) -> int:
    """Of the room, what is left by a file of ``size`` bytes. Raises CorpusError if it is larger."""
    if size > left:
        raise CorpusError(f"{archive.name}: would become far larger than it is; not unpacked")
    return left - size


def is_silent(path: Path) -> bool:
    """Whether eight seconds spread over the file all stay below -60 dB of full scale.

    Raises soundfile.SoundFileError on a file that does not decode there.
    """
    with soundfile.SoundFile(path) as file:
        for probe in range(PROBES):
            file.seek(int((probe + 0.5) / PROBES * max(0, file.frames - file.samplerate)))
            if np.abs(file.read(file.samplerate, dtype="float32")).max(initial=0.0) >= SILENCE:
                return False
    return True


def describe(path: Path, root: Path, package: str, version: str, licence: Path) -> Track | str:
    """The manifest line of an audio file, or the reason why it is not music for training."""
    if EFFECT_FOLDERS.intersection(path.relative_to(root).parts[:-1]):
        return "in a folder of effects"
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
    try:
        if is_silent(path):
            return "silent"
    except (soundfile.SoundFileError, OSError):
        return "unreadable"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Track(
        file=path.relative_to(root).as_posix(),
        package=package,
        version=version,
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
    report: Callable[[str], None] = print,
) -> list[Track]:
    """Fetch and unpack ``packages`` under ``root`` and write ``manifest.jsonl``; its tracks.

    ``debs`` is where the packages are kept (default: ``root/debs``). A package that fails is
    named and left out; CorpusError is raised if none is left.
    """
    root.mkdir(parents=True, exist_ok=True)
    atomic.sweep(root)
    debs = debs or root / "debs"
    tracks: dict[str, Track] = {}
    dropped: Counter[str] = Counter()
    for package in packages:
        folder = root / package
        try:
            version, licence = provide(package, folder, debs, report)
        except (
            EarvaeError, OSError, subprocess.CalledProcessError, tarfile.TarError,
            zipfile.BadZipFile, zlib.error, RuntimeError,
        ) as error:  # fmt: skip
            report(f"{package}: left out: {error}")
            continue
        hours = 0.0
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in AUDIO_SUFFIXES or not path.is_file():
                continue
            track = describe(path, root, package, version, licence)
            if isinstance(track, str):
                dropped[track] += 1
            elif track.sha256 in tracks:
                dropped["duplicate"] += 1
            else:
                tracks[track.sha256] = track
                hours += track.duration / 3600
        report(f"{package}: {hours:.2f} h")
    if not tracks:
        raise CorpusError("no music found in any package")
    kept = keep_pieces_together(list(tracks.values()))
    lines = [json.dumps(asdict(track)) + "\n" for track in sorted(kept, key=lambda t: t.file)]
    atomic.write(root / MANIFEST, "".join(lines))
    for reason, count in sorted(dropped.items()):
        report(f"left out, {reason}: {count} files")
    for split in SPLITS:
        chosen = [track for track in kept if track.split == split]
        report(f"{split}: {len(chosen)} tracks, {sum(t.duration for t in chosen) / 3600:.2f} h")
    return kept


def main(words: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the music and its manifest.jsonl")
    parser.add_argument("--package", action="append", help="repeat it; default: all known")
    parser.add_argument("--debs", type=Path, help="where packages are kept; default: OUT/debs")
    options = parser.parse_args(words)
    try:
        build(options.out, options.package or MUSIC_PACKAGES, options.debs)
    except (EarvaeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
