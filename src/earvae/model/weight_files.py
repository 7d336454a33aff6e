"""Files that weights lie in: their tensors and their JSON, without executing anything in them."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from earvae.errors import WeightsError

SUFFIXES = (".pyt", ".pt", ".pth", ".bin", ".ckpt", ".safetensors")
WRAPPERS = ("gen", "generator", "state_dict", "model")  # keys that checkpoints nest weights under
SHOWN = 4  # names in an error message


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file, or something else in it.

    Raises WeightsError for what is no JSON, OSError for what may not be read.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise WeightsError(f"{path}: not readable as JSON: {error}") from None
    return values if isinstance(values, dict) else {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or PyTorch file, out of the dicts that they are nested in.

    Raises WeightsError for another or a damaged file, OSError for one that may not be read.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None
    content = unpickled(path)
    while isinstance(content, Mapping):
        nested = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not nested:
            break
        content = nested[0]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers or not content:
        raise WeightsError(
            f"{path}: holds no state dict at its top level or under {', '.join(WRAPPERS)} "
            f"(entries that are not tensors: {some(strangers)})"
        )
    return {str(name): tensor for name, tensor in content.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The notes in a safetensors file; none in other files."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    names = list(names)
    more = ", …" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"


def unpickled(path: Path) -> Any:
    """What a PyTorch file holds, on the CPU; nothing in it is executed.

    Raises WeightsError for another or a damaged file, OSError for one that may not be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"{path}: not loaded, and nothing in it was executed: "
            + (f"it refers to code ({code[1]})" if code else "it is not a file of plain tensors")
            + "; ask its author for safetensors or a bare state dict"
        ) from None
    except OSError:
        raise
    except Exception as error:  # damaged archives fail in many ways inside the reader
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{path}: not a readable PyTorch file: {type(error).__name__}: {reason}"
        ) from None
