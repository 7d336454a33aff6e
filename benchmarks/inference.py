"""Engines side by side: speed, memory, and deviation from float32, on real music.

    python benchmarks/inference.py                          2 s and 30 s, about ten minutes
    python benchmarks/inference.py --seconds 2 --models shipped
    python benchmarks/inference.py --device cuda --compile

The first row of each block does what the published script does: weight norm computed at every
call, the whole file at once, float32, torch.inference_mode (εar-VAE2's: published_earvae2.py). The
others encode and decode in chunks, as the command line does. The paper's architecture ("published")
and εar-VAE2 have random weights, on which speed does not depend; music is the clips of tests/clips
one after another, over and over.

Every row has a process of its own, so that its memory can be told, and rows take turns (all once,
all again), so that a machine that slows down slows all of them. Figures are medians. × real time
is seconds of audio per second. "Ready" is the model's preparation and a first second of audio, with
whatever is compiled on first use. "Cpu s" is processor time for a second of audio, encode and
decode, which other work on the machine changes little. "Peak" is the most that the process held
from its start, model, preparation and torch itself included; on a GPU, what torch held there. The
deviation is of encode and decode together: SI-SDR of the decoded audio against the first row's, and
the largest difference as a share of that one's peak.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import published_earvae2
import torch
import torch.nn.functional as F
from machine import processor
from rich.console import Console
from rich.table import Table
from torch import Tensor

from earvae import EarVAE, OobleckConfig, codec
from earvae.audio import read_audio
from earvae.config import EarVAE2Config
from earvae.engine import EngineError, accelerate, choose, has_bfloat16
from earvae.si_sdr import si_sdr

CLIPS = Path(__file__).parents[1] / "tests" / "clips"
MODELS = {
    "shipped": "shipped model", "published": "the paper's architecture", "earvae2": "εar-VAE2",
}  # fmt: skip
RANDOM = {"published": OobleckConfig, "earvae2": EarVAE2Config}
ENGINES = ("plain", "exact", "fast")
REFERENCE, COMPILED = "as published", "torch.compile"
LONG = 10.0  # seconds from which the large architectures are run once only


@dataclass(frozen=True)
class Row:
    """What one process does."""

    model: str  # of MODELS
    engine: str  # of ENGINES, REFERENCE or COMPILED
    seconds: float  # of audio
    device: str
    threads: int


@dataclass
class Figures:
    """What became of it. Times in seconds, memory in bytes, one time a turn."""

    ready: float = 0.0  # after preparation and a first run of at most a second of audio
    encode: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # encode and decode, all threads
    peak: int = 0
    si_sdr: float | None = None  # dB against the reference; None: bit for bit the same
    error: float = 0.0  # largest, as a share of the reference's peak

    @property
    def both(self) -> float:
        return statistics.median(map(sum, zip(self.encode, self.decode, strict=True)))


# ------------------------------------------------------------------------------ in a row's process


def serve(row: Row, pipe: Connection) -> None:
    """Prepare, say so; then one turn for every True, and at False the audio and the memory."""
    torch.set_num_threads(row.threads)
    vae = load(row.model).to(row.device)
    audio = music(vae.sample_rate, row.seconds)[None].to(row.device)
    short = audio[..., : vae.sample_rate]
    started = time.perf_counter()
    encode, decode = functions(row, vae)
    del vae
    decoded, _ = timed(lambda: decode(encode(short), short.shape[2]), row.device)
    ready = time.perf_counter() - started
    if row.device != "cpu" or row.engine == COMPILED:  # what they choose depends on the length
        decode(encode(audio), audio.shape[2])
    pipe.send(ready)
    while pipe.recv():
        before = time.process_time()
        latents, encoding = timed(lambda: encode(audio), row.device)
        decoded, decoding = timed(lambda z=latents: decode(z, audio.shape[2]), row.device)
        pipe.send((encoding, decoding, time.process_time() - before))
    pipe.send((decoded[0].float().cpu().numpy(), peak_memory(row.device)))


def load(model: str) -> EarVAE:
    """A model of MODELS, on the CPU, in evaluation mode."""
    if model == "shipped":
        return EarVAE.from_pretrained()
    torch.manual_seed(0)
    return EarVAE(RANDOM[model]()).eval()


def music(rate: int, seconds: float) -> Tensor:
    """``[2, samples]``: the clips one after another, over and over."""
    clips = torch.cat([read_audio(path, rate) for path in sorted(CLIPS.glob("*.flac"))], dim=1)
    samples = round(seconds * rate)
    return clips.repeat(1, -(-samples // clips.shape[1]))[:, :samples]


Encode = Callable[[Tensor], Tensor]
Decode = Callable[[Tensor, int], Tensor]


def functions(row: Row, vae: EarVAE) -> tuple[Encode, Decode]:
    """Audio ``[1, 2, samples]`` to mean latents, and these to that many samples."""
    if row.engine == REFERENCE:
        if row.model == "earvae2":
            vae.encoder.forward = partial(published_earvae2.encode, vae.encoder)
            vae.decoder.forward = partial(published_earvae2.decode, vae.decoder)

        @torch.inference_mode()
        def whole(audio: Tensor) -> Tensor:
            missing = codec.frames_for(vae, audio.shape[2]) * vae.hop_length - audio.shape[2]
            return vae.encode(F.pad(audio, (0, missing))).mode()

        @torch.inference_mode()
        def back(latents: Tensor, samples: int) -> Tensor:
            return vae.decode(latents)[..., :samples]

        return whole, back

    engine = "plain" if row.engine == COMPILED else row.engine
    prepared = accelerate(vae, engine)
    if row.engine == COMPILED:
        prepared.encoder.compile(dynamic=True)
        prepared.decoder.compile(dynamic=True)

    def encode(audio: Tensor) -> Tensor:
        return codec.encode(prepared, audio).mode()

    def decode(latents: Tensor, samples: int) -> Tensor:
        return codec.decode(prepared, latents, samples)

    return encode, decode


def timed(call: Callable[[], Tensor], device: str) -> tuple[Tensor, float]:
    """What it gives and the seconds it took."""
    started = time.perf_counter()
    result = call()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def peak_memory(device: str) -> int:
    """Bytes that this process held at most: of a GPU there, else resident; 0 if unknown.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


# ------------------------------------------------------------------------------ all rows


def rows_of(model: str, seconds: float, arguments: argparse.Namespace) -> list[Row]:
    """The reference, then every engine that exists for the model on the device."""
    vae = load(model).to(arguments.device)
    found = [REFERENCE]
    for engine in arguments.engines:
        try:
            choose(vae, engine)
        except EngineError:
            continue
        found.append(engine)
    found += [COMPILED] * arguments.compile
    return [Row(model, name, seconds, arguments.device, arguments.threads) for name in found]


def measure(rows: list[Row], repeats: int) -> dict[Row, Figures]:
    """All rows of one model and length, in turns; the first is the reference."""
    context = multiprocessing.get_context("spawn")
    figures = {row: Figures() for row in rows}
    pipes, processes, decoded = {}, [], {}
    for row in rows:
        pipes[row], theirs = context.Pipe()
        process = context.Process(target=serve, args=(row, theirs), daemon=True)
        process.start()
        theirs.close()  # so that a row that dies is noticed
        processes.append(process)
        figures[row].ready = pipes[row].recv()
    for _ in range(repeats):
        for row in rows:
            pipes[row].send(True)
            encode, decode, processor = pipes[row].recv()
            figures[row].encode.append(encode)
            figures[row].decode.append(decode)
            figures[row].processor.append(processor)
    for row in rows:
        pipes[row].send(False)
        decoded[row], figures[row].peak = pipes[row].recv()
    for process in processes:
        process.join()
    for row in rows[1:]:
        found, expected = (torch.from_numpy(decoded[which]) for which in (row, rows[0]))
        figures[row].error = float((found - expected).abs().max() / expected.abs().max())
        if figures[row].error:
            scale = expected.std()  # random weights are quiet, and SI-SDR has a floor
            figures[row].si_sdr = float(si_sdr(found / scale, expected / scale))
    return figures


def hardware(arguments: argparse.Namespace) -> str:
    """One line."""
    name = processor(arguments.device)
    if arguments.device.startswith("cuda"):
        return f"{name}, torch {torch.__version__}"
    half = "with" if has_bfloat16(torch.device("cpu")) else "without"
    return (
        f"{name}, {half} bfloat16, {arguments.threads} threads of {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )


def table_of(title: str, figures: dict[Row, Figures]) -> Table:
    """A block: one model, one length."""
    table = Table(title=title, title_justify="left")
    table.add_column("engine")
    for name in ("ready s", "encode ×", "decode ×", "both ×", "speed-up", "cpu s", "peak MB",
                 "SI-SDR dB", "max error"):  # fmt: skip
        table.add_column(name, justify="right")
    reference = next(iter(figures.values()))
    for row, found in figures.items():
        encode, decode = statistics.median(found.encode), statistics.median(found.decode)
        speeds = (f"{row.seconds / seconds:.2f}" for seconds in (encode, decode, found.both))
        deviation = ("–", "–") if found is reference else ("same", "0")
        if found.si_sdr is not None:
            deviation = (f"{found.si_sdr:.1f}", f"{found.error:.1e}")
        table.add_row(
            row.engine,
            f"{found.ready:.1f}",
            *speeds,
            f"{reference.both / found.both:.2f}",
            f"{statistics.median(found.processor) / row.seconds:.3f}",
            f"{found.peak / 1e6:.0f}",
            *deviation,
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 30.0], help="of audio")
    parser.add_argument(
        "--repeats", type=int, help=f"turns. Default: 3; 1 for the published one from {LONG:g} s on"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--compile", action="store_true", help="add rows of torch.compile")
    arguments = parser.parse_args()

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: torch finds no GPU here")
    console = Console(width=120)
    console.print(hardware(arguments), highlight=False)
    for model in arguments.models:
        for seconds in arguments.seconds:
            once = model in RANDOM and seconds >= LONG
            repeats = arguments.repeats or (1 if once else 3)
            figures = measure(rows_of(model, seconds, arguments), repeats)
            turns = "one turn" if repeats == 1 else f"median of {repeats} turns"
            title = f"{MODELS[model]}, {seconds:g} s of stereo, {turns}"
            console.print(table_of(title, figures))


if __name__ == "__main__":
    main()
