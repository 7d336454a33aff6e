"""Ten minutes on a GPU: its tests, a step's time, a training run; results in small files.

    earvae pack MUSIC -o pack --excerpts 8 --megabytes 45        # at home: music for a thin line
    python tools/gpu_kit.py RECIPE --data pack/index.json --minutes 8 --out OUT        # over there
    python tools/gpu_kit.py RECIPE --data pack/index.json --minutes 1 --device cpu --out /tmp/dry

``--tests`` and ``--bench`` run the GPU's tests and benchmarks/training.py first, which take their
own time. The run itself ends in time, or is killed half a minute later. OUT then holds its log, and
``state.pt.00`` … of at most 15 MB each: averaged weights and discriminator in half precision. At
home,

    cat OUT/state.pt.* > runs/back/checkpoint.pt && earvae export-weights runs/back -o runs/back/ema

makes it a run folder, which the next recipe may name as ``initial_weights``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from earvae.training.checkpoint import CHECKPOINT

PIECE = 15_000_000  # bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", help="in place of the recipe's sources")
    parser.add_argument(
        "--minutes", type=float, required=True, help="for the run, its start included"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/kit"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--bench", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for piece in options.out.glob("state.pt.*"):  # of an earlier run: pieces are joined by name
        piece.unlink()
    if options.tests:
        follow(
            [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"], options.out / "tests.txt"
        )
    if options.bench:
        bench = [sys.executable, "benchmarks/training.py", str(options.recipe), "--compile"]
        bench += ["--device", options.device, "--precision", "bf16", "--steps", "20"]
        follow(bench, options.out / "bench.txt")
    command = [sys.executable, "-m", "earvae.cli.main", "train", str(options.recipe)]
    command += ["-o", str(options.run), "--minutes", str(options.minutes)]
    command += ["--device", options.device, "--precision", options.precision, "--log", "csv"]
    if options.data:
        command += ["--data", options.data]
    status = follow(command, options.out / "train.txt", 60 * options.minutes + 30)
    if (options.run / CHECKPOINT).is_file():
        pack_state(options.run / CHECKPOINT, options.out)
    if (options.run / "log.jsonl").is_file():
        shutil.copy(options.run / "log.jsonl", options.out)
    return 0 if status in (0, 75) else status


def follow(command: list[str], log: Path, seconds: float | None = None) -> int:
    """Run a command for at most ``seconds``, its output both here and in ``log``; the status."""
    started = time.monotonic()
    print("$", *command, flush=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        watch = threading.Timer(seconds or 1e6, process.kill)
        watch.daemon = True
        watch.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
        status = process.wait()
        watch.cancel()
    print(f"status {status} after {time.monotonic() - started:.0f} s", flush=True)
    return status


def pack_state(checkpoint: Path, out: Path) -> None:
    """What the next run starts from, in half precision, in pieces: without what the optimisers
    remember, as a run that has made no step."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    ema = {name: value.half() if value.is_floating_point() else value
           for name, value in saved["ema"].items()}  # fmt: skip
    kept = {"config": saved["config"], "step": 0, "vae": ema, "ema": ema}
    kept |= {"optimiser": {"state": {}}, "counters": {}}
    if "discriminator" in saved:
        kept["discriminator"] = {n: v.half() for n, v in saved["discriminator"].items()}
        kept["discriminator_optimiser"] = {"state": {}}
    path = out / "state.pt"
    torch.save(kept, path)
    content = path.read_bytes()
    path.unlink()
    for number, first in enumerate(range(0, len(content), PIECE)):
        (out / f"state.pt.{number:02d}").write_bytes(content[first : first + PIECE])
    print(f"{len(content) / 1e6:.1f} MB after step {saved['step']} in {out}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
