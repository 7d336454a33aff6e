"""Sound that PyAV decodes: exact lengths, places, and files that are not what they say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from earvae.audio import AudioFileError, AudioSource, Part, downmix_matrix, inspect, layout_of
from earvae.audio import read_stretch as stretch
from tests.small import white

av = pytest.importorskip("av")
from tests import media  # noqa: E402

RATE = 44_100
EXACT = {  # form, codec, rate
    "m4a": ("ipod", "aac", 44_100),
    "alac": ("ipod", "alac", 44_100),
    "mov": ("mov", "pcm_s16le", 48_000),
    "webm": ("webm", "libopus", 48_000),
    "flac_in_mka": ("matroska", "flac", 44_100),
    "wv": ("wv", "wavpack", 44_100),
}


def tones(samples: int, rate: int = RATE, channels: int = 2) -> np.ndarray:
    t = np.arange(samples)[:, None] / rate
    return (0.4 * np.sin(2 * np.pi * (300 + 200 * np.arange(channels)) * t)).astype(np.float32)


def read(path: Path) -> np.ndarray:
    return np.concatenate([block.T for block in AudioSource(path).blocks()])


@pytest.mark.parametrize("kind", EXACT)
def test_exactly_the_samples_that_were_encoded(tmp_path, kind):
    form, codec, rate = EXACT[kind]
    audio = tones(50_001, rate)
    path = media.write(tmp_path / "a", audio, rate, form, codec)
    found = read(path)
    assert found.shape == audio.shape
    tolerance = 2e-4 if codec in ("alac", "pcm_s16le", "flac", "wavpack") else 0.1
    middle = slice(5000, -5000)  # coders need a while
    np.testing.assert_allclose(found[middle], audio[middle], atol=tolerance)
    info = inspect(path)
    assert (info.rate, info.channels, info.speakers) == (rate, 2, ("L", "R"))
    assert info.header_samples in (None, 50_001)
    assert (info.header_samples is None) == (form in ("webm", "matroska"))


@pytest.mark.parametrize("kind", EXACT)
def test_a_stretch_is_that_of_the_whole(tmp_path, kind):
    form, codec, rate = EXACT[kind]
    path = media.write(tmp_path / "a", tones(3 * rate, rate), rate, form, codec)
    whole = read(path)
    parts = layout_of(path).parts
    for start in (0, 17, rate // 3, 2 * rate + 123, 3 * rate - 1):
        found, told = stretch(path, parts, start, start + 5000)
        assert told == rate
        np.testing.assert_allclose(found, whole[start : start + 5000], atol=2e-3)


def test_the_count_that_itunes_writes_is_believed(tmp_path):
    form = " 00000000 00000840 000001CA 0000000000003A98 00000000 00000000"
    path = media.write(tmp_path / "a.mp4", tones(20_000), RATE, "mp4", "aac")
    assert inspect(path).header_samples == 20_000
    from earvae.audio import media as reader

    class Said:
        metadata = {"iTunSMPB": form}

    assert reader._count(Said, None, Part(0, 1)) == 15_000


def test_six_channels_are_folded_by_their_names(tmp_path):
    path = media.write(tmp_path / "a.m4a", tones(9000, channels=6), RATE, "ipod", "alac", "5.1")
    with pytest.raises(AudioFileError, match="--downmix"):
        AudioSource(path)
    source = AudioSource(path, downmix=True)
    assert source.info.speakers == ("L", "R", "C", "LFE", "Ls", "Rs")
    folded = np.concatenate([block.T for block in source.blocks()])
    np.testing.assert_allclose(folded, tones(9000, channels=6) @ downmix_matrix(6).T, atol=1e-3)


def test_four_channels_with_a_centre_are_no_quad():
    names = ("L", "R", "C", "Cs")
    assert downmix_matrix(4, speakers=names)[:, 3].tolist() == [0.5, 0.5]
    assert downmix_matrix(4)[:, 3].tolist() == [0, pytest.approx(0.5**0.5)]


def test_the_sound_of_a_video_is_read_and_silence_is_refused(tmp_path):
    media.write_video(tmp_path / "a.mp4", tones(10_240), RATE)
    assert read(tmp_path / "a.mp4").shape == (10_240, 2)
    media.write_video(tmp_path / "b.mp4", None, RATE)
    with pytest.raises(AudioFileError, match=r"b\.mp4: .*holds no sound"):
        inspect(tmp_path / "b.mp4")


def test_damage_in_the_middle_says_where(tmp_path):
    path = media.write(tmp_path / "a.m4a", white(3.0, 2, RATE), RATE, "ipod", "aac")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(AudioFileError, match=r"a\.m4a: damaged or cut off after 1\.\d s") as told:
        read(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("form", [("webm", "libopus"), ("asf", "wmav2"), ("adts", "aac")])
def test_every_cut_of_a_file_is_noticed(tmp_path, form):
    path = media.write(tmp_path / "a", white(1.0, 2, 48_000), 48_000, *form)
    data = path.read_bytes()
    for share in np.linspace(0.05, 0.98, 11):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(AudioFileError):
            read(path)


def test_a_playlist_leads_nowhere(tmp_path):
    media.write(tmp_path / "secret.m4a", tones(3000), RATE, "ipod", "aac")
    (tmp_path / "a.m4a").write_text("#EXTM3U\n#EXTINF:1,\nsecret.m4a\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioFileError, match="not an audio file"):
        read(tmp_path / "a.m4a")


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = media.write(tmp_path / "a.m4a", tones(3000), RATE, "ipod", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    line = re.escape(str(path)) + r": needs PyAV .*pip install 'earvae\[media\]'"
    with pytest.raises(AudioFileError, match=line):
        inspect(path)
