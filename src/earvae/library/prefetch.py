"""Loading ahead in threads: libsndfile and soxr let others run meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

POLL_SECONDS = 0.2  # how soon a thread that waits sees that the run is over


class _Over(Exception):
    """The run ended while a thread was still loading."""


class _End:
    """Nothing follows; ``error`` is what stopped the thread."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(
    tasks: Iterable[tuple[Any, Callable[[], Iterable[Any]]]],
    workers: int,
    depth: int,
) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Run loads in ``workers`` threads, in order, at most ``depth`` tasks ahead.

    A task is a pair of anything and a function whose elements are loaded; the result is the
    pairs of the same thing and its elements, which are to be used up before the next pair. A
    load that is ahead waits after one element. ``tasks`` itself is run through in a thread.
    Whatever a thread raises is raised here.
    """
    over = threading.Event()
    room = threading.Semaphore(depth)
    started: queue.SimpleQueue = queue.SimpleQueue()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def put(stream: queue.Queue, element: Any) -> None:
        while True:
            if over.is_set():
                raise _Over
            try:
                return stream.put(element, timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def load(stream: queue.Queue, function: Callable[[], Iterable[Any]]) -> None:
        error: BaseException | None = None
        try:
            for element in function():
                put(stream, element)
        except _Over:
            return
        except BaseException as raised:
            error = raised
        try:
            put(stream, _End(error))
        except _Over:
            pass

    def start() -> None:
        try:
            for thing, function in tasks:
                while not room.acquire(timeout=POLL_SECONDS):
                    if over.is_set():
                        return
                if over.is_set():
                    return
                stream: queue.Queue = queue.Queue(maxsize=1)
                pool.submit(load, stream, function)
                started.put((thing, stream))
            started.put(_End())
        except BaseException as raised:
            started.put(_End(raised))

    starter = threading.Thread(target=start, name="plan", daemon=True)
    starter.start()
    try:
        while not isinstance(pair := started.get(), _End):
            thing, stream = pair
            yield thing, _elements(stream)
            room.release()
        if pair.error is not None:
            raise pair.error
    finally:
        over.set()
        starter.join()
        pool.shutdown(cancel_futures=True)


def _elements(stream: queue.Queue) -> Iterator[Any]:
    while not isinstance(element := stream.get(), _End):
        yield element
    if element.error is not None:
        raise element.error
