"""Each container, whole and in every way that it may say other than it holds: what every verb
does, as docs/containers.md has it. `python -m tests.test_containers` prints the table."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import soundfile

from earvae.audio import AudioSource, inspect
from earvae.audio.containers import mpeg, ogg
from earvae.errors import EarvaeError
from earvae.evaluation.excerpts import Span, Track, read_excerpt
from earvae.tracks import MusicFile
from earvae.training import sources
from earvae.training.crops import read_samples
from tests.small import white

try:
    from tests import media
except ImportError:  # PyAV is an extra
    media = None

RATE = 48_000
SECONDS = 1.5
DOCUMENT = Path(__file__).parents[1] / "docs" / "containers.md"
ID3V1 = b"TAG" + b"Song".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8)

CONTAINERS = {
    "WAV": ("WAV", "PCM_16"),
    "WAV, ADPCM": ("WAV", "MS_ADPCM"),
    "RF64": ("RF64", "PCM_24"),
    "W64": ("W64", "PCM_16"),
    "AIFF": ("AIFF", "PCM_16"),
    "AIFF-C": ("AIFF", "FLOAT"),
    "CAF": ("CAF", "PCM_16"),
    "CAF, ALAC": ("CAF", "ALAC_16"),
    "AU": ("AU", "PCM_16"),
    "FLAC": ("FLAC", "PCM_16"),
    "Ogg Vorbis": ("OGG", "VORBIS"),
    "Ogg Opus": ("OGG", "OPUS"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
}
BY_PYAV = {
    "M4A, AAC": ("ipod", "aac"),
    "M4A, ALAC": ("ipod", "alac"),
    "MOV, PCM": ("mov", "pcm_s16le"),
    "WebM, Opus": ("webm", "libopus"),
    "Matroska, FLAC": ("matroska", "flac"),
    "WMA": ("asf", "wmav2"),
    "AAC": ("adts", "aac"),
    "AC-3": ("ac3", "ac3"),
    "WavPack": ("wv", "wavpack"),
}
SHORTER = {"WMA": 2048 / RATE}  # seconds: the decoder withholds half a frame at the end
WAYS = ("whole", "cut at 60 %", "chained", "tag behind", "count unknown", "too small", "too large")
REFUSALS = {"cut off": "cut off", "bytes lie behind": "bytes behind the audio",
            "several files": "several files"}  # fmt: skip


def made(folder: Path, container: str, seconds: float = SECONDS, seed: int = 0) -> bytes:
    path = folder / "made"
    audio = white(seconds, 2, RATE, seed)
    if container in BY_PYAV:
        media.write(path, audio, RATE, *BY_PYAV[container])
    else:
        form, subtype = CONTAINERS[container]
        soundfile.write(path, audio, RATE, format=form, subtype=subtype)
    return path.read_bytes()


# ------------------------------------------------------------------------------ other counts


def counted(container: str, data: bytes, change: Callable[[int], int | None]) -> bytes | None:
    """The file with another count where it tells one; None of it: unknown. None: there is none,
    or (of those that PyAV reads) what is counted is the table that says where the audio lies."""
    if container in BY_PYAV:
        return None
    if container.startswith("Ogg"):
        return _ogg_counted(data, change)
    if container == "MP3":
        return _mp3_counted(data, change)
    if container == "FLAC":
        told = int.from_bytes(data[18:26], "big")
        count = change(told & 2**36 - 1) or 0
        return data[:18] + (told >> 36 << 36 | count).to_bytes(8, "big") + data[26:]
    name, form, unknown = {
        "WAV": (b"data", "<I", 2**32 - 1),
        "RF64": (b"ds64", "<Q", 0),
        "W64": (b"data", "<Q", 2**63 - 1),
        "AIFF": (b"SSND", ">I", 2**32 - 1),
        "AIFF-C": (b"SSND", ">I", 2**32 - 1),
        "CAF": (b"data", ">Q", 2**64 - 1),
        "AU": (b".snd", ">I", 2**32 - 1),
    }[container.split(",")[0]]
    place = data.index(name) + {"W64": 16, "RF64": 16, "AU": 8}.get(container, 4)
    (told,) = struct.unpack_from(form, data, place)
    count = change(told)
    if count is None:
        count = unknown
    if count is None or "," in container and count == unknown:
        return None
    size = struct.calcsize(form)
    return data[:place] + struct.pack(form, count) + data[place + size :]


def _ogg_counted(data: bytes, change) -> bytes | None:
    """Only the last page tells how long it is; unknown: it does not say that it is the last."""
    path = Path(TEMPORARY.name) / "pages"
    path.write_bytes(data)
    with path.open("rb") as file:
        pages = [page for _, page in ogg.pages(file, 0, len(data))]
    count = change(pages[-1].granule)
    if count is None:
        pages[-1] = replace(pages[-1], flags=pages[-1].flags & ~ogg.LAST)
    elif count < pages[-1].granule:
        return None  # an encoder says so where the audio ends inside the last packets
    else:
        pages[-1] = replace(pages[-1], granule=count)
    return b"".join(page.pack() for page in pages)


def _mp3_counted(data: bytes, change) -> bytes:
    place = max(data.find(b"Xing"), data.find(b"Info"))
    count = change(struct.unpack_from(">I", data, place + 8)[0])
    if count is None:
        return data[mpeg._frame(data[:4], 0).size :]
    return data[: place + 8] + struct.pack(">I", count) + data[place + 12 :]


def changed(folder: Path, container: str, way: str) -> tuple[bytes | None, float]:
    """The file in one of ``WAYS``, and how many seconds of audio lie in it."""
    data = made(folder, container)
    if way == "cut at 60 %":
        return data[: len(data) * 6 // 10], SECONDS
    if way == "chained":
        return data + made(folder, container, 1.0, seed=1), SECONDS + 1
    if way == "tag behind":
        return data + APE + ID3V1, SECONDS
    changes: dict[str, Callable[[int], int | None]] = {
        "count unknown": lambda told: None,
        "too small": lambda told: told // 2,
        "too large": lambda told: told * 3,
    }
    if way in changes:
        return counted(container, data, changes[way]), SECONDS
    return data, SECONDS


# ------------------------------------------------------------------------------ what reads


def read(path: Path) -> int:
    """reconstruct, encode, library and pack."""
    return sum(block.shape[1] for block in AudioSource(path).blocks())


def evaluate(path: Path) -> int:
    excerpt = read_excerpt(Track(path, path.name, "a"), Span(None, 0.0))
    return round(excerpt.seconds * RATE)


def train(path: Path) -> int:
    found, left_out = sources.inspect([MusicFile(str(path), path.name)])
    if left_out:
        raise EarvaeError(left_out[0])
    last = read_samples(found[0], found[0].frames - 1000, found[0].frames)
    assert len(last) == 1000
    return found[0].frames


def info(path: Path) -> int | None:
    return inspect(path).header_samples


READERS = {
    "reconstruct, encode, library, pack": read,
    "evaluate": evaluate,
    "train": train,
    "info": info,
}


def answer(path: Path, reader: Callable[[Path], int | None], seconds: float) -> str | None:
    """In words; None where a verb that does not decode says that it does not know."""
    try:
        samples = reader(path)
    except EarvaeError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        (kind,) = [kind for words, kind in REFUSALS.items() if words in str(error)]
        return f"refused: {kind}"
    if samples is None:
        return None
    missing = seconds - samples / RATE
    assert missing > -0.09, f"{-missing:.3f} s too many"  # MP3, AAC are filled up to frames
    return "all" if missing < 1e-3 else f"{samples / RATE:.2f} of {seconds} s"


def row(folder: Path, container: str) -> list[str]:
    """What every verb does, by way."""
    cells = []
    for way in WAYS:
        data, seconds = changed(folder, container, way)
        if data is None:
            cells.append("")
            continue
        path = folder / "file"
        path.write_bytes(data)
        told = seconds - SHORTER.get(container, 0)
        answers = {name: answer(path, reader, told) for name, reader in READERS.items()}
        distinct = set(answers.values()) - {None}
        cells.append(
            distinct.pop()
            if len(distinct) == 1
            else "; ".join(f"{name}: {told}" for name, told in answers.items())
        )
    return cells


def line(container: str, cells: list[str]) -> str:
    return "| " + " | ".join([container, *(cell or "—" for cell in cells)]) + " |"


@pytest.mark.parametrize("container", [*CONTAINERS, *BY_PYAV])
def test_every_verb_does_what_the_documentation_says(tmp_path, container):
    if container in BY_PYAV:
        pytest.importorskip("av")
    told = DOCUMENT.read_text().splitlines()
    assert line(container, row(tmp_path, container)) in told


TEMPORARY = TemporaryDirectory()

if __name__ == "__main__":
    print("| " + " | ".join(["", *WAYS]) + " |")
    for name in (*CONTAINERS, *BY_PYAV):
        print(line(name, row(Path(TEMPORARY.name), name)))
