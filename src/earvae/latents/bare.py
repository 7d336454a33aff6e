"""Latents that say nothing of themselves: arrays and tensors as generators save them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from earvae.latents import file
from earvae.latents.arrays import Safetensors, of_npy
from earvae.latents.file import NPY
from earvae.latents.metadata import LatentsError, OtherFormat
from earvae.regular import open_regular

PICKLED = (".pt", ".pth")
NAMES = ("latents", "latent", "latent_tensor", "samples", "z")
"""Of the tensor among several, the first that is there."""

OF_TENSORS = ("pt", "np", "tf", "flax", "mlx")  # what safetensors files say of those who wrote them


def is_bare(path: Path) -> bool:
    """Whether a file of latents lacks what ``earvae encode`` writes of them: a ``.pt`` or ``.pth``
    file, an array without JSON beside it, and whatever names no format but that of its tensors."""
    if path.suffix in PICKLED:
        return True
    if path.suffix == NPY and not file.sidecar(path).exists():
        return True
    try:
        file.inspect(path)
    except OtherFormat as error:
        return error.format in (None, *OF_TENSORS)
    except LatentsError:
        pass
    return False


def shape(path: Path) -> tuple[int, int, int]:
    """Batch, channels and frames of a bare file. Raises LatentsError, WeightsError."""
    with _opened(path) as found:
        return found.shape


def read(path: Path, number: int = 0) -> np.ndarray:
    """The latents ``[channels, frames]`` at a place of the batch, float32.

    Raises LatentsError: no array of two or three axes, not floating point, not finite; WeightsError
    for a ``.pt`` file that holds more than plain tensors, of which nothing is executed.
    """
    with _opened(path) as found:
        values = found.load(number).astype(np.float32)
    if not np.isfinite(values).all():
        raise LatentsError(f"{path}: its latents are not finite numbers")
    return values


@dataclass(frozen=True)
class _Bare:
    shape: tuple[int, int, int]
    load: Callable[[int], np.ndarray]  # of a place in the batch, [channels, frames]


@contextmanager
def _opened(path: Path) -> Iterator[_Bare]:
    if path.suffix in PICKLED:
        tensor = _tensor(path)
        batched = tensor.reshape(_three(path, tuple(tensor.shape)))
        yield _Bare(tuple(batched.shape), lambda number: batched[number].float().numpy())
        return
    with file.named(path), open_regular(path) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > file.MOST_BYTES:
            raise LatentsError(f"has {size} bytes, too many for latents")
        if path.suffix == NPY:
            array = of_npy(opened, size)
        else:
            array = _named(Safetensors.of(opened, size).arrays())
        batch, *each = _three(path, array.shape)

        def load(number: int) -> np.ndarray:
            if array.by_columns:
                return array.load(opened).reshape(batch, *each)[number]
            skipped = number * each[0] * each[1] * array.kind.itemsize
            own = replace(array, shape=tuple(each), offset=array.offset + skipped)
            return own.load(opened)

        yield _Bare((batch, *each), load)


def _named(arrays: dict[str, Any]) -> Any:
    """The latents among named arrays. Raises LatentsError (that does not name the file)."""
    found = [name for name in NAMES if name in arrays] or [*arrays]
    if not arrays or len(found) > 1 and found[0] not in NAMES:
        raise LatentsError(
            f"holds {len(arrays)} tensors and none called {NAMES[0]}: weights are named with "
            "--weights"
        )
    return arrays[found[0]]


def _tensor(path: Path) -> Any:
    """The tensor of a ``.pt`` file, plain and of floating point."""
    from earvae.model.weight_files import is_plain, unpickled

    content = unpickled(path)
    with file.named(path):
        if isinstance(content, dict):
            content = _named({str(name): value for name, value in content.items()})
        if not is_plain(content) or not content.is_floating_point():
            raise LatentsError(f"holds {_what(content)}, not a plain tensor of floating point")
        if content.nbytes > 2 * path.stat().st_size:  # a view of few numbers can claim any shape
            raise LatentsError("its tensor claims more bytes than the file has")
    return content.detach()


def _what(content: Any) -> str:
    return str(getattr(content, "dtype", type(content).__name__))


def _three(path: Path, found: tuple[int, ...]) -> tuple[int, int, int]:
    if len(found) not in (2, 3) or 0 in found:
        raise LatentsError(
            f"{path}: holds an array of shape {list(found)}; latents are [channels, frames] or "
            "[batch, channels, frames]"
        )
    return (1, *found) if len(found) == 2 else found  # type: ignore[return-value]
