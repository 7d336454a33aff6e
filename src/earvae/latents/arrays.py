"""The two containers of arrays that latents come in, ``.safetensors`` and ``.npy``: their headers,
checked against the bytes that are there before any array is made.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.lib import format as npy

from earvae import json_files

MOST_HEADER_BYTES = 1 << 24
NEAR = 1 << 14  # bytes of a row; shorter ones are read through, which is faster than to skip
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # of safetensors, as numpy reads


@dataclass(frozen=True)
class Array:
    """Floating-point numbers of a file, which are all there; ``dtype`` as the file calls it."""

    shape: tuple[int, ...]
    dtype: str
    kind: np.dtype
    offset: int  # bytes
    by_columns: bool = False

    def load(self, file: IO[bytes], start: int = 0, stop: int | None = None) -> np.ndarray:
        """The numbers, or those from ``start`` to ``stop`` of the last axis. Of long rows no others
        are read.

        float16 where they are that, else float32 (infinite where that cannot hold them). Raises
        OSError.
        """
        length = self.shape[-1] if self.shape else 1
        stop = length if stop is None else stop
        near = not self.by_columns and length * self.kind.itemsize <= NEAR
        if near and (start, stop) != (0, length):
            return self.load(file)[..., start:stop].copy()
        shape, size = (*self.shape[:-1], stop - start) if self.shape else (), self.kind.itemsize
        if self.by_columns or (start, stop) == (0, length):
            rows, stride, first = 1, 0, start * math.prod(self.shape[:-1])
        else:
            rows, stride, first = math.prod(self.shape[:-1]), length, start
        data = bytearray()
        for row in range(rows):
            file.seek(self.offset + (row * stride + first) * size)
            data += file.read(math.prod(shape) // max(rows, 1) * size)
        numbers = np.frombuffer(data, self.kind)
        if self.dtype == "BF16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        values = numbers.reshape(shape, order="F" if self.by_columns else "C")
        with np.errstate(over="ignore"):
            return values.astype(np.float16 if self.kind.str[1:] == "f2" else np.float32)


@dataclass(frozen=True)
class Safetensors:
    """The header of a safetensors file: metadata, and what it says of its tensors by name."""

    metadata: dict
    tensors: dict
    start: int  # byte of the first number
    stop: int  # and after the last

    @classmethod
    def of(cls, file: IO[bytes], size: int) -> Safetensors:
        """The header of ``size`` bytes from where ``file`` stands. Raises ValueError, JsonError."""
        begin = file.tell()
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
        if not 0 < length <= min(size - 8, MOST_HEADER_BYTES):
            raise ValueError("its header is longer than the file")
        header = json_files.parse(file.read(length), "its header")
        metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
        if not isinstance(metadata, dict):
            raise ValueError("its header is no table of tensors")
        return cls(metadata, header, begin + 8 + length, begin + size)

    def arrays(self) -> dict[str, Array]:
        """All tensors. Raises ValueError: a type that is not floating point, or a
        size that is not the file's."""
        found, end = {}, 0
        for name, value in self.tensors.items():
            dtype, shape, places = (
                value.get(key) if isinstance(value, dict) else None
                for key in ("dtype", "shape", "data_offsets")
            )
            if not isinstance(dtype, str) or dtype not in TYPES:
                raise ValueError(f"its tensor {name} holds {dtype!r:.20}, not floating point")
            kind = np.dtype(TYPES[dtype])
            size = _bytes(shape, kind)
            if places != [end, end + size]:
                raise ValueError(f"its tensor {name} has another size than its shape")
            found[name] = Array(tuple(shape), dtype, kind, self.start + end)
            end += size
        if self.start + end != self.stop:
            raise ValueError(f"holds {self.stop - self.start} bytes, its header says {end}")
        return found


def of_npy(file: IO[bytes], size: int) -> Array:
    """The array of a ``.npy`` file, which is ``size`` bytes from where ``file`` stands. Raises
    ValueError: no such file, a type that is not floating point, a size that is not the file's."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    begin = file.tell()
    try:
        shape, by_columns, kind = readers[npy.read_magic(file)](file)
    except Exception as error:  # its text is parsed as Python is, with all that this raises
        raise ValueError(f"its header is no header of .npy: {error}") from None
    if kind.kind != "f" or kind.itemsize > 8:
        raise ValueError(f"holds {kind}, not floating point")
    if (told := file.tell() - begin + _bytes(shape, kind)) != size:
        raise ValueError(f"has {size} bytes, its header says {told}")
    return Array(shape, kind.name, kind, file.tell(), by_columns)


def _bytes(shape: object, kind: np.dtype) -> int:
    """Bytes of an array. Raises ValueError for a shape that nothing has."""
    if not isinstance(shape, list | tuple) or any(
        type(length) is not int or length < 0 for length in shape
    ):
        raise ValueError(f"a shape of {shape!r:.40}")
    return math.prod(shape) * kind.itemsize
