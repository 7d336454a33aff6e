"""Send probes through models and look for what was not there: new tones, clicks, echoes, noise.

    python tools/probes.py                                  # the shipped model
    python tools/probes.py runs/twin/ema runs/adv/ema -o probes

Probes are made here, 8 s each at 44.1 kHz, alike on every machine: a logarithmic sine sweep,
silence, impulses, a piano of inharmonic decaying strings, and a drum loop. "control" rows are the
original with a tone at −50 dB of its peak and a click (−20 dB; 0 dB in the drum loop and among the
impulses), and show that the detectors find these. Of piano and drums a second table has the
measures of docs/measures.md by band. With -o, WAVs of all are written too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import maximum_filter1d, median_filter

from earvae import EarVAE, codec
from earvae.evaluation.figures import HEARING, MISSING, band_name, measure, of_group
from earvae.evaluation.metrics import Signal
from earvae.evaluation.metrics.octaves import BANDS_HZ
from earvae.evaluation.tables import title

RATE = 44_100
LENGTH = 8 * RATE
WINDOW, HOP = 8192, 2048  # of the search for tones
TONE_FRAMES = 8  # a tone lasts 0.37 s, which noise seldom feigns
TONE_OVER_NOISE_DB = 15.0
NEW_DB = 12.0  # new is what exceeds everything of the original nearby by this
AUDIBLE_DB = -70.0  # below the loudest of the original
CLICK_BLOCK = 44  # samples, 1 ms
CLICK_OVER_BACKGROUND_DB = 18.0
MUSIC = ("piano", "drums")  # probes that the measures by band make sense of


# ------------------------------------------------------------------------------ probes


def sweep() -> np.ndarray:
    """20 Hz to 20 kHz at −12 dBFS, Left and Right alike."""
    time = np.arange(LENGTH) / RATE
    rate = np.log(1000) / time[-1]
    sine = 0.25 * np.sin(2 * np.pi * 20 / rate * (np.exp(rate * time) - 1))
    return np.stack([sine, sine])


def impulses() -> np.ndarray:
    """One a second, alternating between Left and Right, at half of full scale."""
    audio = np.zeros((2, LENGTH))
    for second in range(8):
        audio[second % 2, second * RATE + RATE // 2] = 0.5
    return audio


def piano() -> np.ndarray:
    """Chords and a melody: strings with inharmonic partials that decay, each note a little to a
    side, a felt knock at each onset."""
    random = np.random.default_rng(1)
    audio = np.zeros((2, LENGTH))
    notes = [(beat * 0.5, n) for beat, n in enumerate([60, 64, 67, 72, 71, 67, 64, 62] * 2)]
    notes += [(bar * 2.0, n) for bar in range(4) for n in ([36, 43, 52], [41, 48, 57])[bar % 2]]
    for start, note in notes:
        first = 440 * 2 ** ((note - 69) / 12)
        time = np.arange(int(min(3.0, 8 - start) * RATE)) / RATE
        tone = np.zeros(len(time))
        for k in range(1, 40):
            frequency = k * first * np.sqrt(1 + 3e-4 * k**2)
            if frequency > 15_000:
                break
            decay = np.exp(-time * (1.0 + 0.6 * k))
            tone += decay * np.sin(2 * np.pi * (frequency * time + random.random())) / k**1.4
        knock = random.standard_normal(len(time)) * np.exp(-time / 0.004) * 0.05
        tone = (tone + knock) * np.minimum(1, time / 0.002)
        side = np.clip((note - 60) / 60, -0.4, 0.4)
        at = int(start * RATE)
        audio[0, at : at + len(tone)] += tone * (1 - side)
        audio[1, at : at + len(tone)] += tone * (1 + side)
    audio *= np.minimum(1, np.arange(LENGTH)[::-1] / (0.1 * RATE))  # no edge at the end
    return 0.5 * audio / np.abs(audio).max()


def drums() -> np.ndarray:
    """120 beats a minute: a falling sine, noise bursts long and short."""
    random = np.random.default_rng(2)
    audio = np.zeros((2, LENGTH))
    time = np.arange(RATE // 4) / RATE
    kick = np.sin(2 * np.pi * (50 * time + 4 * (1 - np.exp(-time * 30)))) * np.exp(-time * 14)
    for eighth in range(32):
        at = eighth * RATE // 4
        noise = random.standard_normal((2, len(time)))
        hat = np.diff(noise, axis=1, prepend=0) * np.exp(-time * 90) * 0.12
        audio[:, at : at + len(time)] += hat
        if eighth % 4 == 0:
            audio[:, at : at + len(time)] += kick
        if eighth % 4 == 2:
            tone = np.sin(2 * np.pi * 190 * time) * np.exp(-time * 25)
            audio[:, at : at + len(time)] += 0.4 * tone + 0.2 * noise * np.exp(-time * 22)
    return 0.7 * audio / np.abs(audio).max()


# ------------------------------------------------------------------------------ detectors


def power(audio: np.ndarray) -> np.ndarray:
    """``[frames, bins]`` in dB, both channels together; a sine of full scale in both has 0 dB."""
    window = np.hanning(WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(audio, WINDOW, axis=1)[:, ::HOP]
    spectra = np.abs(np.fft.rfft(frames * window) / window.sum() * 2) ** 2
    return 10 * np.log10(spectra.mean(axis=0) + 1e-20)


def new_tones(audio: np.ndarray, original: np.ndarray) -> tuple[float, float | None]:
    """Seconds of tones that the original has not, summed over tones, and the level of the
    strongest, dB of full scale: narrow peaks over the noise around them that last."""
    ours, theirs = power(audio), power(original)
    around = maximum_filter1d(maximum_filter1d(theirs, 7, axis=1), 5, axis=0)
    tone = ours == maximum_filter1d(ours, 5, axis=1)
    tone &= ours > median_filter(ours, (1, 101)) + TONE_OVER_NOISE_DB
    tone &= (ours > around + NEW_DB) & (ours > theirs.max() + AUDIBLE_DB)
    near = maximum_filter1d(tone, 3, axis=1)  # it may move by a bin
    length = np.zeros(tone.shape[1], dtype=int)
    seconds, strongest = 0.0, None
    for frame in range(len(tone)):
        length = np.where(near[frame], length + 1, 0)
        found = tone[frame] & (length >= TONE_FRAMES)
        if found.any():
            seconds += found.sum() * HOP / RATE
            strongest = max(strongest or -200.0, float(ours[frame][found].max()))
    return seconds, strongest


def new_clicks(audio: np.ndarray, original: np.ndarray) -> int:
    """Blocks of a millisecond that stand out of the tenth of a second around them, in the treble,
    and of everything the original has within 35 ms, what a latent frame reaches."""

    def envelope(signal: np.ndarray) -> np.ndarray:
        treble = np.abs(np.diff(signal, 2, axis=1)).max(axis=0)
        blocks = treble[: len(treble) // CLICK_BLOCK * CLICK_BLOCK].reshape(-1, CLICK_BLOCK)
        return 20 * np.log10(blocks.max(axis=1) + 1e-10)

    ours, theirs = envelope(audio), envelope(original)
    click = ours > median_filter(ours, 101) + CLICK_OVER_BACKGROUND_DB
    click &= ours > maximum_filter1d(theirs, 71) + NEW_DB
    click &= ours > theirs.max() + AUDIBLE_DB
    return int((np.diff(click.astype(int), prepend=0) == 1).sum())


def spread(audio: np.ndarray, original: np.ndarray) -> float:
    """Energy further than 35 ms from the original's impulses, dB of all."""
    far = np.ones(audio.shape[1], dtype=bool)
    for at in np.flatnonzero(np.abs(original).max(axis=0)):
        far[max(0, at - RATE * 35 // 1000) : at + RATE * 35 // 1000] = False
    energy = (audio**2).sum(axis=0)
    return 10 * np.log10(energy[far].sum() / energy.sum() + 1e-20)


def control(probe: str, original: np.ndarray) -> np.ndarray:
    """The original with a tone at −50 dB of its peak, and a click."""
    audio, peak = original.copy(), np.abs(original).max()
    audio += peak * 10**-2.5 * np.sin(2 * np.pi * 3333 / RATE * np.arange(LENGTH))
    audio[:, 3 * RATE + 5_500] += peak * (0.1 if probe in ("sweep", "piano") else 1)
    return audio


# ------------------------------------------------------------------------------ the command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="sources of EarVAE.from_pretrained")
    parser.add_argument("--output", "-o", type=Path, help="folder for WAVs")
    arguments = parser.parse_args()
    models = {name: EarVAE.from_pretrained(name) for name in arguments.models}
    models = models or {"shipped": EarVAE.from_pretrained()}
    probes = {f.__name__: f() for f in (sweep, impulses, piano, drums)}

    table = Table(title="What was not there")
    for column in (
        "probe",
        "system",
        "new tones s",
        "strongest dBFS",
        "clicks",
        "level dB",
        "far dB",
    ):
        table.add_column(column, justify="left" if column in ("probe", "system") else "right")
    heard = Table(title="What the distances do not hear")
    for column in ("probe", "system", "measure", *map(band_name, BANDS_HZ)):
        heard.add_column(column, justify="right" if "kHz" in column else "left")
    for probe, original in probes.items():
        outputs = {"original": original, "control": control(probe, original)}
        for name, vae in models.items():
            outputs[name] = decoded(vae, original)
            if probe in MUSIC:
                for row in heard_rows(outputs[name], original, vae):
                    heard.add_row(probe, name, *row)
        for name, audio in outputs.items():
            seconds, strongest = new_tones(audio, original)
            table.add_row(
                probe, name, f"{seconds:.1f}", "–" if strongest is None else f"{strongest:.0f}",
                str(new_clicks(audio, original)),
                f"{10 * np.log10((audio**2).sum() / (original**2).sum()):+.1f}",
                f"{spread(audio, original):.0f}" if probe == "impulses" else "",
            )  # fmt: skip
            if arguments.output:
                arguments.output.mkdir(parents=True, exist_ok=True)
                wav = arguments.output / f"{probe}_{Path(name).parent.name or name}.wav"
                soundfile.write(wav, audio.T, RATE, subtype="FLOAT")
    Console(width=120).print(table)
    Console(width=120).print(heard)
    for name, vae in models.items():
        peak = np.abs(decoded(vae, np.zeros((2, LENGTH)))).max()
        print(f"silence through {name}: peak {20 * np.log10(peak + 1e-20):.0f} dBFS")


def heard_rows(audio: np.ndarray, original: np.ndarray, vae: EarVAE) -> list[list[str]]:
    """A row for each measure, of those bands in which the original has something to measure."""
    pair = (Signal(torch.from_numpy(x).float(), RATE, vae.hop_length) for x in (audio, original))
    figures = of_group(HEARING)
    found = measure(*pair, figures)
    rows = [
        [title(figure), *(figure.text(found[key]) for key in figure.keys)] for figure in figures
    ]
    return [row for row in rows if set(row[1:]) != {MISSING}]


@torch.no_grad()
def decoded(vae: EarVAE, audio: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(audio).float()[None]
    return codec.reconstruct(vae, batch)[0].double().numpy()


if __name__ == "__main__":
    main()
