"""Music drawn and rendered: what is drawn sounds where it should, and every time the same."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import music_figures  # noqa: E402
import render_music  # noqa: E402
import torch  # noqa: E402
from render_music import RATE, RenderError, Sounds  # noqa: E402

import composition  # noqa: E402
from composition import Note, Part  # noqa: E402
from earvae.config import SourceConfig  # noqa: E402
from earvae.training.augment import CEILING, lufs  # noqa: E402
from earvae.training.sources import list_tracks  # noqa: E402


def random(seed=0):
    return np.random.default_rng(seed)


def rms_db(audio) -> float:
    return float(10 * np.log10(np.mean(np.square(audio)) + 1e-20))


def noise(seconds=1.0, seed=0, level=0.1) -> np.ndarray:
    return (level * random(seed).standard_normal((2, round(seconds * RATE)))).astype(np.float32)


# ------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("kind", [composition.band, composition.few])
def test_pieces_are_playable_the_same_for_a_seed_and_unlike_each_other(kind):
    pieces = [kind(16, random(seed)) for seed in range(40)]
    assert pieces[:5] == [kind(16, random(seed)) for seed in range(5)]
    assert pieces[0] != pieces[1]
    for part in (part for piece in pieces for part in piece):
        assert 0 <= part.program < 128 and -1 <= part.pan <= 1 and 0 <= part.volume < 128
        for note in part.notes:
            assert note.start >= 0 and 0 <= note.pitch < 128 and 1 <= note.velocity < 128
    ends = [max(n.start + n.length for part in piece for n in part.notes) for piece in pieces]
    assert np.median(ends) > 15
    in_one_ear = [any(abs(part.pan) == 1 for part in piece) for piece in pieces]
    assert 8 <= sum(in_one_ear) < 40


def test_melodies_glide_and_sway_around_their_pitch():
    notes = [Note(float(n), 1.0, 60, 90) for n in range(30)]
    bends = np.array([bend for _, bend in composition.vibrato(notes, random(), 0.5)])
    late = np.array(
        [bend for time, bend in composition.vibrato(notes, random(), 0.5) if time % 1 > 0.7]
    )
    assert 0.5 < np.abs(bends).max() <= 3.0  # glides of up to 2.5 semitones
    assert 0.05 < np.abs(late).max() < 0.6 and abs(late.mean()) < 0.05


# ------------------------------------------------------------------------------ MIDI


def test_what_is_written_as_midi_is_read_back(tmp_path):
    pytest.importorskip("mido")
    tune = [Note(0.5 * n, 0.4, 60 + n % 5, 90) for n in range(60)]
    beat = [Note(0.5 * n, 0.2, composition.KICK, 100) for n in range(60)]
    render_music.write_midi([Part(40, tune), Part(0, beat, drums=True)], tmp_path / "a.mid")
    melody, drums = render_music.from_file(tmp_path / "a.mid", 16, random())
    assert drums.drums and {note.pitch for note in drums.notes} == {composition.KICK}
    assert len({note.pitch for note in melody.notes}) == 5 and melody.program // 8 == 40 // 8
    gaps = np.diff([note.start for note in melody.notes])
    assert 0.5 / 1.2 - 1e-3 <= gaps.min() and gaps.max() <= 0.5 / 0.85 + 1e-3
    assert gaps == pytest.approx(gaps.mean(), abs=0.003)  # one speed, to a tick


def test_a_damaged_file_is_passed_over(tmp_path):
    pytest.importorskip("mido")
    (tmp_path / "b.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\xff\xff\0")
    assert render_music.from_file(tmp_path / "b.mid", 16, random()) is None


def test_without_mido_one_line_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mido", None)
    assert render_music.main([str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "error: mido is missing: pip install mido\n"


# ------------------------------------------------------------------------------ drums and voices


@pytest.fixture
def kit(tmp_path):
    """A kick of two layers, full and half of full scale, and a snare on its own."""
    for name, level in (("hard", 1.0), ("soft", 0.5), ("snare", 0.25)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(441, level), RATE, subtype="FLOAT")
    (tmp_path / "drumkit.xml").write_text(
        "<drumkit_info><instrumentList><instrument><name>Big Kick</name>"
        "<layer><filename>hard.wav</filename><min>0.5</min><max>1</max></layer>"
        "<layer><filename>soft.wav</filename><min>0</min><max>0.5</max></layer></instrument>"
        "<instrument><name>Snare 1</name><filename>snare.wav</filename></instrument>"
        "</instrumentList></drumkit_info>"
    )
    return tmp_path / "drumkit.xml"


def test_a_kit_plays_each_stroke_in_time_with_the_sample_for_its_loudness(kit):
    assert set(render_music.drum_kit(kit)) == {composition.KICK, composition.SNARE}
    strokes = [
        Note(0.1, 0.2, composition.KICK, 127), Note(0.2, 0.2, composition.KICK, 60),
        Note(0.3, 0.2, composition.SNARE, 127), Note(0.4, 0.2, composition.CRASH, 127),
    ]  # fmt: skip
    audio = render_music.play_kit(Part(0, strokes, drums=True), kit, 0.5, random())
    assert np.array_equal(audio[0], audio[1])  # kick and snare are in the middle
    struck = audio[0, 220::4410]
    assert struck == pytest.approx([0, 1.0, 0.5 * (60 / 127) ** 1.5, 0.25, 0], abs=1e-6)


def test_voices_without_treble_are_not_used(tmp_path):
    folder = tmp_path / "hedgewars-data" / "voices"
    folder.mkdir(parents=True)
    bright, dull = noise(2)[0], noise(2)[0]
    spectrum = np.fft.rfft(dull)
    spectrum[len(spectrum) // 3 :] = 0
    for name, voice in (("bright", bright), ("dull", np.fft.irfft(spectrum))):
        soundfile.write(folder / f"{name}.wav", voice, RATE)
    lines = [[folder / "dull.wav"] * 2, [folder / "bright.wav"] * 20]
    audio, package = render_music.speech(lines, 8, random())
    assert package == "hedgewars-data"
    assert np.std(audio[audio != 0]) == pytest.approx(0.1, rel=0.02)
    with pytest.raises(RenderError, match="no voices"):
        render_music.speech(lines[:1], 8, random())


def test_a_room_falls_by_60_db_in_its_time_and_differs_between_the_ears():
    click = np.zeros((2, 2 * RATE), np.float32)
    click[:, 0] = 1
    wet = render_music.room(click, 1.0, random())
    early, late = (rms_db(wet[:, round(t * RATE) :][:, :4410]) for t in (0.3, 0.8))
    assert early - late == pytest.approx(30, abs=4)
    tail = wet[:, RATE // 5 : RATE]
    assert abs(np.corrcoef(tail)[0, 1]) < 0.05


# ------------------------------------------------------------------------------ pieces


def test_masters_are_loud_and_natural_pieces_keep_their_crest():
    audio = noise(3, level=0.02) * np.linspace(0.1, 1, 3 * RATE, dtype=np.float32)
    loud = render_music.master(audio, random())
    assert -14.2 < float(lufs(torch.from_numpy(loud)[None], RATE)) < -6.5
    assert np.abs(loud).max() <= CEILING + 1e-6
    natural = render_music.natural(audio, random())
    assert 10 ** (-10 / 20) <= np.abs(natural).max() <= 10 ** (-1 / 20)
    crests = [20 * np.log10(np.abs(a).max()) - rms_db(a) for a in (loud, natural)]
    assert crests[0] < crests[1] - 3


@pytest.fixture
def house(monkeypatch, tmp_path, kit):
    """A renderer whose sound font plays noise, for the parts that it is given."""

    def play(parts, font, seconds, fluidsynth, room):
        return noise(seconds, seed=sum(len(part.notes) for part in parts))

    def gather(root, debs, report):
        packages = {name: ("1.0", root / name / "copyright") for name in render_music.SUFFIXES}
        fonts = tuple(root / name / "font.sf2" for name in render_music.FONTS)
        return Sounds(fonts, (kit,), (), ((),), packages)

    monkeypatch.setattr(render_music, "play", play)
    monkeypatch.setattr(render_music, "gather", gather)
    monkeypatch.setattr(render_music, "_mido", lambda: None)
    monkeypatch.setattr(render_music, "KINDS", ("band", "few"))
    monkeypatch.setattr(render_music, "SECONDS", 1.0)
    return lambda out, pieces, seed=0: render_music.render(
        tmp_path / out, pieces / 60, seed, sys.executable, tmp_path
    )


def test_pieces_are_the_same_after_an_interruption_and_can_be_trained_on(house, tmp_path):
    whole = house("whole", 3)
    first = house("parts", 1)
    (tmp_path / "parts/pieces/0-00001.flac").write_bytes(b"half a piece")  # without its .json
    assert house("parts", 3) == whole and whole[:1] == first
    lines = (tmp_path / "parts/manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["sha256"] for line in lines] == [track.sha256 for track in whole]
    assert len({track.sha256 for track in (*whole, *house("other", 3, seed=1))}) == 6
    source = SourceConfig(tracks=str(tmp_path / "whole/manifest.jsonl"), split="train")
    tracks, left_out = list_tracks(source)
    assert len(tracks) == 3 and not left_out
    assert all(part in render_music.SUFFIXES for part in whole[0].package.split(", "))


def test_without_fluidsynth_one_line_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(render_music, "_mido", lambda: None)
    assert render_music.main([str(tmp_path / "out"), "--fluidsynth", "no-such-command"]) == 1
    assert capsys.readouterr().err.startswith("error: no-such-command not found: apt install")


# ------------------------------------------------------------------------------ figures of music


def test_figures_tell_level_band_width_and_what_is_panned():
    time = np.arange(1 << 16) / RATE
    tone = np.sin(2 * np.pi * 1500 * time)

    def of(left, right):
        audio = torch.from_numpy(np.stack([left * tone, right * tone]).astype(np.float32))
        return music_figures.figures(audio)

    alike, one, both = of(0.5, 0.5), of(0.5, 0.1), of(0.5, 0.2)
    assert alike.crest_db == pytest.approx(3.01, abs=0.01) and np.isnan(alike.side_db)
    assert alike.bands_db[5] == pytest.approx(0, abs=0.01) and alike.bands_db[8] < -60
    assert one.panned == 1 and both.panned == 0 and np.isnan(alike.panned)  # 14 and 8 dB
    assert one.side_db == pytest.approx(20 * np.log10(0.4 / 0.6), abs=0.01)
