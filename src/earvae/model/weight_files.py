"""Files that weights lie in: their tensors and their JSON, without executing anything in them."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from earvae import json_files
from earvae.errors import WeightsError
from earvae.json_files import JsonError
from earvae.regular import ReadError, check_regular

SUFFIXES = (".pyt", ".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Keys that checkpoints nest weights under; averaged ones first.
WRAPPERS = ("gen_ema", "gen", "generator", "state_dict", "model")
SHOWN = 4  # names in an error message
LONGEST_NAME = 100  # characters of a name in an error message
LONGEST_JSON = 2**20  # bytes


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file, or something else in it.

    Raises WeightsError for what is no JSON, may not be read or is too long for a configuration.
    """
    if not path.exists():
        return {}
    try:
        values = json_files.read(path, LONGEST_JSON)
    except JsonError as error:
        raise WeightsError(str(error)) from None
    return values if isinstance(values, dict) else {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or PyTorch file, out of the dicts that they are nested in: plain
    ones on the CPU, of no more bytes in all than the file accounts for.

    Raises WeightsError for another or a damaged file, or one that is larger than it looks.
    """
    if path.suffix == ".safetensors":
        content = _loaded(path, load_file, "safetensors")
    else:
        content = unpickled(path)
    for _ in range(len(WRAPPERS)):  # a dict may hold itself
        if not isinstance(content, Mapping):
            break
        nested = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not nested:
            break
        content = nested[0]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    strangers = [str(name) for name, value in content.items() if not is_plain(value)]
    if strangers or not content:
        raise WeightsError(
            f"{path}: holds no state dict at its top level or under {', '.join(WRAPPERS)} "
            f"(entries that are not plain tensors: {some(strangers)})"
        )
    # Views of few numbers can claim any shape. A shared activation honestly counts twice.
    if sum(tensor.nbytes for tensor in content.values()) > 2 * path.stat().st_size:
        raise WeightsError(f"{path}: its tensors claim more bytes than it has; nothing was loaded")
    return {str(name): tensor for name, tensor in content.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The notes in a safetensors file; none in other files. Raises WeightsError."""
    if path.suffix != ".safetensors":
        return {}

    def notes(path: Path) -> dict[str, str]:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}

    return _loaded(path, notes, "safetensors")


def unpickled(path: Path) -> Any:
    """What a PyTorch file holds, on the CPU, without executing anything in it.

    Raises WeightsError for another or a damaged file, for one that refers to code, and for an
    archive that unpacks to more than it is.
    """

    def load(path: Path) -> Any:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size:
                raise ValueError(f"unpacks to {unpacked} bytes, more than it has")
        return torch.load(path, map_location="cpu", weights_only=True)

    return _loaded(path, load, "PyTorch")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in 64 hex digits, as hubs and ``sha256sum`` state it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def some(names: Iterable[str], most: int = SHOWN) -> str:
    """The first few names, for a message."""
    names = list(names)
    more = ", …" if len(names) > most else ""
    return ", ".join(name[:LONGEST_NAME] for name in names[:most]) + more if names else "none"


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape and the same numbers, in whatever types."""
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def is_plain(value: Any) -> bool:
    """Whether it is a tensor that is nothing but numbers in memory: not sparse, not quantised."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested)
    )


def _loaded(path: Path, load: Callable[[Path], Any], kind: str) -> Any:
    """``load(path)``, or one line of why not: damaged files fail in many ways inside readers."""
    try:
        check_regular(path)
        return load(path)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"{path}: not loaded, and nothing in it was executed: "
            + (f"it refers to code ({code[1]})" if code else "it is not a file of plain tensors")
            + "; ask its author for safetensors or a bare state dict"
        ) from None
    except ReadError as error:
        raise WeightsError(str(error)) from None
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the system; torch's own, about a damaged archive, name no file
        reason = (str(error).splitlines() or [""])[0].split(". ")[0]  # then comes torch's advice
        raise WeightsError(
            f"{path}: not a readable {kind} file: {reason or type(error).__name__}"
        ) from None
