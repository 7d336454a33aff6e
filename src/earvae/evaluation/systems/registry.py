"""Systems by what the command line calls them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from earvae.errors import EarvaeError, about
from earvae.evaluation.systems.checks import CHECKS, Check
from earvae.evaluation.systems.ffmpeg import FORMATS, FfmpegCodec
from earvae.evaluation.systems.folder import Beside, Folder, Offered
from earvae.evaluation.systems.function import Function, RoundTrip, function_of
from earvae.evaluation.systems.linear import LinearBaseline
from earvae.evaluation.systems.models import EarVAESystem, Oobleck
from earvae.evaluation.systems.neural import Dac, Encodec
from earvae.evaluation.systems.system import System

ALONE_TOO = ("earvae", "dac")  # kinds that have a default


class SpecError(EarvaeError):
    """A codec that nothing is known by; the message says which there are."""


def make(spec: str, device: str = "cpu") -> System:
    """The system of a spec such as ``opus:96``, with ``NAME=`` in front to name its row.

    Raises SpecError where the spec itself is wrong, another EarvaeError where what it names cannot
    be set up here.
    """
    if found := re.fullmatch(r"(?:([\w.-]{1,100})=)?((?!python:)[^=]+\.py:[\w.]+)", spec):
        spec = f"{found[1]}=python:{found[2]}" if found[1] else f"python:{found[2]}"
    match = re.fullmatch(r"(?:([\w.-]{1,100})=)?([a-z0-9]+)(?::(.+))?", spec, re.ASCII)
    if not match or match[2] not in _MAKERS:
        kinds = ", ".join(_MAKERS)
        raise SpecError(f"--codec {spec}: unknown; use one of {kinds} (see --help)")
    name, kind, argument = match.groups()
    wants, maker = _MAKERS[kind]
    if (argument is None) != (wants is None) and kind not in ALONE_TOO:
        form = kind if wants is None else f"{kind}:{wants}"
        raise SpecError(f"--codec {spec}: write {form}")
    if wants in ("KBPS", "COMPONENTS") and not re.fullmatch("[1-9][0-9]{0,5}", argument):
        raise SpecError(f"--codec {kind}:{argument}: give a whole number, such as {kind}:96")
    return maker(argument, name, device)


Codecs = Iterable["str | System"] | Mapping[str, "str | RoundTrip | System"]
"""Specs and systems; or by the names of their rows specs, functions, and systems."""


def make_all(codecs: Codecs, device: str = "cpu") -> tuple[list[System], list[str]]:
    """The systems of all codecs, and one line for each that cannot be set up.

    Raises SpecError, also where two would have one name.
    """
    rows = list(codecs.items() if isinstance(codecs, Mapping) else ((None, c) for c in codecs))
    systems: dict[str, System] = {}
    failures = []
    for name, codec in rows:
        spec = codec if isinstance(codec, str) else name or codec.name
        try:
            with about(f"--codec {spec}"):
                system = _row(name, codec, device)
        except SpecError:
            raise
        except EarvaeError as error:
            failures.append(str(error))
            continue
        if (key := system.name.lower()) in systems or key == "reference":  # names of files
            raise SpecError(f"--codec {spec}: the name {system.name} is taken; give another in "
                            f"front: --codec NAME={spec}")  # fmt: skip
        systems[key] = system
    return list(systems.values()), failures


def offered(stems: Iterable[str]) -> list[System]:
    """Systems of reconstructions that lie beside their references, or some of them, as
    ``<stem>.*``."""
    return [Offered(stem, _name_of(stem)) for stem in stems]


def _row(name: str | None, codec: str | RoundTrip | System, device: str) -> System:
    """The system of a codec, under a name if there is one. Raises as :func:`make`."""
    if name is None:
        return codec if isinstance(codec, System) else make(codec, device)
    if not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII):
        raise SpecError(f"{name}: a row's name is letters, digits, dots, - and _")
    if isinstance(codec, str):
        return make(f"{name}={codec}", device)
    if isinstance(codec, System):
        codec.name = name
        return codec
    return Function(codec, name)


def _python(place: str, name: str | None) -> System:
    if not re.fullmatch(r".+:[\w.]+", place):
        raise SpecError(f"--codec python:{place}: write python:MODULE:FUNCTION or FILE.py:FUNCTION")
    return Function(function_of(place), name or _name_of(place.rpartition(":")[2]))


def _earvae(weights: str | None, name: str | None, device: str) -> System:
    from earvae.model.vae import EarVAE

    own = "earvae" if weights is None else f"earvae-{_name_of(weights)}"
    return EarVAESystem(EarVAE.from_pretrained(weights).to(device), name or own)


def _name_of(path: str) -> str:
    """The last part of a path as a name."""
    last = Path(path.rstrip("/")).name
    stem = Path(last).stem if Path(last).suffix in (".pyt", ".pt", ".safetensors") else last
    return re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII)[-100:].strip(".-") or "folder"


_Maker = Callable[[str | None, str | None, str], System]

_MAKERS: dict[str, tuple[str | None, _Maker]] = {
    "earvae": ("WEIGHTS", _earvae),
    "folder": (
        "PATH",
        lambda path, name, _: Folder(Path(path).expanduser(), name or _name_of(path)),
    ),
    "beside": ("NAME", lambda stem, name, _: Beside(stem, name or _name_of(stem))),
    **{
        kind: ("KBPS", lambda kbps, name, _, kind=kind: FfmpegCodec(kind, int(kbps), name))
        for kind in FORMATS
    },
    "dac": ("MODEL", Dac),
    "encodec": ("KBPS", lambda kbps, name, on: Encodec(int(kbps), name, on)),
    "python": ("MODULE:FUNCTION", lambda place, name, _: _python(place, name)),
    "linear": ("COMPONENTS", lambda n, name, _: LinearBaseline(int(n), name)),
    "oobleck": ("FOLDER", lambda path, name, on: Oobleck(Path(path).expanduser(), name, on)),
    **{kind: (None, lambda _, name, on, kind=kind: Check(kind, name)) for kind in CHECKS},
}
"""By kind, the argument that it wants, and what makes it of argument, name and device."""
