"""Which tracks there are, and which stretch of each is compared."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from earvae.audio import AudioFileError, AudioSource
from earvae.evaluation.excerpts import (
    SAMPLE_RATE,
    EvaluationError,
    Span,
    Track,
    find_tracks,
    read_excerpt,
    read_stretch,
    slug_of,
)


def ramp_file(path, seconds: float, rate: int = SAMPLE_RATE, channels: int = 2):
    """Samples that tell where they are: second t has the value t / 1000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(round(seconds * rate)) / rate / 1000
    soundfile.write(path, np.repeat(values[:, None], channels, 1), rate, subtype="FLOAT")
    return path


def test_folders_are_searched_and_reconstructions_and_results_are_no_references(tmp_path):
    for name in ("b/song.wav", "b/song_vae_rec.wav", "a.flac", ".hidden.wav", ".h/x.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "out" / "audio").mkdir(parents=True)
    (tmp_path / "out" / "audio" / "reference.wav").touch()
    (tmp_path / "notes.txt").touch()
    tracks = find_tracks(tmp_path, leave_out=tmp_path / "out")
    assert [(track.name, track.slug) for track in tracks] == [
        ("a.flac", "a"),
        ("b/song.wav", "b_song"),
    ]


def test_one_file_is_a_set_of_one(tmp_path):
    (tmp_path / "x.wav").touch()
    assert [track.name for track in find_tracks(tmp_path / "x.wav")] == ["x.wav"]


def test_manifest_gives_the_tracks_of_a_split(tmp_path):
    lines = [{"file": f"p/{name}.ogg", "split": split} for name, split in ("at", "bs", "ct")]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert [track.name for track in find_tracks(manifest, "t")] == ["p/a.ogg", "p/c.ogg"]
    assert len(find_tracks(manifest)) == 3
    with pytest.raises(EvaluationError, match="holds no track of split 'validation'"):
        find_tracks(manifest, "validation")
    manifest.write_text('{"file": "a.ogg"}\n[]\n')
    with pytest.raises(EvaluationError, match="line 2 is not"):
        find_tracks(manifest)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(EvaluationError, match="no such folder, manifest or file"):
        find_tracks(tmp_path / "none")
    with pytest.raises(EvaluationError, match="holds no audio file"):
        find_tracks(tmp_path)
    with pytest.raises(EvaluationError, match="--split is for manifests"):
        find_tracks(tmp_path, "test")


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
