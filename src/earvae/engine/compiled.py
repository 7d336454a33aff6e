"""The passes of :mod:`~earvae.engine.kernels`, compiled by numba (optional).

Same results but for the order of roundings. Compiled on first use, some ten seconds, and kept in
numba's cache. They run without the interpreter lock, one thread each; ``workers.py`` runs several.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numba
import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

from earvae.engine.bilinear import Bilinear
from earvae.engine.kernels import scratch


def _compile(function: Callable) -> Callable:
    """Compiled on first use, and kept where numba finds a folder that it may write."""
    # Multiplications and additions may be fused; nothing else is relaxed, so NaN stays NaN.
    options = {"nogil": True, "boundscheck": False, "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside the file nor in the user's cache
        return numba.njit(**options)(function)


# sin²(πr) = s·(c₀ + c₁s + … + c₆s⁶), s = r² ≤ 1/4, to 4e-10.
_SINE = tuple(
    np.float32(c)
    for c in Chebyshev.interpolate(
        lambda s: np.sinc(np.sqrt(s)) ** 2 * math.pi**2, 6, domain=[0, 0.25]
    ).convert(kind=Polynomial)
)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = _SINE
_HALF, _ROUND, _ONE, _SHIFT = np.float32(0.5), np.uint32(0x7FFF), np.uint32(1), np.uint32(16)


@_compile
def _snake(x, first, turns, amplitude, out):  # pragma: no cover
    rows, channels = out.shape
    for i in range(rows):
        t = first + i
        if t < 0 or t >= x.shape[0]:
            for c in range(channels):
                out[i, c] = np.float32(0)
            continue
        for c in range(channels):
            value = x[t, c]
            turn = value * turns[c]
            turn -= np.floor(turn + _HALF)
            s = turn * turn
            wave = _C0 + s * (_C1 + s * (_C2 + s * (_C3 + s * (_C4 + s * (_C5 + s * _C6)))))
            out[i, c] = value + amplitude[c] * (s * wave)


@_compile
def _snake_half(x, first, turns, amplitude, row, bits, out):  # pragma: no cover
    rows, channels = out.shape
    for i in range(rows):
        t = first + i
        if t < 0 or t >= x.shape[0]:
            for c in range(channels):
                out[i, c] = np.uint16(0)
            continue
        for c in range(channels):
            value = x[t, c]
            turn = value * turns[c]
            turn -= np.floor(turn + _HALF)
            s = turn * turn
            wave = _C0 + s * (_C1 + s * (_C2 + s * (_C3 + s * (_C4 + s * (_C5 + s * _C6)))))
            row[c] = value + amplitude[c] * (s * wave)
        for c in range(channels):
            u = bits[c]
            out[i, c] = np.uint16((u + _ROUND + ((u >> _SHIFT) & _ONE)) >> _SHIFT)


@_compile
def _add(x, y, bias, out):  # pragma: no cover
    for i in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[i, c] = x[i, c] + y[i, c] + bias[c]


@_compile
def _add_half(x, y, bias, row, bits, out):  # pragma: no cover
    for i in range(out.shape[0]):
        for c in range(out.shape[1]):
            bits[c] = np.uint32(y[i, c]) << _SHIFT
        for c in range(out.shape[1]):
            out[i, c] = x[i, c] + row[c] + bias[c]


@functools.cache
def _spreads(products: int, inputs: int, outputs: int) -> tuple[Callable, Callable]:
    """The spreading pass for float32 and for bfloat16; sizes are constants of the compiled code,
    so that the sum over a tile's inputs is unrolled."""

    @_compile
    def spread(h, matrix, dilation, out):  # pragma: no cover
        for tile in range(out.shape[0]):
            start = tile // dilation * (outputs * dilation) + tile % dilation
            for p in range(products):
                for c in range(out.shape[2]):
                    total = np.float32(0)
                    for a in range(inputs):
                        total += matrix[p, a] * h[start + a * dilation, c]
                    out[tile, p, c] = total

    @_compile
    def spread_half(h, matrix, dilation, row, bits, out):  # pragma: no cover
        for tile in range(out.shape[0]):
            start = tile // dilation * (outputs * dilation) + tile % dilation
            for p in range(products):
                for c in range(out.shape[2]):
                    total = np.float32(0)
                    for a in range(inputs):
                        total += matrix[p, a] * h[start + a * dilation, c]
                    row[c] = total
                for c in range(out.shape[2]):
                    u = bits[c]
                    out[tile, p, c] = np.uint16((u + _ROUND + ((u >> _SHIFT) & _ONE)) >> _SHIFT)

    return spread, spread_half


@functools.cache
def _gathers(products: int, outputs: int) -> tuple[Callable, Callable]:
    """The gathering pass for float32 and for bfloat16 products."""

    @_compile
    def gather(values, matrix, dilation, bias, out):  # pragma: no cover
        for tile in range(values.shape[1]):
            start = tile // dilation * (outputs * dilation) + tile % dilation
            for j in range(outputs):
                t = start + j * dilation
                if t < out.shape[0]:
                    for c in range(out.shape[1]):
                        total = bias[c]
                        for p in range(products):
                            total += matrix[j, p] * values[p, tile, c]
                        out[t, c] = total

    @_compile
    def gather_half(values, matrix, dilation, bias, rows, bits, out):  # pragma: no cover
        for tile in range(values.shape[1]):
            start = tile // dilation * (outputs * dilation) + tile % dilation
            for p in range(products):
                for c in range(out.shape[1]):
                    bits[p, c] = np.uint32(values[p, tile, c]) << _SHIFT
            for j in range(outputs):
                t = start + j * dilation
                if t < out.shape[0]:
                    for c in range(out.shape[1]):
                        total = bias[c]
                        for p in range(products):
                            total += matrix[j, p] * rows[p, c]
                        out[t, c] = total

    return gather, gather_half


@functools.cache
def _matrix(algorithm: Bilinear, name: str) -> np.ndarray:
    return getattr(algorithm, name).astype(np.float32)


def _numpy(x: Tensor) -> np.ndarray:
    """The same memory; bfloat16 as its 16 bits."""
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.uint16)
    return x.numpy()


def _row(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Working memory of a pass, as float32 and as the bits of it."""
    row = scratch("row", shape).numpy()
    return row, row.view(np.uint32)


class CompiledKernels:
    """See :class:`earvae.engine.kernels.Kernels`."""

    def snake(self, x: Tensor, first: int, alpha: Tensor, amplitude: Tensor, out: Tensor) -> None:
        turns = alpha.numpy() * np.float32(1 / math.pi)
        if out.dtype == torch.float32:
            _snake(x.numpy(), first, turns, amplitude.numpy(), out.numpy())
        else:
            row = _row(out.shape[1])
            _snake_half(x.numpy(), first, turns, amplitude.numpy(), *row, _numpy(out))

    def spread(self, h: Tensor, algorithm: Bilinear, dilation: int, out: Tensor) -> None:
        full, half = _spreads(algorithm.products, algorithm.inputs, algorithm.outputs)
        matrix = _matrix(algorithm, "spread")
        if out.dtype == torch.float32:
            full(h.numpy(), matrix, dilation, out.numpy())
        else:
            half(h.numpy(), matrix, dilation, *_row(out.shape[2]), _numpy(out))

    def gather(
        self, products: Tensor, algorithm: Bilinear, dilation: int, bias: Tensor, out: Tensor
    ) -> None:
        full, half = _gathers(algorithm.products, algorithm.outputs)
        matrix = _matrix(algorithm, "combine")
        if products.dtype == torch.float32:
            full(products.numpy(), matrix, dilation, bias.numpy(), out.numpy())
        else:
            rows = _row(products.shape[0], products.shape[2])
            half(_numpy(products), matrix, dilation, bias.numpy(), *rows, out.numpy())

    def add(self, x: Tensor, y: Tensor, bias: Tensor, out: Tensor) -> None:
        if y.dtype == torch.float32:
            _add(x.numpy(), y.numpy(), bias.numpy(), out.numpy())
        else:
            row = _row(out.shape[1])
            _add_half(x.numpy(), _numpy(y), bias.numpy(), *row, out.numpy())
