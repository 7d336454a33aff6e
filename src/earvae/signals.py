"""What Ctrl-C, a scheduler or a closed terminal does to a command."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
ONE_PRESS = 0.3  # seconds in which signals are one, that a launcher handed on, too


def heed() -> Callable[[], None]:
    """From now on, the first signal leaves through every clean-up, so that nothing half-written
    stays; a second one ends the process at once, whatever it hangs in.

    Signals that are ignored (under ``nohup``, or in the background) stay so. Only for the main
    thread; returns what takes everything back.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    heeded = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _leave) for number in heeded}
    # Python runs handlers in the main thread, which may hang; the number of a signal is written
    # to this socket in any case. A forked process must not write there.
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    watched = (ours, theirs, heeded)  # the thread keeps both open
    watcher = threading.Thread(target=_watch, args=watched, name="endings", daemon=True)
    watcher.start()

    def undo() -> None:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.shutdown(socket.SHUT_RDWR)
        watcher.join()
        theirs.close()
        ours.close()

    return undo


@contextmanager
def held() -> Iterator[None]:
    """Handlers of signals wait until the end of this. What they raise while C calls back into
    Python would be printed and forgotten, and C would take it for the end of a file."""
    noted: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in ENDING}
        before = {number: handler for number, handler in before.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda number, _frame: noted.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if noted:
            before[noted[0]](noted[0], None)


def _leave(number: int, _frame: object) -> None:
    for later in ENDING:
        if signal.getsignal(later) is _leave:
            signal.signal(later, _clean_up_first)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _clean_up_first(_number: int, _frame: object) -> None:
    """Nothing: the process is leaving, and if it does not, the watching thread ends it."""


def _watch(numbers: socket.socket, _writer: socket.socket, heeded: list[int]) -> None:
    first = None
    while heard := numbers.recv(64):
        for number in heard:
            if number not in heeded:
                continue
            now = time.monotonic()
            first = first or now
            if now > first + ONE_PRESS:
                try:
                    print("error: interrupted again: ended at once", file=sys.stderr, flush=True)
                finally:
                    os._exit(128 + number)
