"""Shards hold the music exactly, are the same every time, and survive what breaks on the way."""

import contextlib
import http.server
import io
import json
import re
import tarfile
import threading

import numpy as np
import pytest
import soundfile
import torch

from earvae import remote
from earvae.config import ConfigError, DataConfig, SourceConfig
from earvae.errors import WriteError
from earvae.training import tar_write
from earvae.training.crops import CropDataset, read_crop
from earvae.training.filters import DROP_REASONS
from earvae.training.loader import make_loader
from earvae.training.sources import Track, list_tracks
from earvae.training.tar_write import Packer
from tests.small import RATE
from tests.small import white as noise

BROKEN = DROP_REASONS.index("broken")


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Five tracks of several rates, depths and lengths, 10.5 s in all."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "sub").mkdir()
    soundfile.write(folder / "a.wav", noise(3.3, seed=1), RATE, subtype="PCM_16")
    soundfile.write(folder / "b.flac", noise(2, 1, 48_000, seed=2), 48_000, subtype="PCM_24")
    soundfile.write(folder / "c.wav", noise(1, seed=3), RATE, subtype="FLOAT")
    soundfile.write(folder / "sub" / "d.aiff", noise(0.2, seed=4), RATE, subtype="PCM_S8")
    soundfile.write(folder / "sub" / "e.ogg", noise(4, seed=5), RATE)
    return folder


def pack_folder(music, folder, **options):
    listed = list_tracks(SourceConfig(tracks=str(music)))[0]
    defaults = {"segment_seconds": 1.0, "shard_bytes": 700_000, "report": lambda line: None}
    return Packer(listed, folder, **defaults | options).pack()


@pytest.fixture(scope="module")
def packed(music, tmp_path_factory):
    """A folder of shards of ``music``; read only."""
    folder = tmp_path_factory.mktemp("shards")
    assert pack_folder(music, folder).left_out == []
    return folder


@pytest.fixture
def copied(packed, tmp_path):
    """A folder of shards of ``music`` to spoil."""
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def dataset(location, **options):
    options = {"crop_samples": 5000, "batch_size": 4, "workers": 0} | options
    return CropDataset(DataConfig(sources=[{"tracks": str(location)}], **options), RATE)


def items(data, start, stop):
    batches = list(make_loader(data, start, stop))
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def same(one, other, rows=slice(None)):
    return one.keys() == other.keys() and all(torch.equal(one[k][rows], other[k]) for k in one)


# ------------------------------------------------------------------------------ what is packed


def test_segments_of_integer_sources_are_exactly_the_source(music, tmp_path):
    """Put together again, in the order of the index, they are the source, bit for bit."""
    extremes = np.array([[-(2**31), 2**31 - 256], [0, 256], [-256, 2**30 + 256]] * 4000)
    source = tmp_path / "in"
    source.mkdir()
    for name, subtype in (("x.wav", "PCM_24"), ("y.wav", "PCM_16"), ("z.wav", "PCM_U8")):
        soundfile.write(source / name, extremes.astype(np.int32), RATE, subtype=subtype)
    soundfile.write(source / "m.flac", noise(1, 1, 96_000), 96_000, subtype="PCM_24")
    result = pack_folder(source, tmp_path / "out", segment_seconds=0.1)
    assert result.rounded == 0 and result.float_samples == 0
    for number, entry in enumerate(result.index["sources"]):
        expected, rate = soundfile.read(source / entry["path"], dtype="int32", always_2d=True)
        parts, first = [], 0
        for sample in result.index["samples"]:
            if sample["source"] == number:
                data = remote.fetch(
                    str(tmp_path / "out" / result.index["shards"][sample["shard"]]["file"]),
                    sample["offset"],
                    sample["size"],
                )
                audio, own_rate = soundfile.read(io.BytesIO(data), dtype="int32", always_2d=True)
                assert audio.shape == (sample["frames"], sample["channels"]) and own_rate == rate
                assert sample["first_frame"] == first and len(audio) <= 0.1 * rate
                parts.append(audio)
                first += len(audio)
        assert len(parts) > 1
        assert np.array_equal(np.concatenate(parts), expected)


def test_tracks_are_cut_into_equal_parts(packed):
    """3.3 s in parts of at most 1 s are four of 0.825 s, and no short rest."""
    frames = [sample["frames"] for sample in index_of(packed)["samples"] if sample["source"] == 0]
    assert sum(frames) == 145_530 and len(frames) == 4
    assert max(frames) - min(frames) <= 4


def test_peaks_beyond_full_scale_survive(tmp_path):
    loud = (3 * noise(2, seed=9)).astype(np.float32)
    loud[RATE:] = np.clip(loud[RATE:], -0.9, 0.9)  # only the first second exceeds full scale
    loud[10, 0] = 2.5
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(source / "loud.wav", loud, RATE, subtype="FLOAT")
    result = pack_folder(source, tmp_path / "out")
    assert [s["member"].rsplit(".")[-1] for s in result.index["samples"]] == ["wav", "flac"]
    assert (result.float_samples, result.rounded) == (1, 1)
    tracks, _ = list_tracks(SourceConfig(tracks=str(tmp_path / "out" / "index.json")))
    first, second = (read_crop(track, 0.0, RATE, RATE).T for track in tracks)
    assert np.array_equal(first, loud[:RATE])
    assert np.abs(second - loud[RATE:]).max() <= 0.5 / 2**23  # half a step of 24 bits


def test_full_scale_is_told_from_what_24_bits_hold():
    """-1 and 1 - 2⁻²³ are integers of 24 bits; 1 is not and would be clipped."""
    step = 2.0**-23
    for highest, suffix in ((1 - step, ".flac"), (1.0, ".wav")):
        audio = np.array([[-1.0, 0.0, highest, step]], np.float32).repeat(2, 0)
        kind, data, rounded = tar_write.encode(audio, RATE)
        assert kind == suffix and not rounded
        assert np.array_equal(soundfile.read(io.BytesIO(data), dtype="float32")[0].T, audio)


def test_rounded_sources_are_those_finer_than_24_bits(packed):
    rounded = {s["path"]: s["rounded"] for s in index_of(packed)["sources"]}
    assert rounded == {
        "a.wav": False, "b.flac": False, "c.wav": True, "sub/d.aiff": False, "sub/e.ogg": True
    }  # fmt: skip


def test_the_index_points_at_the_audio_of_the_tar_files(packed):
    index = index_of(packed)
    assert len(index["shards"]) > 1
    expected = {}
    for number, shard in enumerate(index["shards"]):
        assert (packed / shard["file"]).stat().st_size == shard["bytes"]
        with tarfile.open(packed / shard["file"]) as archive:
            members = archive.getmembers()
            for audio, text in zip(members[::2], members[1::2], strict=True):  # neighbours
                assert audio.name.split(".")[0] == text.name.split(".")[0]
                assert (audio.mtime, audio.uid, audio.gid, audio.uname) == (0, 0, 0, "")
                told = json.loads(archive.extractfile(text).read())
                expected[audio.name] = (number, audio.offset_data, audio.size, told)
    assert list(expected) == sorted(expected)
    for sample in index["samples"]:
        shard, offset, size, told = expected.pop(sample["member"])
        assert (sample["shard"], sample["offset"], sample["size"]) == (shard, offset, size)
        source = index["sources"][sample["source"]]
        assert told == {
            "source": source["path"], "sha256": source["sha256"],
            "first_frame": sample["first_frame"], "frames": sample["frames"],
            "rate": sample["rate"], "channels": sample["channels"],
        }  # fmt: skip
    assert not expected


def test_the_webdataset_library_reads_the_shards(packed):
    webdataset = pytest.importorskip("webdataset")
    index = index_of(packed)
    urls = [str(packed / shard["file"]) for shard in index["shards"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [
        sample["member"].split(".")[0] for sample in index["samples"]
    ]
    for sample, entry in zip(samples, index["samples"], strict=True):
        assert json.loads(sample["json"])["frames"] == entry["frames"]
        assert soundfile.info(io.BytesIO(sample["flac"])).frames == entry["frames"]


# ------------------------------------------------------------------------------ packing again


def test_packing_twice_gives_the_same_bytes(music, packed, tmp_path):
    pack_folder(music, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(packed)
    pack_folder(music, tmp_path / "again")  # over what is there
    assert contents(tmp_path / "again") == contents(packed)


def test_an_interrupted_pack_goes_on_to_the_same_bytes(music, packed, tmp_path, monkeypatch):
    """Stopped in the third track: the shards before it are kept, not written again."""
    original = tar_write.source_entry

    def interrupted(track):
        if track.path.name == "c.wav":
            raise KeyboardInterrupt
        return original(track)

    monkeypatch.setattr(tar_write, "source_entry", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_folder(music, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"shard-000000.tar", "index.unfinished", ".earvae-pack"}
    before = (tmp_path / "shard-000000.tar").stat().st_ino
    seen = []
    monkeypatch.setattr(
        tar_write, "source_entry", lambda track: seen.append(track.path.name) or original(track)
    )
    told = []
    pack_folder(music, tmp_path, report=told.append)
    assert contents(tmp_path) == contents(packed)
    assert (tmp_path / "shard-000000.tar").stat().st_ino == before
    assert "a.wav" not in seen and "goes on after" in told[0]


@pytest.mark.parametrize("change", ["options", "files", "torn journal", "lost shard"])
def test_what_does_not_fit_an_interrupted_pack_is_packed_anew(
    music, packed, tmp_path, monkeypatch, change
):
    options = {"segment_seconds": 0.5} if change == "options" else {}
    source = tmp_path / "source"
    for track in list_tracks(SourceConfig(tracks=str(music)))[0]:
        copy = source / track.path.relative_to(music)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(track.path.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(tar_write, "write_index", lambda *_: 1 / 0)  # at the very end
        with pytest.raises(ZeroDivisionError):
            pack_folder(source, tmp_path / "out", **options)
    journal = tmp_path / "out" / "index.unfinished"
    if change == "files":
        (source / "a.wav").write_bytes((source / "c.wav").read_bytes())
    elif change == "torn journal":
        journal.write_text(journal.read_text()[:-100])
    elif change == "lost shard":
        (tmp_path / "out" / "shard-000001.tar").unlink()
    pack_folder(source, tmp_path / "out")
    pack_folder(source, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    if change != "files":
        assert contents(tmp_path / "out") == contents(packed)


def test_shards_of_an_earlier_and_larger_pack_go_and_other_files_stay(music, tmp_path):
    pack_folder(music, tmp_path, shard_bytes=1)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".earvae-00.partial").write_text("left by a pack that was killed")
    assert len(list(tmp_path.glob("*.tar"))) == 5
    pack_folder(music, tmp_path, shard_bytes=10**9)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".earvae-pack", "index.json", "notes.txt", "shard-000000.tar"]


@pytest.mark.parametrize("name", ["index.json", "shard-000007.tar", "index.unfinished"])
def test_what_is_not_of_a_pack_is_refused_by_name_and_stays(music, tmp_path, name):
    (tmp_path / name).write_text('{"mine": "of a web site"}')
    before = contents(tmp_path)
    with pytest.raises(WriteError, match=name):
        pack_folder(music, tmp_path)
    assert contents(tmp_path) == before


def test_a_shard_that_somebody_puts_beside_ours_is_refused_and_stays(music, copied):
    (copied / "shard-000007.tar").write_text("somebody's")
    before = contents(copied)
    with pytest.raises(WriteError, match="shard-000007.tar: is there already"):
        pack_folder(music, copied)
    assert contents(copied) == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_music_in_a_folder_of_a_pack_must_be_meant(music, tmp_path, monkeypatch, finished):
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(tar_write, "write_index", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pack_folder(music, tmp_path / "out")
        else:
            pack_folder(music, tmp_path / "out")
    before = contents(tmp_path / "out")
    few = list_tracks(SourceConfig(tracks=str(music)))[0][:1]
    with pytest.raises(WriteError, match="not among these .*--replace"):
        Packer(few, tmp_path / "out", 1.0, 700_000, report=lambda line: None).pack()
    assert contents(tmp_path / "out") == before
    Packer(few, tmp_path / "out", 1.0, 700_000, None, lambda line: None, replace=True).pack()
    assert len(index_of(tmp_path / "out")["sources"]) == 1
    pack_folder(music, tmp_path / "out")  # more music replaces it
    assert len(index_of(tmp_path / "out")["sources"]) > 1


def test_a_pack_without_its_list_is_known_by_its_index(music, copied, packed):
    (copied / ".earvae-pack").unlink()  # a copy that left hidden files out
    pack_folder(music, copied)
    assert contents(copied) == contents(packed)


def test_damaged_files_are_left_out_whole_and_named(tmp_path):
    """Cut off in its second half, a file leaves nothing of its good first half behind."""
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(source / "a.flac", noise(1, seed=1), RATE)
    soundfile.write(source / "z.flac", noise(1, seed=2), RATE)
    pack_folder(source, tmp_path / "good", segment_seconds=0.2)
    soundfile.write(source / "bad.flac", noise(1, seed=3), RATE)
    whole = (source / "bad.flac").read_bytes()
    (source / "bad.flac").write_bytes(whole[: len(whole) * 3 // 4])
    nan = noise(1, seed=4)
    nan[-5] = np.nan
    soundfile.write(source / "nan.wav", nan, RATE, subtype="FLOAT")
    told = []
    listed = list_tracks(SourceConfig(tracks=str(source)))[0]
    bad = [Track(RATE, RATE, 2, source / "bad.flac", "bad.flac")]  # spoilt after it was listed
    packer = Packer(bad + listed, tmp_path / "out", 0.2, report=told.append)
    result = packer.pack()
    assert [re.search(r"\w+\.\w+(?=: )", line)[0] for line in result.left_out] == [
        "bad.flac", "nan.wav"
    ]  # fmt: skip
    assert sum("left out" in line for line in told) == 2
    index, good = result.index, index_of(tmp_path / "good")
    assert index["sources"] == good["sources"]
    assert [sample["crc32"] for sample in index["samples"]] == [
        sample["crc32"] for sample in good["samples"]
    ]
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        assert len(archive.getnames()) == 2 * len(index["samples"])


# ------------------------------------------------------------------------------ reading


def test_a_crop_of_a_segment_is_the_same_as_of_the_file(music, packed):
    """Segment k of a.wav begins at its first frame; so does the same stretch of the file."""
    tracks, left_out = list_tracks(SourceConfig(tracks=str(packed / "index.json")))
    samples = index_of(packed)["samples"]
    assert left_out == [] and len(tracks) == len(samples)
    whole, _ = soundfile.read(music / "a.wav", dtype="float32")
    for track, sample in zip(tracks, samples, strict=True):
        assert track.duration == sample["frames"] / sample["rate"]
        if sample["source"] == 0:
            for place in (0.0, 0.4, 1.0):
                first = sample["first_frame"] + int(place * (track.frames - 5000))
                crop = read_crop(track, place, 5000, RATE)
                assert np.array_equal(crop, whole[first : first + 5000].T)


def test_crops_from_shards_are_the_same_for_any_workers_ranks_and_start(packed):
    index = packed / "index.json"
    whole = items(dataset(index), 0, 24)
    assert not whole["dropped"].any() and (whole["audio"].abs().amax((1, 2)) > 0.1).all()
    for workers in (1, 2):
        assert same(whole, items(dataset(index, workers=workers), 0, 24))
    assert same(whole, items(dataset(index), 9, 24), slice(9, None))
    ranks = [list(make_loader(dataset(index), 0, 24, rank, 2)) for rank in (0, 1)]
    turns = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    assert torch.equal(whole["audio"], torch.cat([batch["audio"] for batch in turns]))


def test_a_damaged_member_is_counted_as_broken_and_the_run_goes_on(copied):
    index = index_of(copied)
    sample = index["samples"][1]
    path = copied / index["shards"][sample["shard"]]["file"]
    data = bytearray(path.read_bytes())
    data[sample["offset"] + sample["size"] // 2] ^= 1
    path.write_bytes(data)
    crops = items(dataset(copied / "index.json", workers=1), 0, 60)
    assert crops["dropped"][:, BROKEN].sum() == crops["dropped"].sum() > 0
    assert (crops["audio"].abs().amax((1, 2)) > 0.1).all()


def test_a_shard_cut_off_while_training_is_counted_as_broken(copied):
    data = dataset(copied / "index.json")
    path = copied / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:5000])
    crops = items(data, 0, 40)
    assert crops["dropped"][:, BROKEN].sum() == crops["dropped"].sum() > 0
    assert (crops["audio"].abs().amax((1, 2)) > 0.1).all()


def test_missing_and_cut_shards_are_told_when_they_are_listed(copied):
    (copied / "shard-000000.tar").unlink()
    index = index_of(copied)
    own = [sample for sample in index["samples"] if sample["shard"] == 1]
    assert len(own) > 1
    path = copied / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[: own[0]["offset"] + own[0]["size"]])  # one is whole
    data = dataset(copied / "index.json")
    missing = sum(sample["shard"] == 0 for sample in index["samples"])
    assert data.left_out == [
        f"{copied / 'shard-000000.tar'}: missing; {missing} of its segments left out",
        f"{copied / 'shard-000001.tar'}: cut off; {len(own) - 1} of its segments left out",
    ]
    assert len(data.tracks) == len(index["samples"]) - missing - len(own) + 1
    assert not items(data, 0, 20)["dropped"].any()


def test_a_folder_of_shards_says_what_to_name_instead(packed):
    with pytest.raises(ConfigError, match=re.escape(f"use {packed / 'index.json'}")):
        list_tracks(SourceConfig(tracks=str(packed)))


def test_samples_that_cannot_be_are_left_out_and_the_others_are_used(copied):
    index = index_of(copied)
    own = index["samples"]
    lies = [
        {"rate": 0}, {"rate": 10**9}, {"rate": "x"}, {"frames": None}, {"frames": 0},
        {"frames": 10**18}, {"frames": own[0]["frames"] * 3}, {"channels": 0}, {"frames": -5},
        {"offset": -1}, {"size": 0}, {"size": 10**18}, {"shard": 99}, {"shard": -1}, {"crc32": "x"},
    ]  # fmt: skip
    odd = [own[0] | lie for lie in lies] + [5, None, {}]
    (copied / "index.json").write_text(json.dumps(index | {"samples": odd + own}))
    data = dataset(copied / "index.json")
    assert len(data.tracks) == len(own)
    (line,) = data.left_out
    assert "index.json: sample 0: `rate`" in line and f"{len(odd) - 1} more" in line


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "a\0b", "", 5])
def test_shards_lie_beside_their_index(copied, name):
    index = index_of(copied)
    index["shards"][0]["file"] = name
    (copied / "index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="index.json: ") as caught:
        dataset(copied / "index.json")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ over the network


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Files of ``folder``, whole or by range; the first ``failures`` requests are answered 503."""

    folder = None
    failures = 0
    requests: list[str] = []

    def do_GET(self):
        self.requests.append(f"{self.path} {self.headers.get('Range')}")
        path = self.folder / self.path.lstrip("/")
        if RangeHandler.failures > 0:
            RangeHandler.failures -= 1
            return self.answer(503, b"busy")
        if not path.is_file():
            return self.answer(404, b"no such file")
        data = path.read_bytes()
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first = int(wanted[1])
            last = int(wanted[2] or len(data) - 1)
            return self.answer(206, data[first : last + 1])
        self.answer(200, data)

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(copied, monkeypatch):
    """The shards as a URL, and the class that answers."""
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(RangeHandler, "folder", copied)
    monkeypatch.setattr(RangeHandler, "failures", 0)
    monkeypatch.setattr(RangeHandler, "requests", [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", RangeHandler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_over_http_are_those_of_the_local_shards(copied, served, workers):
    url, _ = served
    local = items(dataset(copied / "index.json"), 0, 12)
    assert same(local, items(dataset(f"{url}/index.json", workers=workers), 0, 12))


def test_a_crop_over_http_fetches_its_segment_and_no_more(copied, served):
    url, handler = served
    data = dataset(f"{url}/index.json")
    handler.requests.clear()
    items(data, 0, 8)
    index = index_of(copied)
    ranges = {
        f"/{index['shards'][s['shard']]['file']} bytes={s['offset']}-{s['offset'] + s['size'] - 1}"
        for s in index["samples"]
    }
    assert len(handler.requests) == 8 and set(handler.requests) <= ranges


def test_a_server_that_is_busy_for_a_moment_is_asked_again(copied, served):
    url, handler = served
    data = dataset(f"{url}/index.json")
    handler.failures = 3
    assert same(items(dataset(copied / "index.json"), 0, 4), items(data, 0, 4))


class Flood(http.server.BaseHTTPRequestHandler):
    """Answers any range with far more than was asked for; counts what was taken."""

    sent = 0
    status = 206

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(200):
                self.wfile.write(bytes(1 << 20))
                Flood.sent += 1 << 20

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [200, 206])
def test_no_more_is_taken_of_an_answer_than_was_asked_for(served, monkeypatch, status):
    url, _ = served
    monkeypatch.setattr(Flood, "sent", 0)
    monkeypatch.setattr(Flood, "status", status)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flood)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/shard.tar"
    with pytest.raises(OSError, match="gave more bytes|parts of files"):
        remote.fetch(url, 0, 4096)
    server.shutdown()
    server.server_close()
    assert Flood.sent < 100 << 20


def test_a_server_that_stays_busy_is_counted_as_broken(served):
    url, handler = served
    data = dataset(f"{url}/index.json")
    handler.failures = 4  # the first attempt and three more
    crops = items(data, 0, 4)
    assert crops["dropped"][:, BROKEN].tolist() == [1, 0, 0, 0]
    assert (crops["audio"].abs().amax((1, 2)) > 0.1).all()


def test_a_remote_index_that_is_not_there_is_named(served):
    url, _ = served
    with pytest.raises(
        ConfigError, match=f"{url}/other.json: cannot be read: no such file$"
    ) as caught:
        dataset(f"{url}/other.json")
    assert "\n" not in str(caught.value)


def test_a_url_that_nothing_here_can_read_is_one_line():
    with pytest.raises(ConfigError, match="nosuch://host/index.json") as caught:
        dataset("nosuch://host/index.json")
    assert "\n" not in str(caught.value)
