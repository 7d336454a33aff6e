"""The walk of a command through the package: which files it enters, in order.

    python tools/walk.py reconstruct tests/clips/automat.flac -o /tmp/out.wav
    python tools/walk.py info ear_vae_44k.pyt

Runs any ``earvae`` command in this process and records every call of a function of the package.
Prints each file at its first entry, indented by how many files are open above it, then how often
the walk moved from one file to another. Work of other processes is not seen.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
import threading
from pathlib import Path

import earvae

PACKAGE = Path(earvae.__file__).parent
PARTS = ("<module>", "<lambda>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>")


class Walk:
    """Files in the order of their first entry, with their depth, and the moves between files."""

    def __init__(self) -> None:
        self.entered: dict[str, int] = {}
        self.moves = 0
        self._threads = threading.local()

    def __call__(self, frame, event: str, _argument: object) -> None:
        """A profile function for :func:`sys.setprofile`."""
        if event not in ("call", "return"):
            return
        name = frame.f_code.co_filename
        inside = name.startswith(str(PACKAGE)) and frame.f_code.co_name not in PARTS
        if not inside or frame.f_code.co_name[0].isupper():  # the body of a class
            return
        stack = self._threads.__dict__.setdefault("stack", [])
        file = str(Path(name).relative_to(PACKAGE))
        if event == "return":
            if stack:
                stack.pop()
            return
        if not stack or stack[-1] != file:
            self.moves += 1
            self.entered.setdefault(file, len(dict.fromkeys(stack)))
        stack.append(file)


def main() -> None:
    """Walk the command that the arguments are."""
    from earvae.cli.main import app

    for module in pkgutil.walk_packages(earvae.__path__, "earvae."):  # importing is no walk
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)
    walk = Walk()
    threading.setprofile(walk)
    sys.setprofile(walk)
    try:
        app(sys.argv[1:], prog_name="earvae", standalone_mode=False)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        for file, depth in walk.entered.items():
            print("  " * depth + file)
        print(f"{len(walk.entered)} files, {walk.moves} moves")


if __name__ == "__main__":
    main()
