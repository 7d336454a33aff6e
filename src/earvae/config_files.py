"""Configuration files in YAML or JSON, with what they extend.

``extends: NAME_OR_PATH`` at the top of a file takes another one as its base: a recipe that comes
with earvae by its name, or a file by its path (it ends in .yaml, .yml or .json), relative to the
file that says it. The base may extend a third one. Mappings are merged at every depth; everything
else (numbers, lists, null) replaces what the base says.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from earvae import json_files, recipes
from earvae.errors import ConfigError
from earvae.json_files import JsonError
from earvae.regular import ReadError, check_regular, read_regular

EXTENDS = "extends"
SUFFIXES = (".yaml", ".yml", ".json")
LONGEST_JSON = 2**20  # bytes
LONGEST_YAML = 2**17  # characters; its reader takes up to 40 µs for each
MOST_VALUES = 100_000
DEEPEST = 100  # brackets


@dataclass(frozen=True)
class Document:
    """A file as it was written: its name, and its keys with their lines."""

    name: str
    root: yaml.Node | None = None

    def find(self, path: tuple[str | int, ...]) -> tuple[int, int | None, bool]:
        """How far the file follows ``path``: the keys of it that stand in the file, the line (from
        1) of the last of them, and whether whatever lies further on is the file's own too: it is
        in a list or a value, which replaces the base's.
        """
        node, line, own = self.root, None, False
        for depth, part in enumerate(path):
            inner = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == str(part):
                        line, inner = key.start_mark.line + 1, value
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part < len(node.value):
                    inner = node.value[part]
                    line = inner.start_mark.line + 1
            if inner is None:
                return depth, line, own
            node = inner
            own = own or not isinstance(node, yaml.MappingNode)
        return len(path), line, True


def load(path: str | Path) -> tuple[dict[str, Any], list[Document]]:
    """The values of a file over those of the files it extends, and these files, itself first.

    Raises ConfigError, in one line that names the file and where possible the line: a file that
    cannot be read, is no YAML or JSON, is larger than its values can be, or extends what is not
    there or extends it in turn.
    """
    documents: list[Document] = []
    chain: list[dict] = []
    seen: list[str] = []
    following: Path | None = Path(path)
    while following is not None:
        seen.append(os.path.realpath(following))
        values, document = _read(following)
        documents.append(document)
        chain.append(values)
        following = _base(values, following, document)
        if following is not None and os.path.realpath(following) in seen:
            names = " extends ".join([*(one.name for one in documents), str(following)])
            raise ConfigError(f"{_place(document)}: {EXTENDS}: goes in a circle: {names}")
    try:
        return reduce(merged, reversed(chain)), documents
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deep") from None


def merged(base: Any, changes: Any) -> Any:
    """``base`` with ``changes`` over it, key by key at every depth; neither is altered.

    Each is plain values or a configuration, of which the keys count that were given.
    """
    base, changes = (
        part.model_dump(exclude_unset=True) if isinstance(part, BaseModel) else part
        for part in (base, changes)
    )
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: merged(base[key], v) if key in base else v for key, v in changes.items()}


MERGE = "tag:yaml.org,2002:merge"  # of the key <<


class _Loader(yaml.SafeLoader):
    """Text alone, no code; no key twice, of which one would be lost in silence; brackets within
    brackets, which take time by their square, end early."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= DEEPEST:
            raise RecursionError
        super().fetch_flow_collection_start(token)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value} stands there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, name: str) -> tuple[Any, yaml.Node | None]:
    """The values of a YAML text and the nodes that they were written as; ``name`` is its file's.

    Raises ConfigError, before anything is multiplied: a text of more than ``LONGEST_YAML``
    characters, or aliases that stand for more than ``MOST_VALUES`` values or for themselves.
    """
    if len(text) > LONGEST_YAML:
        raise ConfigError(f"{name}: has more than {LONGEST_YAML} characters, too many for YAML")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if _expanded(root, {}) > MOST_VALUES:
            raise ConfigError(
                f"{name}: its aliases stand for more than {MOST_VALUES} values, or for themselves"
            )
        return (None if root is None else loader.construct_document(root)), root
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deep") from None
    except Exception as error:  # characters that may not be there; values unlike their tags
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{name}: not valid YAML: {reason or type(error).__name__}") from None


def _expanded(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How many values a node stands for, aliases followed; infinity if one is within itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for item in inner for part in (item if isinstance(item, tuple) else [item]))
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def _read(path: Path) -> tuple[dict[str, Any], Document]:
    try:
        data = read_regular(path, LONGEST_JSON)
        if path.suffix != ".json":
            values, root = read_yaml(data.decode("utf-8-sig"), str(path))
        else:
            values = json_files.parse(data, str(path))
            root = _nodes_of_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text in UTF-8") from None
    except (ReadError, JsonError) as error:
        raise ConfigError(str(error)) from None
    return values or {}, Document(str(path), root)


def _nodes_of_json(text: str) -> yaml.Node | None:
    """For the lines in messages alone: JSON is YAML, nearly."""
    try:
        return read_yaml(text, "")[1]
    except ConfigError:
        return None


def _base(values: Any, path: Path, document: Document) -> Path | None:
    """The file that a file extends; the key is taken out of its values."""
    if not isinstance(values, dict) or EXTENDS not in values:
        return None
    name = values.pop(EXTENDS)
    place = _place(document)
    if not isinstance(name, str):
        raise ConfigError(f"{place}: {EXTENDS}: is the name of a recipe or the path of a file")
    if not name.endswith(SUFFIXES):
        try:
            return recipes.path_of(name)
        except ConfigError as error:
            raise ConfigError(f"{place}: {EXTENDS}: {error}, and files by their path") from None
    base = path.parent / name
    try:
        check_regular(base)
    except ReadError as error:
        raise ConfigError(f"{place}: {EXTENDS}: {error}") from None
    return base


def _place(document: Document) -> str:
    return f"{document.name}:{document.find((EXTENDS,))[1] or 1}"
