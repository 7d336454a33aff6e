"""What is wrong with a configuration, told at the place where it was written.

pydantic sees a configuration after the shared blocks of a recipe were handed on to every stage, and
names a union's choice as if it were a key. Here its problems are taken back to the file.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from earvae.config_files import EXTENDS, Document

Path = tuple[str | int, ...]

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
    return [text for *_, text in sorted(lines, key=lambda numbered: numbered[:2])]


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
        inner = [node[part] for node in map(_plain, nodes) if _has(node, part)]
        if inner or (absent and number == len(loc) - 1):
            path.append(part)
            nodes = inner
    return tuple(path)


def _reaches(path: Path, node: Any) -> bool:
    for part in path:
        node = _plain(node)
        if not _has(node, part):
            return False
        node = node[part]
    return True


def _plain(node: Any) -> Any:
    return dict(node) if isinstance(node, BaseModel) else node


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
    if problem["type"] != "extra_forbidden":
        return problem["msg"].removeprefix("Value error, ")
    key = str(path[-1])
    known = _keys(kind, path[:-1], values, shared)
    if near := difflib.get_close_matches(key, known, n=1):
        return f"no such key; did you mean {near[0]}?"
    if elsewhere := _elsewhere(kind, key, shared):
        return f"no such key here; it belongs to {elsewhere}"
    return f"no such key; there are {', '.join(known)}"


def _keys(kind: Any, path: Path, values: Any, shared: Sequence[str]) -> list[str]:
    """The keys that are known at ``path``."""
    classes = _classes(kind)
    for number, part in enumerate(path):
        values = values[part] if _has(values, part) else None
        if isinstance(part, int):
            continue
        if number == 0 and part in shared:
            classes = _inside(classes, "stages")
        classes = _inside(classes, part)
        if isinstance(values, dict):
            classes = [c for c in classes if _chosen(c, values)] or classes
    names = {name: None for c in classes for name in c.model_fields}
    return [*names, *((*shared, EXTENDS) if not path else ())]


def _elsewhere(kind: Any, key: str, shared: Sequence[str]) -> str | None:
    """The block of a recipe that knows ``key``, as it would be written."""
    around = [("stages", c) for c in _inside(_classes(kind), "stages")]
    for name in (*shared, "model", "discriminator"):
        outer = [c for _, c in around] if name in shared else _classes(kind)
        around += [(name, c) for c in _inside(outer, name)]
    for name, of in list(around):
        if name in shared:
            around += [(f"{name}.{f}", c) for f in of.model_fields for c in _inside([of], f)]
    return next((name for name, c in around if key in c.model_fields), None)


def _inside(classes: Sequence[type[BaseModel]], name: str | int) -> list[type[BaseModel]]:
    fields = [c.model_fields[name] for c in classes if name in c.model_fields]
    return [inner for field in fields for inner in _classes(field.annotation)]


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """Every configuration class in a type, such as those of a union or of a tuple's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [c for inner in typing.get_args(annotation) for c in _classes(inner)]


def _chosen(config: type[BaseModel], values: dict) -> bool:
    """Whether a union's choice falls on ``config``."""
    field = config.model_fields.get("architecture")
    return field is None or field.default == values.get("architecture")
