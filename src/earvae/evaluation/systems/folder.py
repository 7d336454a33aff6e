"""Reconstructions that somebody else has made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from earvae.audio import AudioFileError, AudioSource, sha256_of
from earvae.evaluation.align import MAX_LAG
from earvae.evaluation.excerpts import (
    RECONSTRUCTION_ENDING,
    SAMPLE_RATE,
    Excerpt,
    Track,
    read_stretch,
    references,
)
from earvae.evaluation.systems.system import Reconstruction, System, UnusableSystem
from earvae.tracks import MusicFile, audio_suffixes, printable

ORIGINALS = ("original", "reference")


class Folder(System):
    """Reconstructions that lie in a folder, of the whole tracks, at any rate.

    A track ``a/song.flac`` has its reconstruction in ``a/song_vae_rec.*`` (the published naming)
    or ``a/song.*`` below the folder, in any format that can be read.

    Raises UnusableSystem where there is no such folder.
    """

    settings = {"codec": "folder"}

    def __init__(self, folder: Path, name: str) -> None:
        if not folder.is_dir():
            raise UnusableSystem(f"folder:{folder}: no such folder")
        self.folder, self.name = folder, name
        self.description = f"ready reconstructions in {folder.name or folder}"

    def settings_for(self, track: Track) -> dict:
        return self.settings | {"content": sha256_of(self.file_of(track))}

    def file_of(self, track: Track) -> Path:
        """The reconstruction of a track. Raises UnusableSystem where there is none, or several."""
        name = Path(track.name)
        for stem in (name.stem + RECONSTRUCTION_ENDING, name.stem):
            if found := _only(self.folder / name.parent, stem, track.path):
                return found
        raise UnusableSystem(f"{self.folder}: no reconstruction of {printable(track.name)}")

    def round_trip(self, audio: Tensor) -> Tensor:
        raise UnusableSystem(f"{self.name}: holds ready files; no other sound can go through it")

    def reconstruct(self, excerpt: Excerpt) -> Reconstruction:
        if excerpt.loud:
            raise UnusableSystem(
                f"{self.name}: holds ready files, of music as it is; leave out --loud"
            )
        margin = MAX_LAG / SAMPLE_RATE
        source = AudioSource(self.file_of(excerpt.track), downmix=True)
        start = max(0.0, excerpt.start - margin)
        audio = read_stretch(source, start, excerpt.start - start + excerpt.seconds + margin)
        if not audio.shape[1]:
            raise AudioFileError(f"{source.path}: holds nothing of the stretch that is compared")
        return Reconstruction(audio, lead=round((excerpt.start - start) * SAMPLE_RATE))


class Beside(Folder):
    """Reconstructions that lie beside their references: ``<name>.*`` in the same folder, in any
    format that can be read."""

    def __init__(self, stem: str, name: str) -> None:
        self.stem, self.name = stem, name
        self.description = f"ready reconstructions named {stem}"

    def file_of(self, track: Track) -> Path:
        if found := _only(track.path.parent, self.stem, track.path):
            return found
        raise UnusableSystem(f"{track.path.parent}: no {self.stem}.* beside {track.path.name}")


class Offered(Beside):
    """The same, of systems that may be missing beside some of the references."""

    def is_for(self, track: Track) -> bool:
        return _only(track.path.parent, self.stem, track.path) is not None


def compared(music: Iterable[MusicFile]) -> tuple[list[Track], list[str]]:
    """Of folders that hold an ``original.*`` (or ``reference.*``) and reconstructions beside it:
    the originals, and the names of the reconstructions, sorted."""
    files = list(music)
    tracks = references(file for file in files if Path(file.name).stem.lower() in ORIGINALS)
    taken = {track.path for track in tracks}
    places = {path.parent for path in taken}
    paths = (Path(file.path) for file in files)
    names = {p.stem for p in paths if p.parent in places and p not in taken}
    return tracks, sorted(names)


def _only(folder: Path, stem: str, reference: Path) -> Path | None:
    """The file ``stem.*`` of a folder that is not the reference, one in its format first; None
    where there is none. Raises UnusableSystem where there are several."""
    wanted = [folder / (stem + suffix) for suffix in (reference.suffix, *sorted(audio_suffixes()))]
    found = [p for p in dict.fromkeys(wanted) if p.is_file() and not p.samefile(reference)]
    if len(found) > 1 and found[0] != wanted[0]:
        names = ", ".join(path.name for path in found)
        raise UnusableSystem(f"{folder}: several files could be it: {names}; keep one")
    return found[0] if found else None
