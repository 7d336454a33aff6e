"""Loading ahead in threads: libsndfile and soxr let others run meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

POLL_SECONDS = 0.2  # how soon a thread that waits sees that the run is over


class _Over(Exception):
    """The run ended while a thread still had something to do."""


class _End:
    """Nothing follows; ``error`` is what stopped the thread."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(
    tasks: Iterable[tuple[Any, Callable[[], Iterable[Any]]]], workers: int
) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Run loads in ``workers`` threads, in order, at most two tasks a thread ahead.

    A task is a pair of anything and a function whose elements are loaded; the result is the
    pairs of the same thing and its elements, which are to be used up before the next pair. A
    load that is ahead waits after one element. ``tasks`` itself is run through in a thread.
    Whatever a thread raises is raised here.
    """
    over = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def wait(room: threading.Semaphore) -> None:
        while not over.is_set():
            if room.acquire(timeout=POLL_SECONDS):
                return
        raise _Over

    def load(function: Callable[[], Iterable[Any]], room: threading.Semaphore) -> Iterator[Any]:
        for element in function():
            wait(room)
            yield element

    def start(room: threading.Semaphore) -> Iterator[tuple[Any, Iterator[Any]]]:
        for thing, function in tasks:
            wait(room)
            stream: SimpleQueue = SimpleQueue()
            one = threading.Semaphore(1)
            pool.submit(_put_all, stream, load(function, one))
            yield thing, _taken(stream, one)

    started: SimpleQueue = SimpleQueue()
    ahead = threading.Semaphore(2 * workers)
    filling = (started, start(ahead))
    starter = threading.Thread(target=_put_all, args=filling, name="plan", daemon=True)
    starter.start()
    try:
        for pair in _taken(started):
            yield pair
            ahead.release()
    finally:
        over.set()
        starter.join()
        pool.shutdown(cancel_futures=True)


def _put_all(stream: SimpleQueue, elements: Iterable[Any]) -> None:
    """Fill a queue, at last with an _End."""
    error = None
    try:
        for element in elements:
            stream.put(element)
    except BaseException as raised:
        error = raised
    stream.put(_End(error))


def _taken(stream: SimpleQueue, room: threading.Semaphore | None = None) -> Iterator[Any]:
    """What a queue holds until its end, each making room for another. Raises what stopped it."""
    while not isinstance(element := stream.get(), _End):
        if room is not None:
            room.release()
        yield element
    if element.error is not None:
        raise element.error
