"""Music for training that no one has compressed: played by sound fonts (docs/corpus.md).

    python tools/render_music.py rendered --minutes 60
    earvae pack rendered/manifest.jsonl -o pack --megabytes 45

Pieces of 16 s in full band and stereo: bands and single players drawn at random
(tools/composition.py), MIDI files, speech alone and over music; half of them made loud as masters
are. Piece number n depends on the seed and n alone, so a run that was interrupted goes on where it
was, and more minutes add to what is there. Needs ``fluidsynth`` (apt install fluidsynth) and
``mido`` (pip install mido). Sound fonts, drum kits, MIDI files and voices are fetched from Debian
and unpacked under OUT as tools/corpus.py does it; nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as xml
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

import composition
from composition import Note, Part
from corpus import MANIFEST, Track, provide
from earvae import atomic
from earvae.errors import EarvaeError
from earvae.training.augment import LOUDNESS, OCTAVES, compress, equalise, limit, saturate

RATE = 44_100
SECONDS = 16.0
KINDS = (*("band",) * 10, *("few",) * 3, *("file",) * 3, *("voice",) * 4)
LOUD_SHARE = 0.5
BEND_SEMITONES = 12  # that a full pitch bend means

FONTS = ("fluid-soundfont-gm", "musescore-general-soundfont-lossless")
KITS = "hydrogen-drumkits"
MIDI_PACKAGES = ("openttd-openmsx", "mma")
VOICE_PACKAGES = ("hedgewars-data", "ktuberling-data")
SUFFIXES = {
    **dict.fromkeys(FONTS, (".sf2",)),
    KITS: (".wav", ".flac", ".xml"),
    **dict.fromkeys(MIDI_PACKAGES, (".mid",)),
    **dict.fromkeys(VOICE_PACKAGES, (".ogg", ".wav")),
}
VOICE_FOLDERS = ("/voices/", "/ktuberling/sounds/")
LEAST_TREBLE_DB = -50.0  # of a voice's power at 12 to 16 kHz: less was cut off by its codec
# Words in the names of a kit's instruments, for each drum that tools/composition.py strikes.
DRUM_WORDS = {
    composition.KICK: ("kick", "bassdrum", "bass drum"),
    composition.STICK: ("stick", "rim"),
    composition.SNARE: ("snare",),
    composition.CLAP: ("clap",),
    composition.CLOSED: ("closed", "hat 1 cl", "hat low"),
    composition.PEDAL: ("pedal",),
    composition.OPEN: ("open", "hat op", "1 op"),
    composition.CRASH: ("crash",),
    composition.RIDE: ("ride",),
    composition.TAMBOURINE: ("tambourine", "cowbell"),
    composition.COWBELL: ("cowbell",),
    composition.SHAKER: ("closed", "hat ring"),
    **dict.fromkeys(composition.TOMS[:2], ("tom hi", "tom", "drum 1")),
    **dict.fromkeys(composition.TOMS[2:4], ("tom mid", "tom", "drum 2")),
    composition.TOMS[4]: ("tom low", "tom", "drum 1"),
}


class RenderError(EarvaeError):
    """Something that rendering needs is missing; the message says what to do."""


@dataclass(frozen=True)
class Sounds:
    """Where what is played lies."""

    fonts: tuple[Path, ...]
    kits: tuple[Path, ...]  # drumkit.xml of each
    files: tuple[Path, ...]  # MIDI
    voices: tuple[tuple[Path, ...], ...]  # of each speaker
    packages: dict[str, tuple[str, Path]]  # version and licence file of each


def gather(root: Path, debs: Path, report: Callable[[str], None] = print) -> Sounds:
    """Fetch and unpack all packages under ``root``; CorpusError names one that fails."""
    packages = {
        package: provide(package, root / package, debs, report, suffixes)
        for package, suffixes in SUFFIXES.items()
    }
    every = {package: sorted((root / package).rglob("*")) for package in SUFFIXES}
    speakers: dict[Path, list[Path]] = {}
    for path in (path for package in VOICE_PACKAGES for path in every[package]):
        if path.is_file() and any(folder in path.as_posix() for folder in VOICE_FOLDERS):
            speakers.setdefault(path.parent, []).append(path)
    kits = [path for path in every[KITS] if path.name == "drumkit.xml"]
    return Sounds(
        fonts=tuple(next((root / font).rglob("*.sf2")) for font in FONTS),
        kits=tuple(
            kit for kit in kits if {composition.KICK, composition.SNARE} <= set(drum_kit(kit))
        ),
        files=tuple(p for m in MIDI_PACKAGES for p in every[m] if p.suffix == ".mid"),
        voices=tuple(tuple(lines) for lines in speakers.values()),
        packages=packages,
    )


def write_midi(parts: Sequence[Part], path: Path) -> None:
    """Write parts as a MIDI file of one track, 960 ticks a second; drums on channel 10, others on
    the rest. At most fifteen others are written."""
    mido = _mido()
    events: list[tuple[float, int, object]] = []
    free = iter([*range(9), *range(10, 16)])
    for part in parts:
        channel = 9 if part.drums else next(free, None)
        if channel is None:
            continue
        pan = round(63.5 + 63.5 * part.pan)

        def add(time: float, order: int, kind: str, channel: int = channel, **values) -> None:
            events.append((time, order, mido.Message(kind, channel=channel, **values)))

        controls = {101: 0, 100: 0, 6: BEND_SEMITONES, 7: part.volume, 10: pan}
        for control, value in {**controls, 91: part.reverb, 93: part.chorus}.items():
            add(0, 0, "control_change", control=control, value=value)
        add(0, 1, "program_change", program=part.program)
        for time, semitones in part.bends:
            bend = round(8191 * min(1, max(-1, semitones / BEND_SEMITONES)))
            add(time, 2, "pitchwheel", pitch=bend)
        for note in part.notes:
            pitch = min(127, max(0, note.pitch))
            add(note.start, 3, "note_on", note=pitch, velocity=note.velocity)
            add(note.start + max(0.03, note.length), 1, "note_off", note=pitch)
    file = mido.MidiFile(type=0, ticks_per_beat=480)
    track = mido.MidiTrack()
    file.tracks.append(track)
    now = 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        ticks = round(960 * time)
        track.append(message.copy(time=ticks - now))
        now = ticks
    file.save(path)


def play(parts: Sequence[Part], font: Path, seconds: float, fluidsynth: str, room: float):
    """Parts played by a sound font, float32 ``[2, samples]``; ``room`` 0 to 1 is the size of the
    reverb that they send to. Raises RenderError if fluidsynth fails."""
    samples = round(seconds * RATE)
    parts = [
        replace(
            part,
            notes=[note for note in part.notes if note.start < seconds],
            bends=[bend for bend in part.bends if bend[0] < seconds],
        )
        for part in parts
    ]
    with tempfile.TemporaryDirectory() as folder:
        midi, wave, set_up = (Path(folder) / name for name in ("a.mid", "a.wav", "a.txt"))
        write_midi(parts, midi)
        set_up.write_text("interp 7\n")  # the sharpest, seventh-order
        command = [fluidsynth, "-n", "-i", "-q", "-f", set_up, "-r", str(RATE), "-g", "0.3"]
        for option in (
            "dynamic-sample-loading=1", "polyphony=512", f"reverb.room-size={room}",
            f"reverb.width={0.5 + 0.5 * room}", f"reverb.damp={0.6 - 0.5 * room}",
        ):  # fmt: skip
            command += ["-o", f"synth.{option}"]
        command += ["-T", "wav", "-O", "float", "-F", wave, font, midi]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not wave.is_file():
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise RenderError(f"{fluidsynth}: {reason}")
        audio = soundfile.read(wave, dtype="float32", always_2d=True)[0].T[:, :samples]
    return np.pad(audio, ((0, 0), (0, samples - audio.shape[1])))


def drum_kit(path: Path) -> dict[int, list[tuple[float, Path]]]:
    """A Hydrogen kit: for each drum it has, its samples and the loudest stroke (0 to 1) of each."""
    instruments = {}
    text = path.read_text(errors="replace")
    for instrument in xml.fromstring(text).iter():
        if instrument.tag.rpartition("}")[2] != "instrument":
            continue
        found: dict[str, list[str]] = {}
        for child in instrument.iter():
            found.setdefault(child.tag.rpartition("}")[2], []).append(child.text or "")
        files = [path.parent / name for name in found.get("filename", []) if name]
        most = [float(value) for value in found.get("max", [])] or [1.0] * len(files)
        if files and all(file.is_file() for file in files):
            name = found.get("name", [""])[0].lower()
            instruments[name] = sorted(zip(most, files, strict=False))
    kit = {}
    for drum, words in DRUM_WORDS.items():
        for word in words:
            if names := [name for name in instruments if word in name]:
                kit[drum] = instruments[names[0]]
                break
    return kit


def play_kit(part: Part, kit: Path, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Drums played by a Hydrogen kit, float32 ``[2, samples]``: each drum at its place."""
    samples = round(seconds * RATE)
    audio = np.zeros((2, samples), np.float32)
    drums = drum_kit(kit)
    places = {drum: random.uniform(-0.8, 0.8) for drum in drums}
    places |= {composition.KICK: 0.0, composition.SNARE: 0.0}
    for note in part.notes:
        start = round(note.start * RATE)
        if note.pitch not in drums or start >= samples:
            continue
        loud = note.velocity / 127
        layers = drums[note.pitch]
        sound = _sample(next((file for most, file in layers if loud <= most), layers[-1][1]))
        sound = sound[:, : samples - start]
        place = (places[note.pitch] + 1) * np.pi / 4
        gains = np.array([np.cos(place), np.sin(place)], np.float32)[:, None] * 2**0.5
        audio[:, start : start + sound.shape[1]] += loud**1.5 * gains * sound
    return audio


@lru_cache(maxsize=256)
def _sample(path: Path) -> np.ndarray:
    """A recording as float32 ``[2, samples]`` at RATE."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = soxr.resample(audio, rate, RATE).T
    return audio.repeat(2, 0) if len(audio) == 1 else audio[:2]


def from_file(path: Path, seconds: float, random: np.random.Generator) -> list[Part] | None:
    """Somewhere in a MIDI file, its players placed anew, at another speed and pitch and some of
    them with other instruments; None if it is shorter than that or damaged."""
    mido = _mido()
    speed = random.uniform(0.85, 1.2)
    shift = int(random.integers(-4, 5))
    try:
        file = mido.MidiFile(path, clip=True)
        played, time = [], 0.0
        for message in file:
            time += message.time / speed
            if not message.is_meta:
                played.append((time, message))
    except (OSError, EOFError, ValueError, KeyError, IndexError, mido.KeySignatureError):
        return None
    begin = random.uniform(0, max(0.0, time - seconds - 2))
    programs: dict[int, int] = {}
    on: dict[tuple[int, int], tuple[float, int]] = {}
    notes: dict[int, list[Note]] = {}
    for at, message in played:
        at -= begin
        if message.type == "program_change" and at < seconds / 2:
            programs[message.channel] = message.program
        if message.type not in ("note_on", "note_off"):
            continue
        key = message.channel, message.note
        if message.type == "note_on" and message.velocity:
            on[key] = at, message.velocity
        elif key in on:
            start, velocity = on.pop(key)
            if 0 <= start < seconds:
                pitch = message.note + (shift if message.channel != 9 else 0)
                notes.setdefault(message.channel, []).append(
                    Note(start, at - start, pitch, velocity)
                )
    if sum(map(len, notes.values())) < seconds:
        return None
    wet = int(random.choice([0, 30, 70]))
    parts = []
    for channel, played_there in sorted(notes.items()):
        program = programs.get(channel, 0)
        low = np.mean([note.pitch for note in played_there]) < 48
        if random.random() < 0.4:  # another instrument of its family
            program = program // 8 * 8 + int(random.integers(8))
        if channel == 9:
            parts.append(Part(0, played_there, drums=True, reverb=wet))
        else:
            place = 0.0 if low else composition.panned(random)
            parts.append(Part(program, played_there, place, reverb=wet))
    return parts


def speech(
    speakers: Sequence[Sequence[Path]], seconds: float, random: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Lines of one speaker with pauses between them, float32 ``[samples]``, of one loudness; and
    the package they are from. Raises RenderError if no speaker found has enough to say."""
    samples = round(seconds * RATE)
    for _ in range(50):
        audio = np.zeros(samples, np.float32)
        at = round(random.uniform(0, 0.5) * RATE)
        lines = list(speakers[random.integers(len(speakers))])
        random.shuffle(lines)
        for line in lines:
            if at >= samples:
                break
            voice = _line(line)
            if voice is not None:
                voice = voice[: samples - at]
                audio[at : at + len(voice)] = voice
                at += len(voice) + round(random.uniform(0.05, 0.6) * RATE)
        if at > samples / 2:
            return audio, _package(lines[0])
    raise RenderError("no voices found that are long and bright enough")


def _line(path: Path) -> np.ndarray | None:
    """A line that someone says, float32 ``[samples]`` with an RMS of 0.1; None if it is short, of
    a low rate or dull."""
    try:
        info = soundfile.info(path)
        if info.samplerate < RATE or not 0.4 < info.duration < 15:
            return None
        voice = _sample(path).mean(0)
    except (soundfile.SoundFileError, OSError):
        return None
    power = np.abs(np.fft.rfft(voice)) ** 2
    frequency = np.fft.rfftfreq(len(voice), 1 / RATE)
    treble = power[(frequency > 12_000) & (frequency < 16_000)].sum() / (power.sum() + 1e-9)
    if 10 * np.log10(treble + 1e-12) < LEAST_TREBLE_DB:
        return None
    return 0.1 * voice / voice.std()


def room(audio: np.ndarray, seconds: float, random: np.random.Generator) -> np.ndarray:
    """The reverberation alone of ``[2, samples]``: noise that falls by 60 dB in ``seconds``,
    sooner in the treble, unlike in both ears, after a few early reflections."""
    length = round(1.2 * seconds * RATE)
    time = np.arange(length) / RATE
    bright = random.standard_normal((2, length)) * 10 ** (-3 * time / (0.5 * seconds))
    dark = random.standard_normal((2, length)) * 10 ** (-3 * time / seconds)
    dark = np.cumsum(dark, 1) - np.cumsum(np.pad(dark, ((0, 0), (20, 0)))[:, :length], 1)
    response = bright + 0.4 * dark
    response[:, : round(random.uniform(0.005, 0.03) * RATE)] = 0
    for _ in range(6):
        place = random.integers(200, 2500)
        response[random.integers(2), min(place, length - 1)] += random.uniform(-8, 8)
    size = 1 << int(np.ceil(np.log2(audio.shape[1] + length)))
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)
    wet = wet[:, : audio.shape[1]].astype(np.float32)
    return wet * np.sqrt(np.mean(audio**2) / (np.mean(wet**2) + 1e-12))


def level(audio: np.ndarray, rms: float) -> np.ndarray:
    return audio * (rms / (np.sqrt(np.mean(audio**2)) + 1e-9))


@dataclass(frozen=True)
class Renderer:
    """Makes pieces by number out of ``sounds``."""

    sounds: Sounds
    fluidsynth: str
    seed: int

    def piece(self, number: int) -> tuple[np.ndarray, list[str]]:
        """Piece ``number``, float32 ``[2, samples]`` within full scale, and the packages in it."""
        random = np.random.default_rng([self.seed, number])
        kind = KINDS[number * 7 % len(KINDS)]
        if kind == "voice":
            audio, used = self._voice(random)
        else:
            audio, used = self._music(kind, random)
        loud = random.random() < LOUD_SHARE
        return (master if loud else natural)(audio, random), used

    def _music(self, kind: str, random: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        used = []
        parts = None
        for _ in range(50 if kind == "file" else 0):
            file = self.sounds.files[random.integers(len(self.sounds.files))]
            if parts := from_file(file, SECONDS, random):
                used.append(_package(file))
                break
        if not parts:
            parts = (composition.few if kind == "few" else composition.band)(SECONDS, random)
        font = self.sounds.fonts[random.integers(len(self.sounds.fonts))]
        used.append(_package(font))
        on_kit = [p for p in parts if p.drums and p.pan == 0 and kind != "file"]
        on_kit = on_kit if random.random() < 0.65 else []
        others = [part for part in parts if part not in on_kit]
        audio = np.zeros((2, round(SECONDS * RATE)), np.float32)
        size = random.uniform(0.1, 0.95)
        for side in (-1, 0, 1):
            if there := [part for part in others if (abs(part.pan) == 1) * part.pan == side]:
                audio = audio + self._side(side, there, font, size, random)
        if others:
            audio = level(audio, 0.1)
        if on_kit:
            kit = self.sounds.kits[random.integers(len(self.sounds.kits))]
            struck = level(play_kit(on_kit[0], kit, SECONDS, random), random.uniform(0.06, 0.14))
            if random.random() < 0.6:
                struck += random.uniform(0.05, 0.4) * room(struck, random.uniform(0.2, 1.5), random)
            audio = audio + struck
            used.append(KITS)
        return audio, used

    def _side(
        self, side: int, parts: list[Part], font: Path, size: float, random: np.random.Generator
    ) -> np.ndarray:
        """Parts in both ears, or those in one alone: instruments that were sampled in stereo
        would leak into the other. What they add to a room comes from everywhere."""
        if side == 0:
            return play(parts, font, SECONDS, self.fluidsynth, size)
        wet = parts[0].reverb / 127
        parts = [replace(part, reverb=0, chorus=0, pan=0.0) for part in parts]
        audio = play(parts, font, SECONDS, self.fluidsynth, size)
        audio = audio.mean(0) * np.array([[side < 0], [side > 0]], np.float32) * 2**0.5
        return audio + 0.5 * wet * room(audio, 0.3 + 2 * size, random) if wet else audio

    def _voice(self, random: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        voice, package = speech(self.sounds.voices, SECONDS, random)
        place = (random.choice([0, 0, 0, composition.panned(random)]) + 1) * np.pi / 4
        both = np.stack([np.cos(place) * voice, np.sin(place) * voice]) * 2**0.5
        if random.random() < 0.2:  # said twice, a little apart
            late = round(random.uniform(0.015, 0.04) * RATE)
            both = np.stack([voice, np.pad(voice, (late, 0))[: len(voice)]])
        both = both.astype(np.float32)
        if random.random() < 0.6:
            both = both + random.uniform(0.05, 0.5) * room(both, random.uniform(0.3, 2.5), random)
        used = [package]
        if random.random() < 0.65:
            music, more = self._music(str(random.choice(["band", "file", "few"])), random)
            both = level(both, 0.1) + level(music, random.uniform(0.03, 0.14))
            used += more
        return both, used


def natural(audio: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """With its dynamics, its peak 1 to 10 dB below full scale."""
    audio = tilted(audio, random.uniform(0, 0.6), random)[0].numpy()
    peak = 10 ** (-random.uniform(1, 10) / 20)
    return audio * (peak / max(float(np.abs(audio).max()), 1e-9))


def master(audio: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As loud masters are: equalised, compressed, saturated, limited to LOUDNESS."""
    batch = tilted(audio, random.uniform(0.6, 1), random)
    batch = compress(batch, random.uniform(1.5, 5), random.uniform(-8, 2), RATE)
    batch = saturate(batch, random.uniform(0.1, 0.6))
    return limit(batch, random.uniform(*LOUDNESS), RATE)[0].numpy()


def tilted(audio: np.ndarray, how_far: float, random: np.random.Generator) -> torch.Tensor:
    """``[1, 2, samples]`` with its octaves brought so far (0 to 1) from their levels to those of
    popular recordings: these fall from 100 Hz on by about 5 dB an octave in power density, so 2 dB
    from octave to octave (Pestana et al., AES Convention 135, 2013). Drawn widely around that; by
    12 dB at most."""
    power = np.abs(np.fft.rfft(audio)) ** 2
    frequency = np.fft.rfftfreq(audio.shape[1], 1 / RATE)
    edges = np.searchsorted(frequency, [f * 2**half for f in OCTAVES for half in (-0.5, 0.5)])
    levels = [power[:, a:b].sum() for a, b in edges.reshape(-1, 2)]
    levels = 10 * np.log10(np.array(levels) / power.sum() + 1e-9)
    octaves = np.log2(np.array(OCTAVES) / 125)
    wanted = -random.uniform(1.5, 4.5) * np.clip(octaves, 0, 4)  # from 125 Hz to 2 kHz
    wanted -= random.uniform(0, 4) * np.maximum(0, octaves - 4) + 2 * np.maximum(0, -octaves)
    change = wanted - levels
    change = np.clip(how_far * (change - np.median(change)), -12, 12)
    change += random.normal(0, 1.5, len(OCTAVES))
    batch = torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None]
    return equalise(batch, torch.from_numpy(change).float()[None], RATE)


def render(
    root: Path, minutes: float, seed: int, fluidsynth: str, debs: Path,
    report: Callable[[str], None] = print,
) -> list[Track]:  # fmt: skip
    """Render pieces under ``root`` until there are ``minutes`` of them, and write their manifest;
    its tracks. Raises RenderError and CorpusError."""
    _mido()
    if shutil.which(fluidsynth) is None:
        raise RenderError(f"{fluidsynth} not found: apt install fluidsynth, or --fluidsynth PATH")
    (root / "pieces").mkdir(parents=True, exist_ok=True)
    atomic.sweep(root / "pieces")
    sounds = gather(root / "packages", debs, report)
    renderer = Renderer(sounds, fluidsynth, seed)
    tracks = []
    for number in range(round(minutes * 60 / SECONDS)):
        path = root / "pieces" / f"{seed}-{number:05}.flac"
        notes = path.with_suffix(".json")
        if not (path.is_file() and notes.is_file()):
            audio, used = renderer.piece(number)
            with atomic.file(path) as unfinished:
                soundfile.write(unfinished, audio.T, RATE, "PCM_24", format="FLAC")
            atomic.write(notes, json.dumps(sorted(set(used))))
        used = json.loads(notes.read_text())
        tracks.append(
            Track(
                file=path.relative_to(root).as_posix(),
                package=", ".join(used),
                version=", ".join(sounds.packages[package][0] for package in used),
                duration=SECONDS,
                rate=RATE,
                channels=2,
                licence=", ".join(
                    sounds.packages[package][1].relative_to(root).as_posix() for package in used
                ),
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                split="train",
            )
        )
        if (number + 1) % 25 == 0:
            report(f"{(number + 1) * SECONDS / 60:.1f} minutes")
    atomic.write(root / MANIFEST, "".join(json.dumps(asdict(track)) + "\n" for track in tracks))
    return tracks


def _package(path: Path) -> str:
    """The package that a file was unpacked from."""
    return next(part for part in reversed(path.parts) if part in SUFFIXES)


def _mido():
    try:
        import mido
    except ImportError:
        raise RenderError("mido is missing: pip install mido") from None
    return mido


def main(words: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for packages, pieces and manifest.jsonl")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fluidsynth", default="fluidsynth", help="its command")
    parser.add_argument("--debs", type=Path, help="where packages are kept; default: OUT/debs")
    options = parser.parse_args(words)
    try:
        render(
            options.out, options.minutes, options.seed, options.fluidsynth,
            options.debs or options.out / "debs",
        )  # fmt: skip
    except (EarvaeError, OSError, subprocess.CalledProcessError, tarfile.TarError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
