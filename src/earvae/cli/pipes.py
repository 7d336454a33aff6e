"""``-``: standard input or standard output in the place of a file.

Sound and latents are checked before they are read and written whole or not at all, which needs
files; so what is piped goes through a temporary one.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from earvae.cli.errors import usage_error

STANDARD = Path("-")
NUMPY = b"\x93NUMPY"


def check(inputs: list[Path], output: Path, one_file: bool) -> None:
    """Whether ``-`` can be meant; else a usage error."""
    if STANDARD in inputs:
        if len(inputs) > 1:
            usage_error("-: standard input is one file; name nothing else")
        if sys.stdin.isatty():
            usage_error("-: standard input is a terminal; pipe a file into this command")
        if not one_file:
            usage_error(f"{output}: name a file; what comes from standard input has no name")
    if output == STANDARD:
        if not one_file:
            usage_error("-o -: standard output takes one file; name a folder for several")
        if sys.stdout.isatty():
            usage_error("-o -: standard output is a terminal; pipe it into a file or a command")


@contextmanager
def files(source: Path, target: Path, ending: str, latents: bool) -> Iterator[tuple[Path, Path]]:
    """A source and a target on the disk in the place of those that are ``-``. ``ending`` is the
    target's suffix; ``latents``: the source holds them, and not sound.

    Standard input is read to its end first; standard output is written when all has gone well.
    """
    if STANDARD not in (source, target):
        yield source, target
        return
    with tempfile.TemporaryDirectory(prefix="earvae-") as folder:
        read = _spooled(Path(folder), latents) if source == STANDARD else source
        write = Path(folder) / f"output{ending}" if target == STANDARD else target
        yield read, write
        if target == STANDARD:
            with write.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _spooled(folder: Path, latents: bool) -> Path:
    """Standard input as a file. Sound is known by its content, latents by their suffix."""
    begin = sys.stdin.buffer.read(len(NUMPY))
    suffix = (".npy" if begin == NUMPY else ".safetensors") if latents else ""
    path = folder / f"input{suffix}"
    with path.open("wb") as file:
        file.write(begin)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path
