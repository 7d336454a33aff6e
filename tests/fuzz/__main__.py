"""Try every reader on damaged files for a stated time.

    python -m tests.fuzz --minutes 30            (or: make fuzz MINUTES=30)
    python -m tests.fuzz --minutes 1 --reader audio --reader weights --seed 7

Readers take turns, each in a process of its own with bounded memory, so that a crash or a hang is
a fault like any other. Prints for each reader how many files it was given and how many of these it
took, and every fault with the folder (below ``--faults``) where its files were kept. The status
is 1 if there was any. A turn is repeated by its seed, which is printed with its faults.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.readers import READERS, Fault, Reader, attempt, limited_memory

TURN = 60.0  # seconds of one reader at a time, at most
SILENT = 120.0  # seconds without a new file after which a process hangs
ROUND = 300  # files of one seed


def main() -> int:
    """The command line; its status."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    names = [reader.name for reader in READERS]
    parser.add_argument("--reader", action="append", choices=names, help="only this; repeat it")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--faults", type=Path, default=Path("fuzz_faults"), metavar="FOLDER")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)  # in a process: seconds, folder
    given_ = parser.parse_args()
    chosen = [reader for reader in READERS if reader.name in (given_.reader or names)]
    if given_.turn:
        seconds, folder = given_.turn
        _Turn(chosen[0], Path(folder), given_.seed).take(float(seconds))
        return 0
    os.nice(given_.nice)
    return _all_turns(chosen, given_.minutes, given_.seed, given_.faults)


def _all_turns(readers: list[Reader], minutes: float, first: int, faults: Path) -> int:
    end = time.monotonic() + 60 * minutes
    turn = min(TURN, 60 * minutes / len(readers))
    tried = {reader.name: [0, 0] for reader in readers}
    found: dict[str, str] = {}
    for number, reader in enumerate(itertools.cycle(readers), first):
        if number >= first + len(readers) and time.monotonic() + turn > end:
            break
        _one_turn(reader, turn, number, tried[reader.name], found, faults)
    for name, (files, taken) in tried.items():
        print(f"{name}: {files} files, {taken} taken, {files - taken} refused")
    total = sum(files for files, _ in tried.values())
    print(f"{total} files in {minutes:g} minutes from seed {first}; {len(found)} kinds of faults")
    return 1 if found else 0


def _one_turn(
    reader: Reader, seconds: float, number: int, tried: list[int], found: dict, faults: Path
) -> None:
    """Start a process for a reader, watch it, and tell what it found."""
    with tempfile.TemporaryDirectory(prefix="earvae-fuzz-") as name:
        folder = Path(name)
        for part in ("input", "faults"):
            (folder / part).mkdir()
        command = [sys.executable, "-m", "tests.fuzz", "--reader", reader.name]
        command += ["--seed", str(number), "--turn", str(seconds), name]
        output = (folder / "output").open("wb")
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        crash = _watched(process, folder / "input")
        output.close()
        state = _state(folder)
        tried[0] += state["files"]
        tried[1] += state["taken"]
        if crash:
            last = (folder / "output").read_text(errors="replace")[-2000:]
            state["faults"].append([crash, last, "input"])
        for what, details, place in state["faults"]:
            kind = f"{reader.name}: {what}"
            if kind in found:
                continue
            kept = faults / f"{reader.name.replace(' ', '_')}-{number}-{len(found)}"
            shutil.copytree(folder / place, kept, dirs_exist_ok=True)
            (kept / "fault.txt").write_text(f"{kind}\nseed {number}\n\n{details}\n")
            found[kind] = str(kept)
            print(f"FAULT {kind} (seed {number}; {kept})", flush=True)


def _watched(process: subprocess.Popen, inputs: Path) -> str | None:
    """Wait for a process; what was wrong with its end, if anything was."""
    started = time.time()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if time.time() - max(started, inputs.stat().st_mtime) > SILENT:
                return f"hangs for more than {SILENT:.0f} s"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return None if process.returncode == 0 else f"the process ended with {process.returncode}"


def _state(folder: Path) -> dict:
    try:
        return json.loads((folder / "state.json").read_text())
    except (OSError, ValueError):
        return {"files": 0, "taken": 0, "faults": []}


class _Turn:
    """The turn of one reader, in this process. Its state is on disk after every round."""

    def __init__(self, reader: Reader, folder: Path, number: int) -> None:
        self.reader, self.folder, self.number = reader, folder, number
        self.files = self.taken = 0
        self.known: dict[str, list[str]] = {}  # faults by what tells them apart
        self.size: dict[str, int] = {}
        self.end = 0.0

    def take(self, seconds: float) -> None:
        """Rounds until the time is over."""
        self.end = time.monotonic() + seconds
        inputs = self.reader.inputs()
        with limited_memory():
            number = 1000 * self.number
            while time.monotonic() < self.end:
                self._round(inputs, number)
                number += 1
                self._tell()

    def _round(self, inputs, number: int) -> None:
        fresh: set[str] = set()  # found in this round: the smallest files of them are kept

        @seed(number)
        @settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
        )
        @given(inputs)
        def tried(files) -> None:
            if time.monotonic() > self.end + 10 * bool(fresh):
                return  # over; a few seconds more to find a small example
            self.files += 1
            try:
                self.taken += attempt(self.reader, files, self.folder / "input")
            except Exception as error:
                name = _signature(error)
                if name in self.known and name not in fresh:
                    return
                fresh.add(name)
                size = sum(map(len, files.values()))
                if size <= self.size.get(name, size):
                    self.size[name] = size
                    self._keep(name, error)
                raise

        try:
            tried()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or not fresh:
                raise

    def _keep(self, name: str, error: Exception) -> None:
        place = self.known.setdefault(name, [name, "", f"faults/{len(self.known)}"])
        place[1] = "".join(traceback.format_exception(error))[-6000:]
        shutil.rmtree(self.folder / place[2], ignore_errors=True)
        shutil.copytree(self.folder / "input", self.folder / place[2])
        self._tell()

    def _tell(self) -> None:
        state = {"files": self.files, "taken": self.taken, "faults": list(self.known.values())}
        temporary = self.folder / "state.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.folder / "state.json")


def _signature(error: Exception) -> str:
    """What tells faults apart: the kind, and the last line of the package that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    cause = error.__cause__
    if cause is not None:
        frames += traceback.extract_tb(cause.__traceback__)
    own = [frame for frame in frames if "/src/earvae/" in frame.filename.replace(os.sep, "/")]
    place = f" in {Path(own[-1].filename).name}, {own[-1].name}" if own else ""
    words = ""
    if isinstance(error, Fault):
        words = ": " + re.sub(r"\d+|\n", "#", str(error).split(":")[0][:60])
    return f"{type(error).__name__}{words}{place}"


if __name__ == "__main__":
    raise SystemExit(main())
