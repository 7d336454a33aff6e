"""The first signal leaves tidily, the second at once, whatever the process hangs in."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from earvae.audio import reading
from earvae.audio.containers import Part, PartFile

HANGS = """
import sys, threading, time
from earvae.signals import heed
heed()
threading.Thread(target=time.sleep, args=(60,)).start()
try:
    print(flush=True)
    time.sleep(60)
finally:
    print("tidy", flush=True)
"""


def started(code: str, **how) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )
    child.stdout.readline()
    return child


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_ends_what_hangs(first):
    # Under nohup, as a CI may run, the signal would be ignored from the start.
    child = started(HANGS, preexec_fn=lambda: signal.signal(first, signal.SIG_DFL))
    for _ in range(2):  # a launcher hands it on, too: still one
        child.send_signal(first)
    assert child.stdout.readline() == "tidy\n"
    time.sleep(0.5)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert "ended at once" in child.communicate(timeout=10)[1]
    assert child.returncode == 128 + signal.SIGINT


def test_what_is_ignored_stays_ignored():
    child = started(
        "import signal, time\nfrom earvae.signals import heed\nheed()\n"
        "print(flush=True)\ntime.sleep(1)\nprint('done')",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGHUP)
    assert child.communicate(timeout=10)[0] == "done\n" and child.returncode == 0


def test_signals_of_forked_processes_are_their_own():
    child = started(
        "import os, signal, time\nfrom earvae.signals import heed\nheed()\n"
        "for _ in range(2):\n"
        "    other = os.fork()\n"
        "    if not other:\n        print(flush=True)\n        time.sleep(60)\n"
        "    time.sleep(0.4)\n    os.kill(other, signal.SIGTERM)\n    os.waitpid(other, 0)\n"
        "print('done')"
    )
    assert child.communicate(timeout=20)[0].endswith("done\n") and child.returncode == 0


def test_a_signal_while_libsndfile_calls_back_is_not_lost(tmp_path, monkeypatch):
    """An exception in such a call would be printed, and taken for the end of the file."""
    soundfile.write(tmp_path / "a.wav", np.zeros((1000, 2)), 44_100)
    with (tmp_path / "a.wav").open("ab") as file:
        file.write(b"TAG" + bytes(125))
    calls = []

    class Interrupted(PartFile):
        def readinto(self, buffer):
            calls.append(signal.raise_signal(signal.SIGINT))
            return super().readinto(buffer)

    monkeypatch.setattr(reading, "PartFile", Interrupted)
    file = (tmp_path / "a.wav").open("rb")
    with pytest.raises(KeyboardInterrupt):
        reading.Stream(file, Part(0, file.seek(0, 2) - 128))
    assert calls
    file.close()


def test_ctrl_c_during_the_first_imports_shows_no_traceback():
    child = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time\nfrom earvae.cli.start import main\n"
            "class Slow:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'earvae.cli.main':\n"
            "            print(flush=True)\n            time.sleep(60)\n"
            "sys.meta_path.insert(0, Slow())\nmain()",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=10) == ("", "") and child.returncode == -signal.SIGINT
