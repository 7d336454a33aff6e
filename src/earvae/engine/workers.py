"""A few threads that each run one stretch of time, torch single-threaded inside, and their memory.

Splitting a layer's time axis once keeps a thread's data in its own cache and needs one meeting
per layer; torch's own threading would meet at every operation, and its waiting threads would take
the cores from the compiled passes.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

_memory = threading.local()
_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and number of threads


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised tensor that this thread gets again under the same name.

    Fresh memory costs page faults, a large share of the time of passes that only touch it once.
    """
    held, size = _memory.__dict__, math.prod(shape)
    if (name, dtype) not in held or held[name, dtype].numel() < size:
        held[name, dtype] = torch.empty(size, dtype=dtype)
    return held[name, dtype][:size].view(shape)


def spans(length: int, longest: int, multiple: int, workers: int) -> list[tuple[int, int]]:
    """0 … length in stretches ``[start, stop)`` of at most about ``longest``.

    Their number is a multiple of ``workers`` where the length allows it; all but the last are
    equally long, and a multiple of ``multiple``.
    """
    rounds = -(-length // (longest * workers))
    step = -(-length // (rounds * workers))
    step = -(-step // multiple) * multiple
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def run(task: Callable[[int, int], None], stretches: list[tuple[int, int]]) -> None:
    """``task(start, stop)`` for every stretch, on as many threads as torch may use."""
    workers = torch.get_num_threads()
    if workers == 1:
        for start, stop in stretches:
            _without_grad(task, start, stop)
        return
    for done in [_pool(workers).submit(_without_grad, task, *stretch) for stretch in stretches]:
        done.result()


def _without_grad(task: Callable[[int, int], None], start: int, stop: int) -> None:
    with torch.no_grad():  # a setting of the thread
        task(start, stop)


def _pool(workers: int) -> ThreadPoolExecutor:
    with _lock:
        key = os.getpid(), workers  # a fork does not inherit threads
        if key not in _pools:
            pool = ThreadPoolExecutor(workers, "earvae", _single_threaded)
            ready = threading.Barrier(workers)  # every thread has started, and set its number
            for started in [pool.submit(ready.wait) for _ in range(workers)]:
                started.result()
            torch.set_num_threads(workers)  # theirs changed the default of future threads
            _pools[key] = pool
        return _pools[key]


def _single_threaded() -> None:
    """Make torch use this thread alone when called from it.

    Asking first is no idle question. A thread takes over the process's number of threads when it
    first asks or computes in parallel; one that was only told its number would compute with it
    until then and with all threads from then on, which is slower, and gives other last bits
    depending on what it happened to do first.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
