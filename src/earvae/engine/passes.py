"""What the CPU engines do between matrix products, on rows of ``[time, channels]``.

Four passes over memory: the activation, the two transforms of :mod:`~earvae.engine.bilinear`,
and the residual sum. Here they are torch's operations, which run everywhere;
:mod:`~earvae.engine.compiled` has the same functions compiled by numba, several times faster.

All of them work in float32 inside. Where a matrix product wants bfloat16 they round their
*result*: SnakeBeta itself is never computed in bfloat16, whose three digits are too few for the
argument of a sine (other projects got noise, or silence, that way).

Rows are float32 unless said otherwise, C is the number of channels.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from earvae.engine.bilinear import Bilinear
from earvae.engine.workers import scratch


@functools.cache
def fastest() -> ModuleType:
    """The passes compiled where numba is installed, else these."""
    found = importlib.util.find_spec("numba") is not None
    return importlib.import_module("earvae.engine.compiled" if found else __name__)


def snake(x: Tensor, first: int, alpha: Tensor, amplitude: Tensor, out: Tensor) -> None:
    """SnakeBeta of rows ``first`` … of ``x [T, C]`` into ``out [rows, C]`` (float32 or bfloat16);
    rows outside ``x`` become zeros.

    x + amplitude · sin²(alpha·x), ``alpha`` and ``amplitude`` ``[C]``. ``out`` and ``x`` do not
    overlap.
    """
    low, high = max(0, -first), min(out.shape[0], x.shape[0] - first)
    if high <= low:
        out.zero_()
        return
    out[:low].zero_()
    out[high:].zero_()
    rows = x[first + low : first + high]
    wave = torch.mul(rows, alpha, out=scratch("snake", tuple(rows.shape)))
    wave.sin_()
    wave.mul_(wave)
    if out.dtype == torch.float32:
        torch.addcmul(rows, wave, amplitude, out=out[low:high])
    else:
        out[low:high].copy_(torch.addcmul(rows, wave, amplitude, out=wave))


def spread(h: Tensor, algorithm: Bilinear, dilation: int, out: Tensor) -> None:
    """Factors of the products: B of the algorithm applied to every tile of ``h [T, C]``.

    ``out [tiles, products, C]``, float32 or bfloat16. Tile q·dilation + r begins at row
    q·outputs·dilation + r and takes every ``dilation``-th row; ``h`` must reach to the last
    tile's end.
    """
    tiles, products, channels = out.shape
    matrix = torch.from_numpy(algorithm.spread).expand(tiles // dilation, -1, -1)
    step = algorithm.outputs * dilation * channels
    shape = (tiles // dilation, algorithm.inputs, channels)
    for r in range(dilation):
        window = h.as_strided(
            shape, (step, dilation * channels, 1), h.storage_offset() + r * channels
        )
        # [tiles of this phase, products, C]
        result = scratch("spread", (shape[0], products, channels))
        torch.bmm(matrix, window, out=result)
        out.unflatten(0, (-1, dilation))[:, r] = result


def gather(products: Tensor, algorithm: Bilinear, dilation: int, bias: Tensor, out: Tensor) -> None:
    """Outputs ``[rows, C]`` of products ``[products, tiles, C]`` (float32 or bfloat16): A of the
    algorithm applied to every tile, plus ``bias [C]``. Rows beyond ``out`` are dropped."""
    _, tiles, channels = products.shape
    if products.dtype != torch.float32:
        products = scratch("products", tuple(products.shape)).copy_(products)
    matrix = torch.from_numpy(algorithm.combine).expand(tiles, -1, -1)
    result = scratch("gather", (tiles, algorithm.outputs, channels))
    torch.bmm(matrix, products.transpose(0, 1), out=result)
    # tile q·dilation + r, output j is row (q·outputs + j)·dilation + r
    rows = result.view(-1, dilation, algorithm.outputs, channels).transpose(1, 2)
    whole = out.shape[0] // (algorithm.outputs * dilation)  # groups of tiles that fit whole
    end = whole * algorithm.outputs * dilation
    shape = (whole, algorithm.outputs, dilation, channels)
    torch.add(rows[:whole], bias, out=out[:end].view(shape))
    if end < out.shape[0]:
        rest = rows[whole].reshape(-1, channels)[: out.shape[0] - end]
        torch.add(rest, bias, out=out[end:])


def add(x: Tensor, y: Tensor, bias: Tensor, out: Tensor) -> None:
    """x + y + bias; ``y`` float32 or bfloat16, all ``[rows, C]``."""
    torch.add(x, y, out=out)
    out.add_(bias)
