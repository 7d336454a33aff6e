"""Which tracks there are, and which stretch of each is compared."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from earvae.audio import AudioFileError, AudioSource
from earvae.evaluation.excerpts import (
    SAMPLE_RATE,
    Span,
    Track,
    evenly,
    read_excerpt,
    read_stretch,
    references,
    slug_of,
    turned_up,
)
from earvae.evaluation.metrics.loudness import loudness
from earvae.tracks import find


def ramp_file(path, seconds: float, rate: int = SAMPLE_RATE, channels: int = 2):
    """Samples that tell where they are: second t has the value t / 1000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(round(seconds * rate)) / rate / 1000
    soundfile.write(path, np.repeat(values[:, None], channels, 1), rate, subtype="FLOAT")
    return path


def find_tracks(source, **more) -> list[Track]:
    return references(find([source], **more).files)


def test_reconstructions_and_results_are_no_references(tmp_path):
    for name in ("b/song.wav", "b/song_vae_rec.wav", "a.flac", "out/audio/reference.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    tracks = find_tracks(tmp_path, leave_out=tmp_path / "out")
    assert [(track.name, track.slug) for track in tracks] == [
        ("a.flac", "a"),
        ("b/song.wav", "b_song"),
    ]


def test_every_so_many_tracks_are_taken_and_no_more_than_asked_for():
    tracks = list(range(13))
    assert evenly(tracks, None) == tracks and evenly(tracks, 20) == tracks
    assert evenly(tracks, 5) == [0, 3, 6, 9, 12] and evenly(tracks, 1) == [0]


def test_loud_excerpts_have_the_loudness_of_masters_and_no_peak_over_full_scale(tmp_path):
    random = np.random.default_rng(0)
    swell = np.linspace(0.01, 0.1, 3 * SAMPLE_RATE)[:, None]
    audio = swell * random.standard_normal((3 * SAMPLE_RATE, 2))
    soundfile.write(tmp_path / "a.wav", audio, SAMPLE_RATE, subtype="FLOAT")
    (track,) = find_tracks(tmp_path)
    loud = read_excerpt(track, Span(loud=True))
    assert loudness(loud.audio, SAMPLE_RATE).lufs == pytest.approx(-9, abs=0.1)
    assert float(loud.audio.abs().max()) <= 1
    silence = torch.zeros(2, SAMPLE_RATE)
    assert torch.equal(turned_up(silence), silence)


def test_slugs_are_plain_and_never_shared(tmp_path):
    assert slug_of("rel/path") == "rel_path"
    for name in ("a b.wav", "a_b.wav", "A_b.wav", "音.wav", "楽.wav", "alone-1.wav"):
        (tmp_path / name).touch()
    slugs = {track.name: track.slug for track in find_tracks(tmp_path)}
    assert len({slug.lower() for slug in slugs.values()}) == 6
    assert slugs["alone-1.wav"] == "alone-1" and slugs["a b.wav"].startswith("a_b_")
    assert all(slug.isascii() and slug for slug in slugs.values())


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050])
def test_stretch_is_from_the_middle_at_a_whole_second(tmp_path, rate):
    path = ramp_file(tmp_path / "a.wav", 9.7, rate, channels=1)
    excerpt = read_excerpt(Track(path, "a.wav", "a"), Span(2.0))
    assert excerpt.start == 3.0 and excerpt.audio.shape == (2, 2 * SAMPLE_RATE)
    expected = (3 + torch.arange(2 * SAMPLE_RATE) / SAMPLE_RATE) / 1000
    inner = slice(2000, -2000)  # a resampler rings at the cut
    torch.testing.assert_close(excerpt.audio[0, inner], expected[inner], atol=2e-6, rtol=0)
    assert torch.equal(excerpt.audio[0], excerpt.audio[1])


def test_stretch_from_a_second_on_and_whole_tracks(tmp_path):
    track = Track(ramp_file(tmp_path / "a.wav", 3.5), "a.wav", "a")
    excerpt = read_excerpt(track, Span(1.0, start=0.5))
    assert excerpt.audio[0, 0] == pytest.approx(0.0005) and excerpt.seconds == 1
    assert read_excerpt(track, Span(30.0)).seconds == 3.5
    assert read_excerpt(track, Span(None)).seconds == 3.5
    assert read_excerpt(track, Span(30.0, start=3.0)).seconds == 0.5
    with pytest.raises(AudioFileError, match="ends after 3.5 s.*--start 4"):
        read_excerpt(track, Span(30.0, start=4.0))


def test_a_stretch_beyond_the_end_is_an_error(tmp_path):
    source = AudioSource(ramp_file(tmp_path / "a.wav", 1.0))
    with pytest.raises(AudioFileError, match="ends before 2 s"):
        read_stretch(source, 2.0, 1.0)
