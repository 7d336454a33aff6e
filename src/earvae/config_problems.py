"""What is wrong with a configuration, told at the place where it was written.

pydantic sees a configuration after the shared blocks of a recipe were handed on to every stage, and
names a union's choice as if it were a key. Here its problems are taken back to the file.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from earvae import former
from earvae.config_files import EXTENDS, Document

Path = tuple[str | int, ...]

MOST = 20
"""Problems that are told; a file with more is of another kind."""

ABSENT = ("missing", "whole_frames")
"""Types of problems whose key need not stand in the file."""


def problems(
    kind: Any,
    error: ValidationError,
    values: Any,
    documents: Sequence[Document],
    shared: Sequence[str],
) -> list[str]:
    """One line for each problem: the file, the line in it, the key as written, what to do.

    Args:
        kind: the configuration class, or union of such, that was validated.
        values: what was validated, as it stands in the file or files.
        documents: the file, then those it extends.
        shared: blocks that may stand once beside ``stages`` for all of them.
    """
    found: dict[tuple[Path, str], None] = {}
    for problem in error.errors():
        path = _written(problem["loc"], values, problem["type"] in ABSENT, shared)
        found[path, _message(problem, kind, path, values, shared)] = None
    lines = []
    for path, message in found:
        if path[:1] == ("stages",) and (path[2:], message) in found:
            continue  # the stage has it from the shared block
        number, line = _said(documents, path)
        place = documents[number].name + (f":{line}" if line else "")
        key = ".".join(map(str, path)) or "(top level)"
        lines.append((number, line or 0, f"{place}: {key}: {message}"))
    told = [text for *_, text in sorted(lines, key=lambda numbered: numbered[:2])]
    rest = len(told) - MOST
    return [*told[:MOST], f"{documents[0].name}: and {rest} more problems"] if rest > 0 else told


# --------------------------------------------------------------------------- where


def _written(loc: Path, values: Any, absent: bool, shared: Sequence[str]) -> Path:
    """The keys that lead to a problem in the file."""
    of_a_stage = loc[:1] == ("stages",) and len(loc) > 2 and loc[2] in shared
    if not of_a_stage:
        return _without_tags(loc, [values], absent)
    stages = values["stages"]
    path = _without_tags(loc[2:], [stages[loc[1]], values], absent)
    if _reaches(path, stages[loc[1]]):
        return (*loc[:2], *path)
    if not _reaches(path, values) and any(_reaches(path, stage) for stage in stages):
        return (*loc[:2], *path)
    return path


def _without_tags(loc: Path, nodes: list[Any], absent: bool) -> Path:
    """``loc`` without what names the choice of a union: what none of ``nodes`` has as a key."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        inner = [node[part] for node in nodes if _has(node, part)]
        if inner or (absent and number == len(loc) - 1):
            path.append(part)
            nodes = inner
    return tuple(path)


def _reaches(path: Path, node: Any) -> bool:
    for part in path:
        if not _has(node, part):
            return False
        node = node[part]
    return True


def _has(node: Any, part: str | int) -> bool:
    if isinstance(node, dict):
        return part in node
    return isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)


def _said(documents: Sequence[Document], path: Path) -> tuple[int, int | None]:
    """Which of the files said what stands at ``path``, or the most of it, and the line."""
    best, place = -1, (0, None)
    for number, document in enumerate(documents):
        depth, line, own = document.find(path)
        if depth > best:
            best, place = depth, (number, line)
        if own:
            break
    return place


# --------------------------------------------------------------------------- what


def _message(problem: Any, kind: Any, path: Path, values: Any, shared: Sequence[str]) -> str:
    if problem["type"] == "missing":
        return "is needed"
    if problem["type"] == "union_tag_not_found":
        return f"needs the key {problem['ctx']['discriminator']}"
    if problem["type"] == "union_tag_invalid":
        context = problem["ctx"]
        if context["tag"] == former.SPECTRAL:
            return former.GONE
        known = re.findall(r"'([^']+)'", context["expected_tags"])
        given = f"no {context['discriminator'].strip(chr(39))} {context['tag']!r}"
        near = difflib.get_close_matches(context["tag"], known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{given}; {hint}there are {', '.join(known)}"
    if problem["type"] != "extra_forbidden":
        return problem["msg"].removeprefix("Value error, ")
    key = str(path[-1])
    blocks = _blocks(kind, shared)
    known = _keys(blocks, path[:-1], values)
    if near := difflib.get_close_matches(key, known + ([EXTENDS] if path[:-1] == () else []), n=1):
        return f"no such key; did you mean {near[0]}?"
    for place, classes in blocks.items():
        if place and any(key in c.model_fields for c in classes):
            return f"no such key here; it belongs to {'.'.join(place)}"
    if path[:-1] == ():
        within: dict[str, str] = {}
        for place, classes in blocks.items():  # shared blocks first
            for name in (name for c in classes for name in c.model_fields):
                within.setdefault(name, ".".join((*place, name)))
        if near := difflib.get_close_matches(key, within, n=1):
            return f"no such key; did you mean {within[near[0]]}?"
    return f"no such key; there are {', '.join(known)}"


def _blocks(kind: Any, shared: Sequence[str]) -> dict[tuple[str, ...], list[type[BaseModel]]]:
    """The classes whose keys may stand at a place in a file, by its keys; shared blocks first."""
    found: dict[tuple[str, ...], list[type[BaseModel]]] = {}

    def visit(place: tuple[str, ...], classes: list[type[BaseModel]]) -> None:
        found[place] = classes
        fields = [field for c in classes for field in c.model_fields.items()]
        for name in dict(fields):
            inner = [c for n, f in fields if n == name for c in _classes(f.annotation)]
            if inner:
                visit((*place, name), inner)

    visit((), _classes(kind))
    return {place[1:]: c for place, c in found.items() if place[1:2] and place[1] in shared} | found


def _keys(blocks: dict, path: Path, values: Any) -> list[str]:
    """The keys that are known at ``path``."""
    classes = blocks.get(tuple(part for part in path if isinstance(part, str)), [])
    for part in path:
        values = values[part] if _has(values, part) else None
    if isinstance(values, dict):
        classes = [c for c in classes if _chosen(c, values)] or classes
    names = {name: None for c in classes for name in c.model_fields}
    return list(names | {place[0]: None for place in blocks if len(place) == 1 and not path})


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """Every configuration class in a type, such as those of a union or of a tuple's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [c for inner in typing.get_args(annotation) for c in _classes(inner)]


def _chosen(config: type[BaseModel], values: dict) -> bool:
    """Whether a union's choice falls on ``config``."""
    field = config.model_fields.get("architecture")
    return field is None or field.default == values.get("architecture")
