"""Do the phase terms need energy weights, wrapping, balanced gradients? An ablation.

    earvae pack corpus/manifest.jsonl --split train -o pack --excerpts 8 --megabytes 45
    python experiments/gradients/run.py --minutes 3 --device cuda --out runs/gradients
    earvae evaluate corpus/manifest.jsonl --split validation --codec NAME=earvae:... -o results

Seven objectives, each with ``--seeds`` seeds, all at once on one GPU (or ``--jobs 1`` on a CPU),
for the same minutes each. ``results.md`` has what came out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import yaml

from earvae.model.vae import EarVAE

HERE = Path(__file__).parent
PER_TAR = 4  # models

FIXED = {
    "magnitude_linear": 1.0, "magnitude_log": 1.0, "correlation_intra": 1.0,
    "correlation_inter": 0.0, "instantaneous_frequency": 0.5, "group_delay": 0.5,
}  # fmt: skip
SHARES = {
    "magnitude_linear": 0.15, "magnitude_log": 0.35, "correlation_intra": 0.2,
    "instantaneous_frequency": 0.15, "group_delay": 0.15,
}  # fmt: skip

WEIGHTINGS = {
    "energy": {"phase_weighting": "energy", "phase_wrap": True},
    "amplitude": {"phase_weighting": "amplitude", "phase_wrap": True},
    "none": {"phase_weighting": "none", "phase_wrap": True},
    "released": {"phase_weighting": "none", "phase_wrap": False},
}
VARIANTS = {
    **{f"{name}_fixed": (name, False) for name in ("energy", "none", "released")},
    **{f"{name}_balanced": (name, True) for name in WEIGHTINGS},
}


def recipe(variant: str, seed: int) -> dict:
    """The base with the variant's objective. Both kinds of weights turn on the same terms."""
    weighting, balanced = VARIANTS[variant]
    values = yaml.safe_load((HERE / "base.yaml").read_text())
    values["objective"] |= WEIGHTINGS[weighting]
    if balanced:
        values["balance"] = {"shares": SHARES, "every": 20}
    else:
        values["objective"]["weights"] = FIXED
    values["seed"] = values["data"]["seed"] = seed
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True, help="of each run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=len(VARIANTS) * 2, help="at the same time")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [(variant, seed) for seed in range(options.seeds) for variant in options.only]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda pair: train(*pair, options), names))
    done = [f"{variant}_{seed}" for variant, seed in names]
    done = [name for name in done if (options.out / name / "ema").is_dir()]
    for first in range(0, len(done), PER_TAR):
        with tarfile.open(options.out / f"models_{first // PER_TAR}.tar", "w") as tar:
            for name in done[first : first + PER_TAR]:
                half = options.out / name / "half"
                EarVAE.from_pretrained(options.out / name / "ema").save_pretrained(
                    half, torch.float16
                )
                tar.add(half, name)
                if (options.out / name / "log.jsonl").is_file():
                    tar.add(options.out / name / "log.jsonl", f"{name}/log.jsonl")


def train(variant: str, seed: int, options: argparse.Namespace) -> None:
    folder = options.out / f"{variant}_{seed}"
    folder.mkdir(exist_ok=True)
    path = options.out / f"{variant}_{seed}.yaml"
    path.write_text(yaml.safe_dump(recipe(variant, seed)))
    command = [sys.executable, "-m", "earvae.cli.main", "train", str(path), "-o", str(folder)]
    command += ["--minutes", str(options.minutes), "--device", options.device, "--log", "csv"]
    command += ["--precision", options.precision, "--threads", "1"]
    with (folder / "out.txt").open("w") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    last = (folder / "out.txt").read_text().strip().splitlines()[-1:]
    lines = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        if (folder / "log.jsonl").is_file()
        else [{}]
    )
    speed = [line.get("speed/audio_seconds_per_second", 0) for line in lines][-3:]
    print(
        variant, seed, "status", status, *last, "audio s/s", [round(s) for s in speed], flush=True
    )


if __name__ == "__main__":
    main()
