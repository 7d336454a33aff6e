"""Loading ahead: order, how far ahead, errors, leaving early."""

from __future__ import annotations

import threading
import time

import pytest

from earvae.library.prefetch import prefetch


def run(tasks, workers: int = 3) -> list:
    return [(thing, list(elements)) for thing, elements in prefetch(tasks, workers)]


def test_elements_come_in_the_order_of_the_tasks():
    def slowly(number: int):
        for element in range(number % 4):
            time.sleep(0.001 * (7 - number % 7))
            yield element

    tasks = [(number, lambda number=number: slowly(number)) for number in range(40)]
    assert run(tasks) == [(number, list(range(number % 4))) for number in range(40)]


def test_a_load_that_is_ahead_waits_after_one_element():
    made = []

    def load(number: int):
        for element in range(3):
            made.append((number, element))
            yield element

    pairs = prefetch([(number, lambda number=number: load(number)) for number in range(9)], 1)
    _, elements = next(pairs)
    time.sleep(0.3)
    assert made == [(0, 0), (0, 1)]  # the second is in the thread's hand
    assert list(elements) == [0, 1, 2]
    pairs.close()


@pytest.mark.parametrize("where", ["load", "tasks"])
def test_whatever_a_thread_raises_is_raised_here(where):
    def bad():
        yield 1
        raise KeyError("load")

    def tasks():
        yield 0, bad if where == "load" else lambda: [1]
        raise KeyError("tasks")

    with pytest.raises(KeyError, match=where):
        run(tasks())


def test_leaving_early_ends_the_threads_and_begins_nothing_more():
    begun = []

    def load(number: int):
        begun.append(number)
        yield from range(1000)

    before = set(threading.enumerate())
    for thing, _ in prefetch(
        ((number, lambda number=number: load(number)) for number in range(10**9)), 2
    ):
        if thing == 1:
            break
    assert set(threading.enumerate()) <= before and len(begun) <= 6
