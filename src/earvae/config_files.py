"""Configuration files in YAML or JSON, with what they extend.

``extends: NAME_OR_PATH`` at the top of a file takes another one as its base: a recipe that comes
with earvae by its name, or a file by its path (it ends in .yaml, .yml or .json), relative to the
file that says it. The base may extend a third one. Mappings are merged at every depth; everything
else (numbers, lists, null) replaces what the base says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from earvae import recipes
from earvae.errors import ConfigError

EXTENDS = "extends"
SUFFIXES = (".yaml", ".yml", ".json")


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
    cannot be read, is no YAML or JSON, or extends what is not there or extends it in turn.
    """
    documents: list[Document] = []
    chain: list[dict] = []
    seen: list[Path] = []
    following: Path | None = Path(path)
    while following is not None:
        seen.append(following.resolve())
        values, document = _read(following)
        documents.append(document)
        chain.append(values)
        following = _base(values, following, document)
        if following is not None and following.resolve() in seen:
            names = " extends ".join([*(one.name for one in documents), str(following)])
            raise ConfigError(f"{_place(document)}: {EXTENDS}: goes in a circle: {names}")
    return reduce(merged, reversed(chain)), documents


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


def _read(path: Path) -> tuple[dict[str, Any], Document]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # JSON that is no YAML
        root = None
    return values or {}, Document(str(path), root)


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
    if not base.is_file():
        raise ConfigError(f"{place}: {EXTENDS}: {base}: no such file")
    return base


def _place(document: Document) -> str:
    return f"{document.name}:{document.find((EXTENDS,))[1] or 1}"
