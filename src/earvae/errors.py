"""The base of everything that earvae refuses: one line that names the file or value and what to do.

Each room has kinds of its own, derived from this one. The command line prints the line and leaves
with status 1. Work on one file of many stands in :func:`about`, so that whatever else goes wrong
there is a line, too, and the others go on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = logging.getLogger("earvae")
"""Tracebacks, at the level of debugging: --debug lets them through."""

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, which terminals obey
    "\u2028-\u202e\u2066-\u2069"  # what breaks lines or turns their direction
    "\ud800-\udfff]"  # bytes that are not UTF-8, halves of characters
)


def visible(text: str) -> str:
    """The text as any terminal and any JSON reader can take it: one line, nothing obeyed.

    Control characters, line separators and changes of direction become escapes such as ``\\x1b``;
    so do bytes of a name that are not UTF-8.
    """
    return _UNSEEN.sub(_escape, text)


class EarvaeError(Exception):
    """Something that cannot be used or done as asked."""

    def __str__(self) -> str:
        return visible(super().__str__())  # names of files are other people's


class WriteError(EarvaeError):
    """A place that cannot be written: disk full, no permission, a name too long, a hub."""


class UnwritableName(WriteError):
    """A name that a file cannot have in that place: the next file may well have one that can."""


class WeightsError(EarvaeError):
    """A model that cannot be loaded: nothing there, damaged, partial, or of another form."""


class ConfigError(EarvaeError, ValueError):
    """A configuration that cannot be used; the message is one line per problem."""

    def __str__(self) -> str:
        return "\n".join(visible(line) for line in Exception.__str__(self).split("\n"))


class Unforeseen(EarvaeError):
    """A defect of earvae, or of a library that it uses, met in a file. ``__cause__`` tells more."""


@contextmanager
def about(name: str | Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes an EarvaeError that names the file.

    What the system refuses and a lack of memory keep their reasons; everything else that nobody
    has thought of becomes Unforeseen.
    """
    try:
        yield
    except EarvaeError:
        raise
    except Exception as error:
        raise named(name, error) from error


def named(name: str | Path, error: Exception) -> EarvaeError:
    """What :func:`about` makes of an error; an EarvaeError itself. Its traceback goes to LOG."""
    LOG.debug("%s", visible(str(name)), exc_info=error)
    reason = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, EarvaeError):
        return error
    if isinstance(error, OSError):
        place = name if error.filename is None else error.filename
        return EarvaeError(f"{place}: {error.strerror or reason or type(error).__name__}")
    if isinstance(error, MemoryError) or "allocate memory" in reason or "out of memory" in reason:
        return EarvaeError(f"{name}: there is not enough memory for this")
    what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return Unforeseen(f"{name}: {what} (a fault in earvae; --debug shows the traceback)")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8, as Python holds it
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
