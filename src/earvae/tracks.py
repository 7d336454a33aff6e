"""Music to work on: folders, manifests in JSON Lines, and files named by themselves.

Training, encoding, packing and evaluation all find their music here, in one order, by one set of
suffixes, with the same splits; what is left out is counted and named.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from earvae import json_files
from earvae.errors import EarvaeError, named, visible
from earvae.json_files import JsonError
from earvae.owned import EVALUATION, listed
from earvae.regular import ReadError, open_regular

SUFFIXES = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .w64 .rf64 .caf .au".split()
)
"""Of files that folders are searched for: those that libsndfile reads. A file named by itself is
tried whatever its suffix."""

MEDIA_SUFFIXES = frozenset(
    ".m4a .m4b .m4r .mp4 .m4v .mov .3gp .aac .wma .wmv .asf .mka .mkv .webm .weba .ac3 .eac3 "
    ".wv".split()
)
"""Of those that are read where PyAV is installed: the extra ``media``."""

OTHER_MUSIC = frozenset(
    ".alac .ape .avi .dff .dsf .dts .flv .kar .mid .midi .mp2 .mp4a .mpc .mpeg .mpg .m4p .ogv .ra "
    ".shn .spx .tak .ts .tta .voc".split()
)
"""Of files with sound that is not read here: left out, but by name."""

MANIFEST = ".jsonl"
TRAIN, VALIDATION = "train", "validation"
HELD_OUT = 0.05  # share of a folder's tracks that is its validation split
FEWEST = 5  # tracks of a folder that has a validation split: of fewer, each is needed to train on
SHOWN = 3  # names in a line
LINE_BYTES = 2**20  # of a manifest at most
MOST_PROBLEMS = 100  # lines of a manifest that are told one by one
NAME_BYTES = 255  # that file systems take


class TracksError(EarvaeError):
    """Music that cannot be found as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class MusicFile:
    """A file that is, by its suffix or its manifest, music. Nothing of it was read.

    ``name`` is its path below the folder (or the manifest's folder) with forward slashes; names
    that are not valid Unicode are held as Python's file system functions hold them. The other
    fields are what a manifest line tells, None where it does not.
    """

    path: str
    name: str
    split: str | None = None
    duration: float | None = None  # seconds
    rate: int | None = None  # Hz
    channels: int | None = None


@dataclass
class Music:
    """What was found: ``files`` in order, and what was not taken.

    ``problems`` has a line for each folder, file or manifest line that was asked for and cannot
    be used: a command that goes on without them ends with status 1. ``left_out`` are the paths
    that are not asked for as far as one can tell, by reason.
    """

    files: list[MusicFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def left_out_lines(self) -> list[str]:
        """One line a reason: how many, and the first names."""
        lines = []
        for reason, paths in self.left_out.items():
            more = ", …" if len(paths) > SHOWN else ""
            names = ", ".join(printable(path) for path in paths[:SHOWN])
            lines.append(f"left out, {reason}: {len(paths)} ({names}{more})")
        return lines


def find(
    inputs: Iterable[str | Path],
    leave_out: str | Path | None = None,
    split: str | None = None,
    suffixes: frozenset[str] | None = None,
) -> Music:
    """The music of folders, of manifests (``.jsonl``), and files named by themselves, in order.

    Folders are searched in the order of their names, files before folders; links to folders are
    followed, each real folder once. Hidden files and folders are left out, and so are results of
    evaluations, and the folder ``leave_out`` (where results go) below another.
    A manifest line is a JSON object with ``file`` (relative to the manifest) and perhaps ``split``,
    ``duration``, ``rate`` and ``channels``.

    ``split`` takes a part: lines of a manifest that say so, or of a folder ``train`` or
    ``validation`` (:func:`held_out`). Files of latents are found in the same way, by their own
    ``suffixes``. Raises TracksError: an input that does not exist, a split of something that has
    none.
    """
    music = Music()
    for entry in map(Path, inputs):
        before, problems = len(music.files), len(music.problems)
        if _is_folder(entry):
            music.files += _of_folder(entry, leave_out, split, suffixes, music)
        elif entry.suffix == MANIFEST:
            listed, bad = read_manifest(entry)
            music.files += [file for file in listed if split in (None, file.split)]
            music.problems += bad
        elif split is not None:
            raise TracksError(
                f"{printable(entry)}: a single file has no splits; name a folder or a manifest "
                f"({MANIFEST}), or leave the split out"
            )
        else:
            music.files.append(MusicFile(str(entry), entry.name))
        if (before, problems) == (len(music.files), len(music.problems)):
            kind = "audio" if suffixes is None else "/".join(sorted(suffixes))
            what = f"files of split {split!r}" if split else f"{kind} files"
            music.problems.append(f"{printable(entry)}: holds no {what}")
    return music


def read_manifest(manifest: str | Path) -> tuple[list[MusicFile], list[str]]:
    """The files of a manifest in JSON Lines, and one line for each of its lines that is none.

    Only line feeds end a line. Files need not exist. Raises TracksError if it cannot be read.
    """
    files: list[MusicFile] = []
    problems: list[str] = []
    bad = 0
    try:
        for number, line in enumerate(_lines(manifest), 1):
            try:
                if line.strip():
                    files.append(_of_line(Path(manifest), line, f"{manifest}: line {number}"))
            except JsonError as error:
                bad += 1
                if bad <= MOST_PROBLEMS:
                    problems.append(str(error))
    except (ReadError, OSError) as error:
        raise TracksError(str(named(manifest, error))) from None
    if bad > MOST_PROBLEMS:
        problems.append(f"{printable(manifest)}: {bad - MOST_PROBLEMS} more lines name no file")
    return files, problems


def held_out(names: Sequence[str]) -> list[bool]:
    """For each name in a folder, whether it is of the validation split: a twentieth, at least one,
    of five or more.

    Chosen by a hash of the name alone, so that more tracks in the folder hardly change what was
    held out before. Tracks that differ in the suffix alone share their fate: they are one song.
    """
    places = [_place(posixpath.splitext(name)[0]) for name in names]
    if len(set(places)) < FEWEST:
        return [False] * len(places)
    limit = max(HELD_OUT, min(places))
    return [place <= limit for place in places]


def audio_suffixes() -> frozenset[str]:
    """Of files that can be read here, with PyAV or without."""
    return SUFFIXES | MEDIA_SUFFIXES if find_spec("av") else SUFFIXES


def stems(names: Sequence[str], taken: frozenset[str] = frozenset()) -> list[str]:
    """Paths below an output folder, without suffix: that of the file where no other file has it (in
    any case of letters) and it is not ``taken``, else with the file's own suffix.

    ``a.wav`` becomes ``a``, unless there is also an ``a.flac``: then ``a.wav`` and ``a.flac``.
    """
    short = [posixpath.splitext(inside(name))[0] for name in names]
    counts = Counter(stem.lower() for stem in short)
    return [
        inside(name) if counts[stem.lower()] > 1 or stem.lower() in taken else stem
        for name, stem in zip(names, short, strict=True)
    ]


def inside(name: str) -> str:
    """The name without what leads out of a folder: a root, or steps to a parent."""
    if name.startswith(("/", "..")):
        return "/".join(part for part in name.split("/") if part not in ("", ".."))
    return name


def fitting(stem: str, ending: str) -> str:
    """The stem of a file name, cut where with ``ending`` it were longer than file systems take; a
    few digits then tell it from others that begin alike."""
    room = NAME_BYTES - len(os.fsencode(ending))
    name = os.fsencode(stem)
    if len(name) <= room:
        return stem
    digits = hashlib.sha256(name).hexdigest()[:8]
    return f"{name[: room - 9].decode('utf-8', 'ignore')}-{digits}"


def identity(path: str | Path) -> object:
    """The same for all names of one file or folder: links and spellings too."""
    try:
        status = os.stat(path)
    except OSError:  # one that will be made, for instance
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def printable(name: str | Path) -> str:
    """A name that any JSON reader and any terminal take, also where it is not valid Unicode."""
    return visible(str(name))


def _of_folder(
    folder: Path,
    leave_out: str | Path | None,
    split: str | None,
    suffixes: frozenset[str] | None,
    music: Music,
) -> list[MusicFile]:
    if split not in (None, TRAIN, VALIDATION):
        raise TracksError(
            f"{printable(folder)}: has the splits {TRAIN} and {VALIDATION}, as any folder; "
            f"{split!r} is none of them"
        )
    names = list(_search(folder, leave_out, suffixes, music))
    if split is not None:
        wanted = split == VALIDATION
        names = [name for name, out in zip(names, held_out(names), strict=True) if out is wanted]
    return [MusicFile(os.path.join(folder, name.replace("/", os.sep)), name) for name in names]


def _search(
    folder: Path, leave_out: str | Path | None, wanted: frozenset[str] | None, music: Music
) -> Iterator[str]:
    """Names of music below a folder. Not recursive: folders may be nested a thousand deep."""
    suffixes = audio_suffixes() if wanted is None else wanted
    own = None if leave_out is None else identity(leave_out)
    seen = {own}
    waiting = [""]  # folders below this one, the next one last
    while waiting:
        below = waiting.pop()
        place = os.path.join(folder, below)
        try:
            if (same := identity(place)) in seen and below:
                if same != own:
                    music.left_out["a link to a folder that was searched already"].append(place)
                continue
            seen.add(same)
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            music.problems.append(
                f"{printable(place)}: folder cannot be read: {error.strerror or error}"
            )
            continue
        folders = []
        ours = _of_evaluations(entries, music)
        for entry in entries:
            if entry.name in ours:
                continue
            suffix = posixpath.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                if suffix in suffixes or _holds(entry.is_dir):
                    music.left_out["hidden"].append(entry.path)
            elif _holds(entry.is_dir):
                folders.append(f"{below}{entry.name}/")
            elif suffix not in suffixes:
                if wanted is None and suffix in MEDIA_SUFFIXES | OTHER_MUSIC:
                    music.left_out[_why_unread(suffix)].append(entry.path)
                continue  # covers, texts, playlists
            elif _holds(entry.is_file):
                yield below + entry.name
            else:
                music.problems.append(
                    f"{printable(entry.path)}: is a broken link, a pipe or a device, not a file"
                )
        waiting += reversed(folders)


def _of_evaluations(entries: list[os.DirEntry[str]], music: Music) -> frozenset[str]:
    """Names in a folder that an evaluation has written there: the same music once more."""
    for entry in entries:
        if entry.name == EVALUATION:
            try:
                return listed(entry.path)
            except ReadError as error:
                music.problems.append(str(error))
    return frozenset()


def _is_folder(entry: Path) -> bool:
    """Whether an input is a folder. Raises TracksError if there is nothing of that name."""
    try:
        return stat.S_ISDIR(os.stat(entry).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise TracksError(f"{printable(entry)}: no such file, folder or manifest") from None
    except OSError as error:
        raise TracksError(f"{printable(entry)}: cannot be used: {error.strerror}") from None


def _lines(manifest: str | Path) -> Iterator[bytes]:
    """Lines of a file, of which one that is too long is cut. Raises ReadError, OSError."""
    with open_regular(manifest) as file:
        while line := file.readline(LINE_BYTES + 1):
            yield line
            while len(line) > LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(LINE_BYTES + 1)


def _of_line(manifest: Path, line: bytes, place: str) -> MusicFile:
    """A file as its manifest line tells it. Raises JsonError, which begins with ``place``."""
    if len(line) > LINE_BYTES:
        raise JsonError(f"{place}: has more than {LINE_BYTES} bytes")
    entry = json_files.parse(line, place)
    if not isinstance(entry, dict) or "file" not in entry:
        raise JsonError(f"{place}: is not a JSON object with a `file`")
    file = entry["file"]
    if not isinstance(file, str) or posixpath.basename(file) in ("", ".", ".."):
        raise JsonError(f"{place}: `file` is not the path of a file")
    if "\0" in file:
        raise JsonError(f"{place}: `file` holds a NUL character")
    if max(len(os.fsencode(part)) for part in file.split("/")) > NAME_BYTES:
        raise JsonError(f"{place}: `file` is longer than a name can be")
    path = os.path.join(manifest.parent, file)
    name = os.path.relpath(path, manifest.parent).replace(os.sep, "/")
    split, duration = entry.get("split"), entry.get("duration")
    return MusicFile(
        path,
        name,
        split if isinstance(split, str) else None,
        float(duration) if _number(duration) and 0 < duration < 1e9 else None,
        _count(entry.get("rate")),
        _count(entry.get("channels")),
    )


def _why_unread(suffix: str) -> str:
    if suffix in MEDIA_SUFFIXES:
        return f"{suffix} needs PyAV (`pip install 'earvae[media]'`)"
    return f"{suffix} is not read here (convert it to FLAC)"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: object) -> int | None:
    return value if _number(value) and isinstance(value, int) and value > 0 else None


def _holds(question: Callable[[], bool]) -> bool:
    """The answer about an entry of a folder; False of a link that leads to itself."""
    try:
        return question()
    except OSError:
        return False


def _place(name: str) -> float:
    """A number from 0 to 1, evenly spread over names."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
