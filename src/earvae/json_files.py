"""JSON of other people: read within bounds, and refused in one line that names the file.

Every JSON text that is not our own of this very run goes through here: configs, sidecars, indexes,
statistics, manifests, results. What holds the values is then a typed model (:func:`typed`).
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from earvae.errors import EarvaeError
from earvae.regular import ReadError, read_regular

if TYPE_CHECKING:
    from pydantic import BaseModel

LIMIT_BYTES = 64 * 2**20  # lists of nothing take up to forty times as much memory as text
LARGEST = 2**63  # numbers beyond it are no count, rate or size of anything
_LONG = re.compile("[0-9]{19}")  # digits that may be such a number

Kind = TypeVar("Kind", bound="BaseModel")


class JsonError(EarvaeError, ValueError):
    """A text that is no JSON, or not what it should hold: one line with the file's name."""


def read(path: str | Path, limit_bytes: int = LIMIT_BYTES) -> object:
    """The value in a file of UTF-8 JSON, with or without a byte order mark.

    Raises JsonError: it cannot be read, is longer than ``limit_bytes``, or as :func:`parse` does.
    """
    try:
        data = read_regular(path, limit_bytes)
    except ReadError as error:
        raise JsonError(str(error)) from None
    return parse(data, str(path))


def parse(text: str | bytes, name: str) -> object:
    """The value of a JSON text; ``name`` says whose it is, such as a file and a line.

    Raises JsonError: not UTF-8, no JSON, nested too deep, half a character in a string, or a
    number that is not finite or beyond 64 bits.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(
            text,
            parse_int=_whole if _LONG.search(text) else None,  # masks hold many short ones
            parse_float=_finite,
            parse_constant=_not_a_number,
        )
        if "\\ud" in text.lower():  # names that are not UTF-8 are kept so, anything else is broken
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise JsonError(f"{name}: is not JSON ({error.msg} at {place})") from None
    except UnicodeDecodeError:
        raise JsonError(f"{name}: is not UTF-8 text") from None
    except UnicodeEncodeError:
        raise JsonError(f"{name}: holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise JsonError(f"{name}: is nested too deep") from None
    except ValueError as error:
        raise JsonError(f"{name}: {error}") from None
    return value


def typed(kind: type[Kind], value: object, name: str) -> Kind:
    """The value as a model of this kind. Raises JsonError with the first that does not fit."""
    from pydantic import ValidationError  # the rest of this module does without

    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise JsonError(f"{name}: {f'`{place}`: ' if place else ''}{first['msg']}") from None


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -LARGEST <= (number := int(digits)) < LARGEST:
        raise ValueError("holds a number beyond 64 bits")
    return number


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError("holds a number beyond what is finite")
    return number


def _not_a_number(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is no number")
