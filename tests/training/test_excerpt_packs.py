"""A data pack is small, spread evenly, and exact where it says so."""

import io
import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earvae.audio.containers import ContainerError
from earvae.audio.containers.ogg import Page, checksum
from earvae.cli.main import app
from earvae.config import ConfigError, DataConfig, FilterConfig, SourceConfig
from earvae.training.crops import CropDataset
from earvae.training.excerpts import golden_order, pack_excerpts, slots_of
from earvae.training.ogg import VorbisFile
from earvae.training.sources import list_tracks
from tests.small import RATE, tones


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Two Ogg Vorbis files, a mono FLAC at 48 kHz, one Opus, one too short: 75 s that count."""
    folder = tmp_path_factory.mktemp("music")
    soundfile.write(folder / "a.ogg", tones(30, seed=1), RATE)
    soundfile.write(folder / "b.ogg", tones(15, 1, seed=2), RATE)
    soundfile.write(folder / "c.flac", tones(20, 1, 48_000, seed=3), 48_000)
    soundfile.write(folder / "d.opus", tones(10, 2, 48_000, seed=4), 48_000, format="OGG",
                    subtype="OPUS")  # fmt: skip
    soundfile.write(folder / "e.wav", tones(1, seed=5), RATE)
    return folder


def tracks_of(folder):
    return list_tracks(SourceConfig(tracks=str(folder)))[0]


def packed(music, folder, size=10**7, seconds=2.5, **options):
    options = {"report": lambda line: None} | options
    return pack_excerpts(tracks_of(music), folder, seconds, size, **options)


@pytest.fixture(scope="module")
def whole_pack(music, tmp_path_factory):
    """All excerpts there are, and their folder; read only."""
    folder = tmp_path_factory.mktemp("pack")
    return packed(music, folder), folder


def stored(folder):
    """``(sample, its source, its bytes)`` of an index."""
    index = json.loads((folder / "index.json").read_text())
    shard = (folder / "shard-000000.tar").read_bytes()
    for sample in index["samples"]:
        data = shard[sample["offset"] : sample["offset"] + sample["size"]]
        yield sample, index["sources"][sample["source"]], data


def decoded(data) -> np.ndarray:
    return soundfile.read(data if not isinstance(data, bytes) else io.BytesIO(data),
                          dtype="float32", always_2d=True)[0]  # fmt: skip


# ------------------------------------------------------------------------------ pages


def test_the_checksum_is_that_of_the_pages_an_encoder_writes(music):
    """RFC 3533: over the page with its own four bytes at 0."""
    data = (music / "a.ogg").read_bytes()
    end = data.index(b"OggS", 4)
    page = data[:22] + bytes(4) + data[26:end]
    assert checksum(page) == int.from_bytes(data[22:26], "little")


def test_a_run_of_pages_decodes_to_the_samples_of_the_whole_file(music):
    file = VorbisFile((music / "a.ogg").read_bytes())
    whole = decoded(music / "a.ogg")
    ends = file.ends()
    assert ends[-1] == len(whole)
    count = len(file.pages)
    for first, last in ((1, 3), (count // 3, count // 2), (count - 4, count - 1)):
        part = decoded(file.excerpt(first, last))
        assert len(part) > 10_000
        assert np.array_equal(part, whole[ends[last] - len(part) : ends[last]])


def ends_of_packets(file) -> list[int]:
    """Samples up to the end of each packet: a quarter of its block and of the one before (Vorbis I,
    sections 1.3.2 and 4.3.8). libvorbis has two modes: the second bit of a packet tells which.
    """
    sizes = [2 ** (file.headers[0][28] & 15), 2 ** (file.headers[0][28] >> 4)]
    ends, before = [], 0
    for page in file.pages:
        at = 0
        begins = not page.flags & 1
        for length in page.segments:
            if begins:
                block = sizes[page.body[at] >> 1 & 1]
                ends.append(ends[-1] + (before + block) // 4 if ends else 0)
                before = block
            at, begins = at + length, length < 255
    return ends


def test_packets_that_cross_pages_are_cut_away_whole(music):
    """The same packets on pages of 7 segments, most of which begin and end inside a packet."""
    file = VorbisFile((music / "a.ogg").read_bytes())
    whole = decoded(music / "a.ogg")
    ends = ends_of_packets(file)
    assert set(file.ends()[:-1]) <= set(ends)  # the last page is trimmed
    segments = b"".join(page.segments for page in file.pages)
    body = b"".join(page.body for page in file.pages)
    pages, at, done = [], 0, 0
    for first in range(0, len(segments), 7):
        part = segments[first : first + 7]
        continued = first > 0 and segments[first - 1] == 255
        ended = sum(length < 255 for length in part)
        done += ended
        granule = ends[done - 1] if ended else -1
        pages.append(Page(int(continued), granule, 0, 0, part, body[at : at + sum(part)]))
        at += sum(part)
    assert 0.4 < np.mean([page.flags for page in pages]) < 1
    file.pages = pages
    for first, last in ((30, 90), (31, 91), (32, 92), (33, 93)):
        part = decoded(file.excerpt(first, last))
        end = file.ends()[last]
        assert len(part) > 10_000
        assert np.array_equal(part, whole[end - len(part) : end])


def test_what_is_no_single_vorbis_stream_is_refused_by_name(music):
    data = (music / "b.ogg").read_bytes()
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    for content, message in (
        ((music / "d.opus").read_bytes(), "is not Vorbis"),
        ((music / "c.flac").read_bytes(), "not made of whole Ogg pages"),
        (bytes(damaged), "damaged: the page at byte"),
        (data[:-10], "cut off: it ends inside a page"),
        (data + (music / "a.ogg").read_bytes(), "several streams"),
        (b"", "is not Vorbis"),
    ):
        with pytest.raises(ContainerError, match=message):
            VorbisFile(content)


# ------------------------------------------------------------------------------ where


def test_slots_do_not_overlap_and_every_one_comes_once(music):
    slots = list(slots_of(tracks_of(music), 2.5))
    assert len(slots) == 12 + 6 + 8 + 4  # of 30, 15, 20 and 10 s
    for one, other in zip(slots, slots[1:], strict=False):
        assert one.track != other.track or one.stop <= other.start
    assert sorted(golden_order(slots), key=slots.index) == slots


@pytest.mark.parametrize("count", [50, 100, 377, 1000])
def test_any_beginning_of_the_golden_order_is_spread_evenly(count):
    """No gap is as long as three mean gaps; of 500 random places the longest is about ln 500."""
    order = golden_order(list(range(count)))
    for taken in (8, 20, count // 2):
        places = np.sort(order[:taken])
        assert np.diff(np.concatenate([[0], places, [count]])).max() < 3 * count / taken


def test_tracks_give_excerpts_in_proportion_to_their_duration(music, whole_pack, tmp_path):
    """About half of all fits; 30, 15, 20 and 10 s of 75 s."""
    everything, _ = whole_pack
    assert len(everything.index["samples"]) == 30 and everything.short == 1
    some = packed(music, tmp_path / "some", size=everything.bytes // 2)
    sources = [some.index["sources"][s["source"]]["path"] for s in some.index["samples"]]
    names = ["a.ogg", "b.ogg", "c.flac", "d.opus"]
    counts = np.array([sources.count(name) for name in names])
    shares = counts / counts.sum()
    assert 8 <= counts.sum() < 20
    assert np.abs(shares - np.array([30, 15, 20, 10]) / 75).max() < 0.15


# ------------------------------------------------------------------------------ what


def test_copied_excerpts_are_the_samples_of_the_original_and_lie_where_they_say(music, whole_pack):
    result, folder = whole_pack
    copies = 0
    for sample, source, data in stored(folder):
        audio = decoded(data)
        assert len(audio) == sample["frames"] <= 2.5 * sample["rate"]
        assert sample["copied"] == source["path"].endswith(".ogg")
        if sample["copied"]:
            whole = decoded(music / source["path"])
            first = sample["first_frame"]
            assert np.array_equal(audio, whole[first : first + len(audio)])
            assert len(audio) > 1.25 * sample["rate"]
            copies += 1
    assert copies == result.copied == 18


def test_other_files_become_vorbis_at_their_own_rate_and_hardly_differ(music, whole_pack):
    for sample, source, data in stored(whole_pack[1]):
        if source["path"] == "c.flac":
            assert (sample["rate"], sample["channels"]) == (48_000, 1)
            assert soundfile.info(io.BytesIO(data)).subtype == "VORBIS"
            whole = decoded(music / "c.flac")[sample["first_frame"] :][: sample["frames"]]
            error = decoded(data) - whole
            assert 10 * np.log10(whole.var() / error.var()) > 10
        assert source["rounded"] == (not sample["copied"])


def test_flac_if_asked_for_is_exact(music, tmp_path):
    packed(music, tmp_path, codec="flac")
    for sample, source, data in stored(tmp_path):
        assert not sample["copied"]
        if source["path"] == "c.flac":
            whole = decoded(music / "c.flac")[sample["first_frame"] :][: sample["frames"]]
            assert np.array_equal(decoded(data), whole)


def test_a_pack_is_no_larger_than_asked_and_nearly_as_large(music, tmp_path):
    packed(music, tmp_path, size=300_000)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    largest = max(sample["size"] for sample, _, _ in stored(tmp_path))
    assert 300_000 - largest - 50_000 < size <= 300_000


def test_packing_twice_gives_the_same_bytes(music, tmp_path):
    for name in ("one", "two"):
        packed(music, tmp_path / name, size=200_000)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_pack_trains(whole_pack):
    index = whole_pack[1] / "index.json"
    config = DataConfig(sources=[{"tracks": str(index)}], crop_samples=32_768)
    crops = CropDataset(config, RATE)
    assert len(crops.tracks) == 30 and not crops.left_out
    for index in range(20):
        item = crops[index]
        assert item["audio"].abs().max() > 0.05 and not item["dropped"].any()


def test_filters_judge_whole_tracks_and_silence_is_passed_over(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(source / "good.flac", tones(6, seed=1), RATE)
    hot = tones(6, seed=2)
    hot[-2000:] = 1.5  # +3.5 dB, in a piece of the track only
    soundfile.write(source / "hot.wav", hot, RATE, subtype="FLOAT")
    half = tones(6, seed=3)
    half[: 3 * RATE] = 0
    soundfile.write(source / "half.wav", half, RATE)
    spectrum = np.fft.rfft(tones(6, seed=4), axis=0)
    spectrum[6 * 11_000 :] = 0
    soundfile.write(source / "dull.wav", np.fft.irfft(spectrum, axis=0), RATE, subtype="FLOAT")
    filters = FilterConfig(true_peak_db=1.0, bandwidth_hz=14_000)
    result = packed(source, tmp_path / "out", seconds=1.0, filters=filters)
    assert [s["path"] for s in result.index["sources"]] == ["good.flac", "half.wav"]
    assert result.silent == 3 and result.left_out == []
    assert [line.rsplit("/")[-1] for line in result.refused] == [
        "dull.wav: refused as a whole: bandwidth", "hot.wav: refused as a whole: true_peak"
    ]  # fmt: skip


def test_damaged_files_are_left_out_whole_and_by_name(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(source / "good.flac", tones(4, seed=1), RATE)
    soundfile.write(source / "spoilt.flac", tones(4, seed=2), RATE)
    data = (source / "spoilt.flac").read_bytes()
    third = len(data) // 3
    (source / "spoilt.flac").write_bytes(data[:third] + bytes(third) + data[2 * third :])
    result = packed(source, tmp_path / "out", seconds=1.0)
    assert [s["path"] for s in result.index["sources"]] == ["good.flac"]
    assert len(result.left_out) == 1 and "spoilt.flac" in result.left_out[0]


def test_nothing_to_pack_is_one_line(music, tmp_path):
    with pytest.raises(ConfigError, match="none of 5 tracks is as long as 60 s"):
        packed(music, tmp_path, seconds=60)
    with pytest.raises(ConfigError, match="an excerpt of 2.5 s is larger than 50000 bytes"):
        packed(music, tmp_path, size=50_000)


def test_the_command_tells_what_it_packed(music, tmp_path):
    arguments = ["pack", str(music), "-o", str(tmp_path), "--excerpts", "2.5"]
    result = CliRunner().invoke(app, [*arguments, "--megabytes", "0.3"])
    assert result.exit_code == 0
    for words in ("copied", "Vorbis of quality 0.6", "bytes for a second", "1 tracks shorter"):
        assert words in result.stdout
    assert (tmp_path / "index.json").is_file()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "--megabytes go together" in result.stderr
