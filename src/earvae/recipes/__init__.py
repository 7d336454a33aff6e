"""Recipes for ``earvae train`` that come with the package: YAML files, each known by its name."""

from __future__ import annotations

import difflib
from pathlib import Path

from earvae import former
from earvae.errors import ConfigError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of the recipe ``name``. Raises ConfigError, which lists them, if there is none."""
    if name == former.SPECTRAL:
        raise ConfigError(f"no recipe {name!r}: {former.GONE}")
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"no recipe {name!r}; {hint}there are {', '.join(names())}")
    return FOLDER / f"{name}.yaml"
