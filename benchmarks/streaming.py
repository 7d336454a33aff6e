"""Speed and delay of streaming beside the offline codec, with the shipped model.

    python benchmarks/streaming.py --seconds 30

Every push size gets the same audio, turn by turn with the offline codec in one process; the
figure is the median. Latents come out of the encoder as blocks, so the decoder behind it has
blocks of one frame: it computes what the encoder hands it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from machine import processor
from rich.console import Console
from rich.table import Table
from torch import Tensor

from earvae import EarVAE, StreamingDecoder, StreamingEncoder, codec
from earvae.streaming import BLOCK_FRAMES

PUSHES = (1024, 4096, 16_384)  # samples


def seconds_taken(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class Live:
    """Audio through both streams, ``push`` samples at a time, with the time each took."""

    def __init__(self, vae: EarVAE, push: int, block_frames: int) -> None:
        self.push = push
        self.encoder = StreamingEncoder(vae, block_frames)
        self.decoder = StreamingDecoder(vae, block_frames=1)

    def run(self, audio: Tensor) -> tuple[float, float, float]:
        """Seconds of encoding, seconds of decoding, and those of the slowest push of both."""
        self.encoder.reset()
        self.decoder.reset()
        encoding, decoding = [], []
        for piece in audio.split(self.push, dim=2):
            started = time.perf_counter()
            latents = self.encoder.push(piece).mode()
            between = time.perf_counter()
            self.decoder.push(latents)
            encoding.append(between - started)
            decoding.append(time.perf_counter() - between)
        slowest = max(map(sum, zip(encoding, decoding, strict=True)))
        started = time.perf_counter()
        latents = self.encoder.flush().mode()
        encoding.append(time.perf_counter() - started)
        decoding.append(seconds_taken(lambda: self._end(latents)))
        return sum(encoding), sum(decoding), slowest

    def _end(self, latents: Tensor) -> None:
        self.decoder.push(latents)
        self.decoder.flush(self.encoder.samples)


def offline(vae: EarVAE, audio: Tensor) -> tuple[float, float]:
    """Seconds of encoding, seconds of decoding."""
    latents = codec.encode(vae, audio).mode()
    return (
        seconds_taken(lambda: codec.encode(vae, audio)),
        seconds_taken(lambda: codec.decode(vae, latents, audio.shape[2])),
    )


def speed_table(
    vae: EarVAE, seconds: float, repeats: int, block_frames: int, threads: int
) -> Table:
    audio = 0.1 * torch.randn(1, 2, int(seconds * vae.sample_rate))
    streams = {push: Live(vae, push, block_frames) for push in PUSHES}
    offline(vae, audio[..., : vae.sample_rate])  # warm up
    streams[PUSHES[0]].run(audio[..., : vae.sample_rate])
    whole, live = [], {push: [] for push in PUSHES}
    for _ in range(repeats):
        whole.append(offline(vae, audio))
        for push, stream in streams.items():
            live[push].append(stream.run(audio))

    table = Table(
        title=f"{seconds:g} s of stereo, shipped model, float32, {threads} threads of "
        f"{os.cpu_count()} cores ({processor()}), "
        f"torch {torch.__version__}"
    )
    table.add_column("pushes")
    for column in ("encode s", "decode s", "× real time", "× offline time", "slowest push ms"):
        table.add_column(column, justify="right")
    once = sum(map(statistics.median, zip(*whole, strict=True)))
    for name, runs in {"offline": whole, **live}.items():
        encode, decode, *slowest = map(statistics.median, zip(*runs, strict=True))
        table.add_row(
            name if name == "offline" else f"{name} samples",
            f"{encode:.2f}",
            f"{decode:.2f}",
            f"{seconds / (encode + decode):.1f}",
            f"{(encode + decode) / once:.1f}",
            f"{1000 * slowest[0]:.0f}" if slowest else "-",
        )
    return table


def latency_table(vae: EarVAE, blocks: list[int]) -> Table:
    """Milliseconds after a frame's end until it is given, and of a sample through both."""
    table = Table(title="delay in ms, pushes and computation aside")
    for column in ("block_frames", "encoder", "decoder", "decoder behind it", "through both"):
        table.add_column(column, justify="right")
    milliseconds = 1000 / vae.sample_rate
    for block_frames in blocks:
        encoder = StreamingEncoder(vae, block_frames).latency_samples
        decoder = StreamingDecoder(vae, block_frames).latency_samples
        behind = StreamingDecoder(vae, block_frames=1).latency_samples
        delays = (encoder, decoder, behind, vae.hop_length + encoder + behind)
        table.add_row(str(block_frames), *(f"{milliseconds * delay:.0f}" for delay in delays))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of audio")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--block-frames", type=int, default=BLOCK_FRAMES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    vae = EarVAE.from_pretrained()
    speed = speed_table(
        vae, arguments.seconds, arguments.repeats, arguments.block_frames, arguments.threads
    )
    console = Console(width=110)
    console.print(speed)
    console.print(latency_table(vae, sorted({1, 4, 8, 16, 32, arguments.block_frames})))


if __name__ == "__main__":
    main()
