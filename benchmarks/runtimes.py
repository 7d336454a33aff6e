"""Other runtimes on exported graphs of a convolutional architecture, against the engines here.

    python benchmarks/runtimes.py                    onnxruntime, in float32 and dynamic int8
    pip install openvino && python benchmarks/runtimes.py          OpenVINO as well
    python benchmarks/runtimes.py --architecture earvae2           εar-VAE2; oobleck is the paper's

Random weights, music of tests/clips, all in one process, turn by turn; medians. The deviation is of
the encoder's latents and of the decoder's audio from the same latents, as SI-SDR against torch.
The transformer, small and the same everywhere, is left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic
from rich.console import Console
from rich.table import Table

from earvae import EarVAE, OobleckConfig
from earvae.audio import read_audio
from earvae.config import EarVAE2Config
from earvae.engine import ENGINES, EngineError, accelerate
from earvae.export.onnx import export_onnx
from earvae.si_sdr import si_sdr

CLIP = Path(__file__).parents[1] / "tests" / "clips" / "automat.flac"
CONFIGS = {"oobleck": OobleckConfig, "earvae2": EarVAE2Config}
PARTS = {"encoder": "audio", "decoder": "latents"}  # and the names of their inputs

Part = Callable[[np.ndarray], np.ndarray]


def torch_parts(vae: EarVAE, engine: str) -> list[Part]:
    """Encoder to means, and decoder."""
    prepared = accelerate(vae, engine)

    @torch.no_grad()
    def encode(audio: np.ndarray) -> np.ndarray:
        return prepared.encode(torch.from_numpy(audio)).mode().numpy()

    @torch.no_grad()
    def decode(latents: np.ndarray) -> np.ndarray:
        return prepared.decoder(torch.from_numpy(latents)).numpy()

    return [encode, decode]


def onnx_parts(folder: Path, threads: int) -> list[Part]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3

    def part(name: str) -> Part:
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options)
        return lambda x: session.run(None, {PARTS[name]: x})[0]

    return [part(name) for name in PARTS]


def openvino_parts(folder: Path, threads: int, precision: str) -> list[Part]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}

    def part(name: str) -> Part:
        model = openvino.Core().compile_model(folder / f"{name}.onnx", "CPU", settings)
        return lambda x: model([x])[0]

    return [part(name) for name in PARTS]


def quantised(folder: Path) -> Path:
    """The graphs with weights in int8 and activations quantised as they come."""
    (folder / "int8").mkdir()
    for name in PARTS:
        quantize_dynamic(folder / f"{name}.onnx", folder / "int8" / f"{name}.onnx")
    return folder / "int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=CONFIGS, default="oobleck")
    parser.add_argument("--seconds", type=float, default=1.0, help="of audio")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    threads = arguments.threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    vae = EarVAE(CONFIGS[arguments.architecture]()).eval()
    frames = max(1, round(arguments.seconds * vae.sample_rate / vae.hop_length))
    audio = read_audio(CLIP, vae.sample_rate)[None, :, : frames * vae.hop_length].numpy()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export_onnx(vae, folder)
        rows = {}
        for engine in ENGINES[1:]:
            with suppress(EngineError):  # no bfloat16 here
                rows[f"torch, {engine}"] = torch_parts(vae, engine)
        rows["onnxruntime"] = onnx_parts(folder, threads)
        rows["onnxruntime, int8"] = onnx_parts(quantised(folder), threads)
        if importlib.util.find_spec("openvino"):
            rows["OpenVINO"] = openvino_parts(folder, threads, "f32")
            rows["OpenVINO, bfloat16"] = openvino_parts(folder, threads, "bf16")
        del vae
        gc.collect()
        expected = latents, _ = results(rows["torch, plain"], audio)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        deviations = {}
        for parts in rows.values():
            results(parts, audio, latents)  # warm up
        for _ in range(arguments.repeats):
            for name, (encode, decode) in rows.items():
                started = time.perf_counter()
                found = [encode(audio)]
                encoded = time.perf_counter()
                found.append(decode(latents))
                times[name].append((encoded - started, time.perf_counter() - encoded))
                deviations[name] = [
                    decibels(ours, theirs) for ours, theirs in zip(found, expected, strict=True)
                ]

    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    table = Table(title=f"{arguments.seconds:g} s of stereo, {threads} threads, {versions}")
    table.add_column("runtime")
    for column in ("encode s", "decode s", "latents dB", "audio dB"):
        table.add_column(column, justify="right")
    for name, turns in times.items():
        medians = [statistics.median(part) for part in zip(*turns, strict=True)]
        table.add_row(name, *(f"{m:.2f}" for m in medians), *deviations[name])
    Console(width=110).print(table)


def results(
    parts: list[Part], audio: np.ndarray, latents: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Latents of the audio, and audio of these latents (or of others)."""
    encode, decode = parts
    found = encode(audio)
    return found, decode(found if latents is None else latents)


def decibels(ours: np.ndarray, theirs: np.ndarray) -> str:
    """SI-SDR of everything as one signal, as text."""
    if np.array_equal(ours, theirs):
        return "same"
    scale = theirs.std()  # random weights are quiet, and SI-SDR has a floor
    ours, theirs = (torch.from_numpy(x.reshape(1, -1) / scale) for x in (ours, theirs))
    return f"{float(si_sdr(ours, theirs)):.1f}"


if __name__ == "__main__":
    main()
