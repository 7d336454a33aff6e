"""Show that an exported model runs where there is no torch, and gives what PyTorch gives.

Makes a fresh virtual environment with onnxruntime, numpy and soundfile and nothing else, exports
models, sends clips through each folder's runner.py there, and compares with the PyTorch path.

python tools/check_runner.py                       the shipped model
python tools/check_runner.py --weights a.pyt b/    others
python tools/check_runner.py --clip song.wav       music instead of noise
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import soundfile
import torch

from earvae import EarVAE, codec
from earvae.export.onnx import export_onnx

PACKAGES = ("onnxruntime", "numpy", "soundfile")
TOLERANCE = 1e-4  # of the peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="*", default=[None], help="as of earvae --weights")
    parser.add_argument("--seconds", nargs="*", type=float, default=[1.0, 7.77, 61.0])
    parser.add_argument("--clip", type=Path, help="a stereo file at the models' rate")
    parser.add_argument("--half", action="store_true", help="store weights in float16")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="check_runner-") as temporary:
        python = fresh_environment(Path(temporary) / "venv")
        print("| model | seconds | samples in | out | deviation of the peak | torch | runner |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        worst = 0.0
        for number, weights in enumerate(arguments.weights):
            vae = EarVAE.from_pretrained(weights)
            folder = Path(temporary) / str(number)
            export_onnx(vae, folder, arguments.half)
            for seconds in arguments.seconds:
                worst = max(worst, compare(vae, folder, python, seconds, weights, arguments))
    print(f"largest deviation {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


def fresh_environment(folder: Path) -> Path:
    """A virtual environment with the three packages; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", *PACKAGES], check=True)
    listed = subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True)
    print("packages:", ", ".join(listed.stdout.decode().split()))
    found = subprocess.run([python, "-I", "-c", "import torch"], capture_output=True)
    if found.returncode == 0:
        raise SystemExit("torch is there: this environment shows nothing")
    print("import torch:", found.stderr.decode().strip().splitlines()[-1])
    return python


def compare(
    vae: EarVAE,
    folder: Path,
    python: Path,
    seconds: float,
    weights: str | None,
    arguments: argparse.Namespace,
) -> float:
    """Print a row; the largest difference over the largest magnitude that PyTorch gives."""
    samples = int(seconds * vae.sample_rate)
    source, target = folder / "in.wav", folder / "out.wav"
    audio = clip(arguments.clip, samples, vae.sample_rate)
    soundfile.write(source, audio.T, vae.sample_rate, subtype="FLOAT")
    started = time.perf_counter()
    expected = codec.reconstruct(vae, torch.from_numpy(audio)[None])[0].numpy()
    in_torch = time.perf_counter() - started
    started = time.perf_counter()
    subprocess.run(
        [python, "-I", folder / "runner.py", "reconstruct", source, target,
         "--threads", str(arguments.threads)],
        check=True, stdout=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    in_runner = time.perf_counter() - started
    found = soundfile.read(target, dtype="float32", always_2d=True)[0].T
    deviation = float("inf")
    if found.shape == expected.shape:
        deviation = float(np.abs(found - expected).max() / np.abs(expected).max())
    print(
        f"| {weights or 'shipped'} | {seconds:g} | {samples} | {found.shape[1]} | {deviation:.1e} "
        f"| {in_torch:.2f} s | {in_runner:.2f} s |",
        flush=True,
    )
    return deviation


def clip(path: Path | None, samples: int, rate: int) -> np.ndarray:
    """Float32 ``[2, samples]``: the beginning of a file, or noise."""
    if path is None:
        return (0.2 * np.random.default_rng(samples).standard_normal((2, samples))).astype("f4")
    audio, found = soundfile.read(path, dtype="float32", always_2d=True, frames=samples)
    if found != rate or audio.shape != (samples, 2):
        raise SystemExit(f"{path}: needs {samples} stereo samples at {rate} Hz")
    return np.ascontiguousarray(audio.T)


if __name__ == "__main__":
    sys.exit(main())
