"""Music drawn at random as notes: chords, bass, drums, melodies, arpeggios (docs/corpus.md).

Nothing here sounds: ``tools/render_music.py`` has it played by sound fonts. Programs and drum
notes are General MIDI's, counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

BASSES = tuple(range(32, 40))
CHORD_PLAYERS = (*range(0, 8), 11, *range(16, 21), *range(24, 31), 21, 62)
PADS = (*range(48, 55), 61, *range(88, 96))
PLUCKED = (*range(8, 16), 24, 25, 45, 46, 80, 81, 98, 104, 105, 106, 107, 108)
LEADS = (
    21, 22, 26, 29, 30, *range(40, 44), 52, 53, 56, 57, 60, *range(64, 76), 80, 81, 84, 85, 110, 111
)  # fmt: skip
SUNG_OR_BOWED = frozenset((*range(40, 44), 48, 49, 52, 53, 85, 110))  # deeper vibrato
GUITARS = frozenset(range(24, 31))
DRUM_KITS = (0, 0, 0, 8, 16, 24, 25, 32, 40, 48)

SCALES = (
    (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10)
)  # fmt: skip
PROGRESSIONS = (
    (0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (1, 4, 0, 0), (0, 6, 5, 4),
    (0, 3, 0, 4), (3, 4, 2, 5), (0, 2, 3, 4), (0, 1, 3, 0), (0, 0, 3, 3, 0, 0, 4, 3),
)  # fmt: skip

KICK, STICK, SNARE, CLAP, CLOSED, PEDAL, OPEN = 36, 37, 38, 39, 42, 44, 46
CRASH, RIDE, TAMBOURINE, COWBELL, SHAKER = 49, 51, 54, 56, 70
TOMS = (50, 48, 47, 45, 43)
# Sixteenths of a bar of four beats: kick, snare, and how the cymbals go.
BEATS = (
    ((0, 8), (4, 12), "eighths"),
    ((0, 6, 8), (4, 12), "eighths"),
    ((0, 7, 10), (4, 12), "sixteenths"),
    ((0, 4, 8, 12), (4, 12), "offbeats"),
    ((0, 4, 8, 12), (), "sixteenths"),
    ((0, 10), (8,), "quarters"),
    ((0, 2, 10), (4, 7, 9, 12), "sixteenths"),
    ((0, 3, 6, 10, 13), (4, 12), "eighths"),
    ((0,), (), "quarters"),
)
CYMBALS = {
    "quarters": range(0, 16, 4), "eighths": range(0, 16, 2), "sixteenths": range(16),
    "offbeats": range(2, 16, 4),
}  # fmt: skip


@dataclass(frozen=True)
class Note:
    """One note; ``start`` and ``length`` in seconds, ``pitch`` and ``velocity`` as in MIDI."""

    start: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """What one player plays. ``pan`` goes from -1, left alone, to 1; ``bends`` are pairs of a
    time in seconds and semitones; ``volume`` and the sends to the effects are MIDI's 0 to 127.
    """

    program: int
    notes: list[Note]
    pan: float = 0.0
    volume: int = 100
    reverb: int = 0
    chorus: int = 0
    drums: bool = False
    bends: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Frame:
    """What the parts of a piece agree on."""

    beat: float  # seconds
    beats: int  # of a bar
    bars: int
    tonic: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]  # degree of each bar
    swing: float  # of a beat, by which every second eighth is late

    @property
    def bar(self) -> float:
        return self.beat * self.beats

    def pitch(self, degree: int, near: int) -> int:
        """The pitch of a degree of the scale in the octave around ``near``."""
        octave, step = divmod(degree, 7)
        pitch = self.tonic + self.scale[step] + 12 * octave
        return int(pitch + 12 * round((near - pitch) / 12))

    def time(self, bar: int, beats: float) -> float:
        late = self.swing * self.beat if round(beats * 2) % 2 and beats * 2 % 1 == 0 else 0.0
        return bar * self.bar + beats * self.beat + late


def band(seconds: float, random: np.random.Generator) -> list[Part]:
    """A piece for three to twelve players, as long as whole bars make it (at least
    ``seconds``)."""
    frame = _frame(seconds, random)
    wet = int(random.choice([0, 0, 20, 40, 80]))
    parts = []
    if random.random() < 0.85:
        parts.append(drums(frame, random))
    if random.random() < 0.85:
        parts.append(bass(frame, random))
    for player, least, most in (
        (chords, 1, 3), (pad, 0, 2), (arpeggio, 0, 2), (melody, 1, 2),
    ):  # fmt: skip
        for _ in range(random.integers(least, most + 1)):
            parts += _doubled(player(frame, random), random)
    if random.random() < 0.3:
        parts += [percussion(frame, random)]
    return [
        replace(p, reverb=int(min(127, wet * random.uniform(0.5, 1.5))), chorus=_chorus(random))
        for p in parts
    ]


def few(seconds: float, random: np.random.Generator) -> list[Part]:
    """One player alone, or two or three."""
    frame = _frame(seconds, random)
    kinds = (chords, pad, arpeggio, melody, drums, bass)
    parts = [kinds[random.choice(6, p=(0.25, 0.1, 0.2, 0.25, 0.15, 0.05))](frame, random)]
    for player in (melody, arpeggio):
        if random.random() < 0.4:
            parts.append(player(frame, random))
    wet = int(random.choice([0, 0, 40, 90]))
    return [replace(p, reverb=wet, pan=p.pan if random.random() < 0.6 else 0.0) for p in parts]


def _frame(seconds: float, random: np.random.Generator) -> Frame:
    beat = 60 / random.uniform(64, 172)
    beats = int(random.choice([4, 4, 4, 3]))
    progression = PROGRESSIONS[random.integers(len(PROGRESSIONS))]
    bars = int(np.ceil(seconds / (beat * beats)))
    return Frame(
        beat=beat,
        beats=beats,
        bars=bars,
        tonic=int(random.integers(12)),
        scale=SCALES[random.choice(4, p=(0.4, 0.35, 0.15, 0.1))],
        chords=tuple(progression[n % len(progression)] for n in range(bars)),
        swing=float(random.choice([0, 0, 0, 1 / 6])),
    )


def panned(random: np.random.Generator) -> float:
    """A place between the ears: a third of all is in one ear alone."""
    side = random.choice([-1, 1])
    kind = random.random()
    return float(side * (1 if kind < 0.35 else random.uniform(0.3, 0.9) if kind < 0.7 else 0.1))


def _chorus(random: np.random.Generator) -> int:
    return int(random.choice([0, 0, 0, 30, 70]))


def _doubled(part: Part, random: np.random.Generator) -> list[Part]:
    """The part; sometimes twice, played anew a little otherwise, one on each side."""
    if random.random() > 0.25:
        return [part]
    again = [
        replace(
            note,
            start=max(0.0, note.start + random.normal(0, 0.012)),
            velocity=_velocity(note.velocity, random),
        )
        for note in part.notes
    ]
    return [replace(part, pan=-1.0), replace(part, notes=again, pan=1.0)]


def _velocity(around: float, random: np.random.Generator) -> int:
    return int(np.clip(around + random.normal(0, 8), 20, 127))


def _at(time: float, random: np.random.Generator) -> float:
    """About then: players are some milliseconds off."""
    return max(0.0, time + random.normal(0, 0.006))


def drums(frame: Frame, random: np.random.Generator) -> Part:
    """A drum kit: one beat, its cymbals, now and then a fill or a crash."""
    kick, snare, cymbals = BEATS[random.integers(len(BEATS))]
    cymbal = int(random.choice([CLOSED, CLOSED, RIDE, SHAKER, TAMBOURINE]))
    hit = int(random.choice([SNARE, SNARE, SNARE, CLAP, STICK]))
    sixteenths = 4 * frame.beats
    struck: list[tuple[float, int, float]] = []
    for bar in range(frame.bars):
        fill = random.random() < 0.15
        last = sixteenths - (4 if fill else 0)
        if bar % 4 == 0 and random.random() < 0.6:
            struck.append((frame.time(bar, 0), CRASH, 105))
        for place, note, loud in (
            *((k, KICK, 108) for k in kick),
            *((s, hit, 102) for s in snare),
            *((c, cymbal, 88 if c % 4 == 0 else 70) for c in CYMBALS[cymbals]),
        ):
            if place < last:
                opened = note == CLOSED and place % 8 == 6 and random.random() < 0.2
                struck.append((frame.time(bar, place / 4), OPEN if opened else note, loud))
        for place in range(last, sixteenths):
            tom = TOMS[(place - last) * len(TOMS) // 4]
            struck.append((frame.time(bar, place / 4), tom, 100))
        if random.random() < 0.3:  # a ghost note
            struck.append((frame.time(bar, random.integers(sixteenths) / 4), SNARE, 45))
    notes = [Note(_at(t, random), 0.2, n, _velocity(v, random)) for t, n, v in struck]
    kit = int(random.choice(DRUM_KITS))
    return Part(kit, notes, drums=True, volume=int(random.integers(90, 120)))


def percussion(frame: Frame, random: np.random.Generator) -> Part:
    """Hand drums and the like, on one side."""
    hands = random.choice([54, 56, 60, 61, 62, 63, 64, 69, 70, 75, 76, 82], 2, replace=False)
    steps = [step for step in range(4 * frame.beats) if random.random() < 0.4]
    notes = [
        Note(
            _at(frame.time(bar, step / 4), random), 0.1, int(hands[step % 2]), _velocity(80, random)
        )
        for bar in range(frame.bars)
        for step in steps
    ]
    return Part(0, notes, drums=True, pan=panned(random))


def bass(frame: Frame, random: np.random.Generator) -> Part:
    """A bass in the middle: roots, octaves and fifths."""
    near = int(random.integers(32, 46))
    steps = int(random.choice([1, 2, 2, 4]))  # notes of a beat
    density = random.uniform(0.5, 1.0) if steps > 1 else 1.0
    pattern = [n == 0 or random.random() < density for n in range(frame.beats * steps)]
    turns = [int(random.choice([0, 0, 0, 4, 7])) for _ in pattern]  # degrees above the root
    notes = []
    for bar in range(frame.bars):
        for n, played in enumerate(pattern):
            if played:
                pitch = frame.pitch(frame.chords[bar], near) + (0, 7, 12)[(0, 4, 7).index(turns[n])]
                start = _at(frame.time(bar, n / steps), random)
                length = frame.beat / steps * random.uniform(0.6, 1.0)
                notes.append(Note(start, length, pitch, _velocity(100, random)))
    return Part(int(random.choice(BASSES)), notes, volume=int(random.integers(90, 115)))


def _chord(frame: Frame, bar: int, near: int, size: int) -> list[int]:
    degree = frame.chords[bar]
    return sorted(frame.pitch(degree + 2 * k, near + 3 * k) for k in range(size))


def chords(frame: Frame, random: np.random.Generator) -> Part:
    """Chords struck or strummed in a rhythm of the bar."""
    program = int(random.choice(CHORD_PLAYERS))
    distorted = program in (29, 30)
    near = int(random.integers(44, 52) if distorted else random.integers(50, 68))
    size = 2 if distorted else int(random.choice([3, 3, 4, 5]))
    strum = random.uniform(0.008, 0.025) if program in GUITARS else 0.002
    steps = int(random.choice([1, 2, 2]))
    slots = [n for n in range(frame.beats * steps) if n == 0 or random.random() < 0.5]
    held = random.uniform(0.5, 1.0)
    notes = []
    for bar in range(frame.bars):
        tones = _chord(frame, bar, near, size)
        if distorted:
            tones = [tones[0], tones[0] + 7, tones[0] + 12]
        for n, slot in enumerate(slots):
            until = slots[n + 1] if n + 1 < len(slots) else frame.beats * steps
            start = _at(frame.time(bar, slot / steps), random)
            order = tones if n % 2 == 0 else tones[::-1]
            for k, pitch in enumerate(order):
                length = held * (until - slot) * frame.beat / steps
                notes.append(Note(start + k * strum, length, pitch, _velocity(84, random)))
    return Part(program, notes, panned(random), volume=int(random.integers(75, 105)))


def pad(frame: Frame, random: np.random.Generator) -> Part:
    """Long chords, one a bar or one for two."""
    near = int(random.integers(48, 74))
    span = int(random.choice([1, 1, 2]))
    notes = [
        Note(_at(bar * frame.bar, random), span * frame.bar, pitch, _velocity(75, random))
        for bar in range(0, frame.bars, span)
        for pitch in _chord(frame, bar, near, int(random.choice([3, 4])))
    ]
    return Part(
        int(random.choice(PADS)), notes, panned(random), volume=int(random.integers(70, 100))
    )


def arpeggio(frame: Frame, random: np.random.Generator) -> Part:
    """Broken chords of even notes, up, down or in any order."""
    near = int(random.integers(56, 86))
    steps = int(random.choice([2, 3, 4, 4]))
    size = int(random.choice([3, 4, 6]))
    order = [int(k) for k in random.permutation(size)] if random.random() < 0.3 else None
    notes = []
    for bar in range(frame.bars):
        tones = [
            frame.pitch(frame.chords[bar] + 2 * (k % 3), near) + 12 * (k // 3) for k in range(size)
        ]
        for n in range(frame.beats * steps):
            pitch = tones[order[n % size] if order else n % size]
            start = _at(frame.time(bar, n / steps), random)
            loud = 92 if n % steps == 0 else 74
            notes.append(Note(start, 1.5 * frame.beat / steps, pitch, _velocity(loud, random)))
    return Part(
        int(random.choice(PLUCKED)), notes, panned(random), volume=int(random.integers(75, 105))
    )


def melody(frame: Frame, random: np.random.Generator) -> Part:
    """One voice that walks over the scale, with vibrato and glides."""
    program = int(random.choice(LEADS))
    near = int(random.integers(58, 84))
    degree, beats, notes = 0, 0.0, []
    end = frame.bars * frame.beats
    while beats < end:
        length = float(random.choice([0.25, 0.5, 0.5, 1, 1, 1.5, 2, 3]))
        bar = min(int(beats // frame.beats), frame.bars - 1)
        if random.random() < 0.85:
            strong = beats % 1 == 0 and random.random() < 0.6
            degree += int(random.choice([-2, -1, -1, 1, 1, 2, 4, -4]))
            degree = int(np.clip(degree, -6, 8))
            if strong:  # to the nearest tone of the chord
                tones = [
                    frame.chords[bar] + 2 * k + 7 * o for k in range(3) for o in (-2, -1, 0, 1)
                ]
                degree = min(tones, key=lambda tone: abs(tone - degree))
            start = _at(frame.time(bar, beats - bar * frame.beats), random)
            base = frame.pitch(0, near)
            octave, step = divmod(degree, 7)
            pitch = int(np.clip(base + frame.scale[step] + 12 * octave, 36, 103))
            sounding = length * frame.beat * random.uniform(0.8, 1.0)
            notes.append(Note(start, sounding, pitch, _velocity(95, random)))
        beats += length
    bends = vibrato(notes, random, 0.5 if program in SUNG_OR_BOWED else 0.25)
    place = panned(random) if random.random() < 0.5 else 0.0
    volume = int(random.integers(90, 120))
    return Part(program, notes, place, volume=volume, bends=bends)


def vibrato(
    notes: list[Note], random: np.random.Generator, most: float
) -> list[tuple[float, float]]:
    """Bends of up to ``most`` semitones to and fro, which set in after the note does; every third
    note glides up or down to its pitch."""
    rate, depth = random.uniform(4.5, 7.0), random.uniform(0.1, most)
    bends = []
    for note in notes:
        glide = float(random.uniform(-2.5, 2.5)) if random.random() < 0.33 else 0.0
        slow = random.uniform(0.04, 0.2)
        for time in np.arange(0, note.length, 0.012):
            swell = min(1.0, max(0.0, (time - 0.15) / 0.3))
            bend = glide * np.exp(-time / slow) + swell * depth * np.sin(2 * np.pi * rate * time)
            bends.append((note.start + float(time), float(bend)))
    return bends
