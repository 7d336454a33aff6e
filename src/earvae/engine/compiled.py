"""The passes of :mod:`~earvae.engine.passes`, compiled by numba (optional).

Same results but for the order of roundings. Compiled on first use, some ten seconds, and kept in
numba's cache. They run without the interpreter lock, one thread each; ``workers.py`` runs several.

numba has no bfloat16. Rows of it are 16-bit integers here, computed in a float32 row and rounded,
or widened into one first. Where a pass has ``half``, its ``rows`` are that one row, else the very
memory of the argument.
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
from earvae.engine.workers import scratch


def _compile(function: Callable) -> Callable:
    """Compiled on first use, and kept where numba finds a folder that it may write."""
    # Multiplications and additions may be fused; nothing else is relaxed, so NaN stays NaN.
    options = {"nogil": True, "boundscheck": False, "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside the file nor in the user's cache
        return numba.njit(**options)(function)


# sin²(πr) = s·(c₀ + c₁s + … + c₆s⁶), s = r² ≤ 1/4, to 4e-10.
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(c)
    for c in Chebyshev.interpolate(
        lambda s: np.sinc(np.sqrt(s)) ** 2 * math.pi**2, 6, domain=[0, 0.25]
    ).convert(kind=Polynomial)
)
_HALF, _ROUND, _ONE, _SHIFT = np.float32(0.5), np.uint32(0x7FFF), np.uint32(1), np.uint32(16)


@_compile
def _rounded(bits, out):  # pragma: no cover
    """bfloat16 of float32, both as bits; ties to even."""
    for c in range(out.shape[0]):
        u = bits[c]
        out[c] = np.uint16((u + _ROUND + ((u >> _SHIFT) & _ONE)) >> _SHIFT)


@_compile
def _widened(values, bits):  # pragma: no cover
    """float32 of bfloat16, both as bits."""
    for c in range(values.shape[0]):
        bits[c] = np.uint32(values[c]) << _SHIFT


@_compile
def _snake(x, first, turns, amplitude, half, rows, bits, out):  # pragma: no cover
    for i in range(out.shape[0]):
        k, t = 0 if half else i, first + i
        if t < 0 or t >= x.shape[0]:
            for c in range(out.shape[1]):
                rows[k, c] = np.float32(0)
        else:
            for c in range(out.shape[1]):
                value = x[t, c]
                turn = value * turns[c]
                turn -= np.floor(turn + _HALF)
                s = turn * turn
                wave = _C0 + s * (_C1 + s * (_C2 + s * (_C3 + s * (_C4 + s * (_C5 + s * _C6)))))
                rows[k, c] = value + amplitude[c] * (s * wave)
        if half:
            _rounded(bits[0], out[i])


@_compile
def _add(x, y, bias, half, rows, bits, out):  # pragma: no cover
    for i in range(out.shape[0]):
        if half:
            _widened(y[i], bits[0])
        k = 0 if half else i
        for c in range(out.shape[1]):
            out[i, c] = x[i, c] + rows[k, c] + bias[c]


@functools.cache
def _spread(products: int, inputs: int, outputs: int) -> Callable:
    """The spreading pass. Sizes are constants of the compiled code, so that the sum over a tile's
    inputs is unrolled."""

    @_compile
    def spread(h, matrix, dilation, half, rows, bits, out):  # pragma: no cover
        for tile in range(out.shape[0]):
            start = tile // dilation * (outputs * dilation) + tile % dilation
            for p in range(products):
                k, q = (0, 0) if half else (tile, p)
                for c in range(out.shape[2]):
                    total = np.float32(0)
                    for a in range(inputs):
                        total += matrix[p, a] * h[start + a * dilation, c]
                    rows[k, q, c] = total
                if half:
                    _rounded(bits[0, 0], out[tile, p])

    return spread


@functools.cache
def _gather(products: int, outputs: int) -> Callable:
    """The gathering pass, of sizes that are constants as well."""

    @_compile
    def gather(values, matrix, dilation, bias, half, rows, bits, out):  # pragma: no cover
        for tile in range(values.shape[1]):
            start = tile // dilation * (outputs * dilation) + tile % dilation
            if half:
                for p in range(products):
                    _widened(values[p, tile], bits[p, 0])
            k = 0 if half else tile
            for j in range(outputs):
                t = start + j * dilation
                if t < out.shape[0]:
                    for c in range(out.shape[1]):
                        total = bias[c]
                        for p in range(products):
                            total += matrix[j, p] * rows[p, k, c]
                        out[t, c] = total

    return gather


def _rows(x: Tensor, *shape: int) -> tuple[np.ndarray, bool, np.ndarray, np.ndarray]:
    """``x`` as numpy has it, ``half``, and its ``rows`` and ``bits``: ``x`` itself where it is
    float32, else working memory of ``shape``."""
    half = x.dtype == torch.bfloat16
    rows = scratch("rows", shape).numpy() if half else x.numpy()
    values = x.view(torch.int16).numpy().view(np.uint16) if half else rows
    return values, half, rows, rows.view(np.uint32)


def snake(x: Tensor, first: int, alpha: Tensor, amplitude: Tensor, out: Tensor) -> None:
    turns = alpha.numpy() * np.float32(1 / math.pi)
    values, *rows = _rows(out, 1, out.shape[1])
    _snake(x.numpy(), first, turns, amplitude.numpy(), *rows, values)


def spread(h: Tensor, algorithm: Bilinear, dilation: int, out: Tensor) -> None:
    compiled = _spread(algorithm.products, algorithm.inputs, algorithm.outputs)
    values, *rows = _rows(out, 1, 1, out.shape[2])
    compiled(h.numpy(), algorithm.spread, dilation, *rows, values)


def gather(products: Tensor, algorithm: Bilinear, dilation: int, bias: Tensor, out: Tensor) -> None:
    compiled = _gather(algorithm.products, algorithm.outputs)
    values, *rows = _rows(products, products.shape[0], 1, products.shape[2])
    compiled(values, algorithm.combine, dilation, bias.numpy(), *rows, out.numpy())


def add(x: Tensor, y: Tensor, bias: Tensor, out: Tensor) -> None:
    values, *rows = _rows(y, 1, y.shape[1])
    _add(x.numpy(), values, bias.numpy(), *rows, out.numpy())
