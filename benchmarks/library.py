"""`earvae library` on generated music: speed, memory, and what kills do to it.

    python benchmarks/library.py                              10 000 files of one second
    python benchmarks/library.py --model paper --files 60     the published architecture
    python benchmarks/library.py --kill-test                  500 files, killed ten times
    python benchmarks/library.py --ray                        500 files on two nodes, one killed

Runs the command in processes of its own. The first form prints files a second, the share of time
in the encoder, and resident memory over the run. The kill test compares every byte with an
uninterrupted run, after every SIGKILL (nothing partial may be visible) and at the end, and then
with two ranks. With --ray two nodes of one CPU each are started on this machine, beside a head that
does no work; the command runs as it is, as two ranks, on the cluster, and on the cluster while one
of the nodes is killed with all its workers (and another one comes). Needs about 150
kB of disk for each second of audio in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 44_100
KILLS = 10
COMMAND = [sys.executable, "-m", "earvae.cli.main", "library"]


def make_files(folder: Path, count: int, shortest: float, longest: float) -> float:
    """Stereo FLAC of chords over noise, in folders of a thousand; seconds of audio."""
    source = np.random.default_rng(0)
    t = np.arange(int(60 * RATE)) / RATE
    notes = 110 * 2 ** (source.integers(0, 36, 12) / 12)
    tape = sum(np.sin(2 * np.pi * note * t + k) * (np.sin(note * t / 50) > 0)
               for k, note in enumerate(notes))  # fmt: skip
    tape = 0.04 * np.stack([tape, np.roll(tape, 999)], axis=1)
    tape += 0.01 * source.standard_normal(tape.shape)
    total = 0.0
    for number in range(count):
        seconds = source.uniform(shortest, longest)
        samples = round(seconds * RATE)
        start = source.integers(0, len(tape) - samples)
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = tape[start : start + samples] * source.uniform(0.3, 1)
        soundfile.write(path, audio, RATE, "PCM_16")
        total += samples / RATE
    return total


def weights_of(model: str, folder: Path) -> list[str]:
    """Options that choose the model."""
    if model != "paper":
        return [] if model == "shipped" else ["--weights", model]
    import torch

    from earvae import EarVAE
    from earvae.config import OobleckConfig

    torch.manual_seed(0)
    EarVAE(OobleckConfig()).save_pretrained(folder / "paper")
    return ["--weights", str(folder / "paper")]


def resident(pid: int) -> int:
    """Bytes of a process that are in memory; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def speed(arguments: argparse.Namespace, folder: Path) -> None:
    """Encode once; print what it took."""
    started = time.perf_counter()
    seconds = arguments.seconds
    total = make_files(folder / "in", arguments.files, seconds, seconds)
    print(f"generated in         {time.perf_counter() - started:.0f} s")
    command = [*COMMAND, folder / "in", "-o", folder / "out", *layout_of(arguments)]
    command += [*weights_of(arguments.model, folder), "--device", arguments.device]
    command += ["--workers", str(arguments.workers), *arguments.more]
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    memory: list[tuple[float, int]] = []
    while process.poll() is None:
        memory.append((time.perf_counter() - started, resident(process.pid)))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"status {process.returncode}")
    summary = json.loads((folder / "out" / "summary.json").read_text())
    (rank,) = summary["ranks"]
    written = sum(p.stat().st_size for p in (folder / "out").rglob("*") if p.is_file())
    print(f"machine              {platform.machine()}, {os.cpu_count()} CPUs; "
          f"{rank['device']}, {rank['threads']} threads")  # fmt: skip
    print(f"model                {arguments.model}")
    print(f"library              {arguments.files} files, {total:.0f} s of audio")
    print(f"written              {written / 1e6:.1f} MB, {summary['entries']} entries")
    print(f"encoding             {rank['seconds']:.1f} s")
    print(f"files a second       {rank['files_per_second']:.2f}")
    print(f"real time            {rank['speed']:.1f} ×")
    print(f"model computes       {rank['compute_share']:.1%} of the time")
    print_memory(memory, rank["seconds"])
    print(f"peak                 {rank['peak_memory'] / 1e6:.0f} MB")


def print_memory(memory: list[tuple[float, int]], encoding: float) -> None:
    """Resident memory at ten moments of the encoding, start-up left out."""
    end = memory[-1][0]
    during = [size for moment, size in memory if moment > end - encoding and size]
    if not during:
        return
    tenths = [during[min(len(during) - 1, round(k * len(during) / 10))] for k in range(1, 11)]
    print("resident, MB         " + " ".join(f"{size / 1e6:.0f}" for size in tenths))
    early, late = max(during[: len(during) // 5 + 1]), max(during)
    print(f"most after a fifth   {early / 1e6:.0f} MB, at all {late / 1e6:.0f} MB")


def layout_of(arguments: argparse.Namespace) -> list[str]:
    """Options of a layout."""
    return {"files": [], "shards": ["--shards"], "npy": ["--npy"]}[arguments.layout] + [
        "--block-files", str(arguments.block_files)
    ]  # fmt: skip


# ------------------------------------------------------------------------------ kills


def contents(folder: Path) -> dict[str, bytes]:
    """Every visible result but the summary, which tells times."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if name != "summary.json":
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def done(out: Path, block_files: int) -> int:
    """Files encoded so far; the parts of shards count, and whole shards too."""
    names = [name for _, _, files in os.walk(out) for name in files]
    entries = sum(name.endswith((".safetensors", ".npy")) for name in names)
    return entries + block_files * sum(name.endswith(".tar") for name in names)


def kill_test(arguments: argparse.Namespace, folder: Path) -> None:
    """Compare a run that is killed again and again, and two ranks, with an undisturbed one."""
    make_files(folder / "in", arguments.files, 0.2, 1.5)
    common = [str(part) for part in (*layout_of(arguments), "--device", arguments.device,
              "--workers", arguments.workers, *arguments.more)]  # fmt: skip
    common += weights_of(arguments.model, folder)

    def command(out: Path, *more: str) -> list[str]:
        return [*COMMAND, str(folder / "in"), "-o", str(out), *common, *more]

    started = time.perf_counter()
    subprocess.run(command(folder / "whole"), check=True, stdout=subprocess.DEVNULL)
    print(f"undisturbed          {time.perf_counter() - started:.1f} s")
    expected = contents(folder / "whole")

    moments = random.Random(0)
    out = folder / "killed"
    targets = sorted(moments.uniform(0, arguments.files) for _ in range(KILLS))
    for number, target in enumerate(targets, 1):
        process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL)
        while done(out, arguments.block_files) < target and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = contents(out) if out.is_dir() else {}
        wrong = [name for name, data in found.items() if expected.get(name) != data]
        print(f"kill {number:2d}              {done(out, arguments.block_files):4d} files done, "
              f"{len(wrong)} wrong or partial")  # fmt: skip
        if wrong:
            sys.exit(f"differs: {wrong[:5]}")
    finished = subprocess.run(command(out), check=True, capture_output=True, text=True)
    print(f"last run             {' '.join(finished.stdout.split()[:3])}")
    same("after all kills", contents(out), expected)

    ranks = [
        subprocess.Popen(
            command(folder / "two", "--rank", str(rank), "--world-size", "2"),
            stdout=subprocess.DEVNULL,
        )
        for rank in (0, 1)
    ]
    if any([process.wait() for process in ranks]):
        sys.exit("a rank failed")
    same("two ranks", contents(folder / "two"), expected)


# ------------------------------------------------------------------------------ a cluster


def cluster_test(arguments: argparse.Namespace, folder: Path) -> None:
    """The plain run, two ranks, and a Ray cluster of two nodes, of which one is killed."""
    total = make_files(folder / "in", arguments.files, arguments.seconds, arguments.seconds)
    print(f"library              {arguments.files} files, {total:.0f} s of audio")
    common = [str(part) for part in (*layout_of(arguments), "--device", "cpu", *arguments.more)]
    common += weights_of(arguments.model, folder)
    os.environ["OMP_NUM_THREADS"] = "1"  # of each encoder, wherever it is
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

    def command(out: str, *more: str) -> list[str]:
        return [*COMMAND, str(folder / "in"), "-o", str(folder / out), *common, *more]

    quiet = subprocess.DEVNULL

    def told(what: str, out: str, started: float) -> None:
        summary = json.loads((folder / out / "summary.json").read_text())
        ranks = summary["ranks"]
        seconds = max(rank["seconds"] for rank in ranks)
        computing = sum(rank["compute_seconds"] for rank in ranks)
        whole = time.perf_counter() - started
        print(f"{what:20} {arguments.files / seconds:6.1f} files a second, {seconds:.1f} s; in the "
              f"model {computing:.1f} s; the command {whole:.1f} s")  # fmt: skip

    started = time.perf_counter()
    subprocess.run(command("plain"), check=True, stdout=quiet)
    told("plain, one thread", "plain", started)
    expected = contents(folder / "plain")

    started = time.perf_counter()
    ranks = [
        subprocess.Popen(command("ranks", "--rank", rank, "--world-size", "2"), stdout=quiet)
        for rank in "01"
    ]
    if any([process.wait() for process in ranks]):
        sys.exit("a rank failed")
    told("two ranks", "ranks", started)

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        started = time.perf_counter()
        subprocess.run(command("ray", "--ray", cluster.address), check=True, stdout=quiet)
        told("two nodes", "ray", started)
        same("two nodes", contents(folder / "ray"), expected)

        started = time.perf_counter()
        out = folder / "killed"
        process = subprocess.Popen(command("killed", "--ray", cluster.address), stdout=quiet)
        while done(out, arguments.block_files) < arguments.files / 3 and process.poll() is None:
            time.sleep(0.01)
        workers = killed(nodes[0])
        print(f"killed               a node and {workers} workers, after "
              f"{done(out, arguments.block_files)} files")  # fmt: skip
        cluster.add_node(num_cpus=1)
        if process.wait():
            sys.exit("failed")
        told("one node killed", "killed", started)
        same("one node killed", contents(out), expected)
    finally:
        cluster.shutdown()


def killed(node: object) -> int:
    """SIGKILL to a node's raylet and to all processes below it; how many these were."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    (raylet,) = (info.process.pid for info in node.all_processes["raylet"])
    below = [pid for pid, parent in parents.items() if parent == raylet]
    for pid in (raylet, *below):
        os.kill(pid, signal.SIGKILL)
    return len(below)


def same(what: str, found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Print the verdict; leave with status 1 unless it is good."""
    size = sum(map(len, expected.values()))
    if found != expected:
        names = [n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)]
        sys.exit(f"{what}: differs: {sorted(names)[:5]}")
    print(f"{what:20} byte-identical: {len(expected)} files, {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, help="default: 10000; 500 in the tests")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each file")
    parser.add_argument("--model", default="shipped", help="shipped, paper, or a weights folder")
    parser.add_argument("--layout", choices=["files", "shards", "npy"], default="files")
    parser.add_argument("--block-files", type=int, help="default: 256; 50 in the tests")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-test", action="store_true")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("more", nargs="*", help="options of `earvae library`, after --")
    arguments = parser.parse_args()
    small = arguments.kill_test or arguments.ray
    arguments.files = arguments.files or (500 if small else 10_000)
    arguments.block_files = arguments.block_files or (50 if small else 256)
    with tempfile.TemporaryDirectory() as folder:
        test = kill_test if arguments.kill_test else cluster_test if arguments.ray else speed
        test(arguments, Path(folder))


if __name__ == "__main__":
    main()
