"""Give music one fault at a time and see which measures react: a table of faults × measures.

    python tools/faults.py --judges -o faults      # the test clips, the judges as well, and WAVs
    python tools/faults.py corpus/manifest.jsonl --split validation

Each fault is made at 2–4 kHz of music that is panned: a piece on the left and, 20 dB lower, the
same piece backwards on the right; 8 s from the middle of each track. The figures are those of that
band, mean over the pieces; those that react are bold, and marked where they should not. Below the
table stands for which pieces it was otherwise. The measures are docs/measures.md's. The judges hear
all of it, not the band alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import soundfile
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d, pad

from earvae.audio import read_audio
from earvae.evaluation.figures import BY_KEY, HEARING, JUDGES, measure, of_group
from earvae.evaluation.metrics import Signal
from earvae.evaluation.tables import title
from earvae.tracks import find

RATE = 44_100
HOP = 1024  # samples in a frame of the codec that is imitated
SECONDS = 8
QUIETER_DB = -20.0  # the right channel
BAND, LOW_HZ, HIGH_HZ = "2-4", 2_000, 4_000
SMOOTH = 256  # samples over which a level is taken, 6 ms
CLIPS = sorted((Path(__file__).parents[1] / "tests" / "clips").glob("*.flac"))

PERFECT = {"repetition": 0.0, "evenness": 0.0, "level": 0.0, "panning": 0.0, "lines_f1": 1.0}
SLACK = {"repetition": 0.05, "evenness": 0.5, "level": 1.0, "panning": 1.0, "lines_f1": 0.2}
"""How far from perfect a figure may be before it counts as a reaction."""
SHOWN = (*PERFECT, "sdr")


def panned(piece: Tensor) -> Tensor:
    """``[2, samples]``: Mid of the piece on the left, and backwards and lower on the right."""
    mid = piece.mean(0)
    return torch.stack([mid, mid.flip(0) * 10 ** (QUIETER_DB / 20)])


def middle(audio: Tensor) -> Tensor:
    """8 s, or all of what is shorter."""
    start = max(0, (audio.shape[1] - SECONDS * RATE) // 2)
    return audio[:, start : start + SECONDS * RATE]


# ------------------------------------------------------------------------------ parts


def band(audio: Tensor) -> Tensor:
    """What of ``[..., samples]`` lies at 2–4 kHz."""
    spectrum = torch.fft.rfft(audio)
    hz = torch.linspace(0, RATE / 2, spectrum.shape[-1])
    return torch.fft.irfft(spectrum * ((hz >= LOW_HZ) & (hz < HIGH_HZ)), n=audio.shape[-1])


def levelled(part: Tensor, like: Tensor) -> Tensor:
    """A part with the level that another has at each moment in each channel."""

    def power(audio: Tensor) -> Tensor:
        return avg_pool1d(audio.square(), SMOOTH + 1, 1, SMOOTH // 2)

    return part * (power(like) / power(part).clamp_min(1e-20)).sqrt()


def analytic(audio: Tensor) -> Tensor:
    """The complex signal whose real part is ``[..., samples]`` and that has no negative
    frequencies."""
    spectrum = torch.fft.fft(audio)
    spectrum[..., 1 : (audio.shape[-1] + 1) // 2] *= 2
    spectrum[..., audio.shape[-1] // 2 + 1 :] = 0
    return torch.fft.ifft(spectrum)


# ------------------------------------------------------------------------------ faults


def repeated(part: Tensor) -> Tensor:
    """Every eighth frame comes eight times, at the level of what was there."""
    pairs = pad(part, (0, 2 * HOP)).unfold(-1, 2 * HOP, HOP) * torch.hann_window(2 * HOP)
    held = pairs[:, ::8].repeat_interleave(8, dim=1)[:, : pairs.shape[1]]
    whole = pad(held[..., :HOP], (0, 0, 0, 1)) + pad(held[..., HOP:], (0, 0, 1, 0))
    return levelled(whole.flatten(1)[:, : part.shape[1]], part)


def gated(part: Tensor) -> Tensor:
    """What is 6 dB below the mean power around it (400 Hz, 50 ms) is gone; the level stays."""
    options = {"n_fft": 512, "hop_length": 128, "window": torch.hann_window(512)}
    spectrum = torch.stft(part, **options, return_complex=True)
    power = spectrum.abs().square()
    around = avg_pool2d(power[:, None], (5, 17), 1, (2, 8))[:, 0]
    kept = torch.istft(spectrum * (power > around / 4), **options, length=part.shape[1])
    return kept * (part.square().mean(1, True) / kept.square().mean(1, True)).sqrt()


def notched(part: Tensor) -> Tensor:
    """5 dB less."""
    return part * 10 ** (-5 / 20)


def leaking(part: Tensor) -> Tensor:
    """A fifth of the left comes on the right as well, a quarter of a period late."""
    return torch.cat([part[:1], part[1:] + 0.2 * analytic(part[:1]).imag.float()])


def shifted(part: Tensor) -> Tensor:
    """Every partial is 35 Hz higher."""
    turn = 2 * math.pi * 35 / RATE * torch.arange(part.shape[1], dtype=torch.float64)
    return (analytic(part) * torch.polar(torch.ones_like(turn), turn)).real.float()


def noise(part: Tensor) -> Tensor:
    """Noise of the level of what was there."""
    return levelled(band(torch.randn(part.shape, generator=torch.Generator().manual_seed(0))), part)


@dataclass(frozen=True)
class Fault:
    name: str
    make: Callable[[Tensor], Tensor]
    """What was at 2–4 kHz, ``[2, samples]``, to what is there now."""
    meant: str
    """The measure that is for it."""
    also: tuple[str, ...] = ()
    """Measures that may react too, for it has their fault as well."""

    def given_to(self, audio: Tensor) -> Tensor:
        part = band(audio)
        return audio - part + self.make(part)


FAULTS = (
    Fault(
        "repeated frame", repeated, "repetition", ("lines_f1",)
    ),  # partials move to its harmonics
    Fault("gate", gated, "evenness"),
    Fault("notch", notched, "level"),
    Fault("leak", leaking, "panning"),
    Fault("shift of partials", shifted, "lines_f1"),
    Fault("noise in its place", noise, "lines_f1", ("evenness",)),
)


def figures_of(fault: Fault, audio: Tensor, judges: bool = False) -> dict[str, float | None]:
    """By measure the figure of the fault's band, and the judges' opinions."""
    pair = Signal(fault.given_to(audio), RATE, HOP), Signal(audio, RATE)
    found = measure(*pair, of_group(HEARING) + (of_group(JUDGES) if judges else []))
    return {key: found.get(f"{key}_{BAND}", found.get(key)) for key in columns(judges)}


def columns(judges: bool) -> list[str]:
    return [*SHOWN, *(figure.key for figure in of_group(JUDGES) if judges)]


def reacts(key: str, value: float) -> bool:
    """Whether a measure of one fault says that there is one."""
    return abs(value - PERFECT[key]) > SLACK[key]


# ------------------------------------------------------------------------------ the command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("music", nargs="*", default=CLIPS, help="default: the test clips")
    parser.add_argument("--split", help="of a folder or a manifest")
    parser.add_argument("--judges", action="store_true", help="needs the extra `judges`")
    parser.add_argument("--output", "-o", type=Path, help="folder for WAVs")
    arguments = parser.parse_args()
    music = find(arguments.music, split=arguments.split).files
    pieces = {file.name: panned(middle(read_audio(file.path, RATE))) for file in music}
    keys = columns(arguments.judges)
    missed, stray = [], []

    table = Table(title=f"Faults at 2–4 kHz, mean over {len(pieces)} pieces")
    table.add_column("fault")
    for key in keys:
        figure = BY_KEY.get(f"{key}_{BAND}") or BY_KEY[key]
        table.add_column(title(figure), justify="right")
    for fault in FAULTS:
        rows = {name: figures_of(fault, a, arguments.judges) for name, a in pieces.items()}
        for name, row in rows.items():
            found = {key for key in PERFECT if row[key] is not None and reacts(key, row[key])}
            missed += [f"{name}, {fault.name}"] * (fault.meant not in found)
            others = found - {fault.meant, *fault.also}
            stray += [f"{name}, {fault.name}: {key} {row[key]:.2f}" for key in others]
        cells = []
        for key in keys:
            value = mean(row[key] for row in rows.values() if row[key] is not None)
            text = (BY_KEY.get(f"{key}_{BAND}") or BY_KEY[key]).text(value)
            if key in PERFECT and reacts(key, value):
                expected = key in (fault.meant, *fault.also)
                text = f"[bold]{text}[/bold]" + " (!)" * (not expected)
            cells.append(text)
        table.add_row(fault.name, *cells)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            for name, audio in pieces.items():
                wav = arguments.output / f"{Path(name).stem} {fault.name}.wav".replace(" ", "_")
                soundfile.write(wav, fault.given_to(audio).T.numpy(), RATE, subtype="FLOAT")
    Console(width=120).print(table)
    entries = len(pieces) * sum(len(PERFECT) - 1 - len(fault.also) for fault in FAULTS)
    print(f"missed: {len(missed)} of {len(pieces) * len(FAULTS)}", *missed, sep="\n  ")
    print(f"reacted to another's fault: {len(stray)} of {entries}", *stray, sep="\n  ")


if __name__ == "__main__":
    main()
