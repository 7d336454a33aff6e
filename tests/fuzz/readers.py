"""Every reader of files that may come from anywhere, with what it is given and what must hold.

A reader may take a file or refuse it by an EarvaeError of plain lines that name it. Anything else
is a fault: another exception, a line with control characters, more time than ``SECONDS``, more
memory than ``MEMORY``, code that was executed, and files that are taken although they contradict
themselves.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import safetensors.torch
import soundfile
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from earvae import recipes, tracks
from earvae.audio import AudioFileError, AudioSource
from earvae.config import DataConfig, TrainConfig, read
from earvae.errors import EarvaeError, visible
from earvae.evaluation import figures, listeners, tables
from earvae.evaluation.results import FORMAT, Results
from earvae.latents import bare, statistics
from earvae.latents import file as latents_file
from earvae.latents.file import Latents, Metadata
from earvae.library.encode import encode_library
from earvae.library.items import Library
from earvae.model.vae import EarVAE
from earvae.training import sources
from earvae.training.crops import CropDataset
from tests.fuzz import damage
from tests.library import small as small_library
from tests.small import GOLDEN, compact

SECONDS = 20.0  # for one file
MEMORY = 4 << 30  # of addresses beyond those in use at the start

WRITTEN = 10**18  # when all files were, in nanoseconds

Files = dict[str, bytes]  # by name; the first is the one that is read


class Fault(AssertionError):
    """What must not happen."""


@dataclass(frozen=True)
class Reader:
    """A reader by its name, the files it is tried on, and the reading, which checks the result.

    ``few`` are the files that the test suite gives it.
    """

    name: str
    inputs: Callable[[], SearchStrategy[Files]]
    read: Callable[[Path], object]
    few: int = 40


def attempt(reader: Reader, files: Files, folder: Path) -> bool:
    """Write files into ``folder`` (emptied before) and read the first; whether it was taken.

    Raises Fault, or whatever else came out.
    """
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(WRITTEN, WRITTEN))
    path = folder / next(iter(files))
    quiet = io.StringIO()
    try:
        with (
            _limited_time(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            warnings.simplefilter("ignore")
            reader.read(path)
    except EarvaeError as error:
        text = visible(str(error))  # as the command line prints it
        if path.name not in text and folder.name not in text:
            raise Fault(f"does not name {path.name}: {text[:300]}") from error
        if any(
            unicodedata.category(character) in ("Cc", "Cs") for character in text.replace("\n", "")
        ):
            raise Fault(f"holds control characters: {text[:300]!r}") from error
        return False
    finally:
        if (folder / "executed").exists():
            raise Fault("code of the file was executed")
    return True


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Raise Fault after ``SECONDS``."""

    def late(*_: object) -> None:
        raise Fault(f"not done within {SECONDS:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """MemoryError beyond ``MEMORY`` more than there is now; where the system can do that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise Fault(what)


def _one(name: str, contents: SearchStrategy[bytes]) -> SearchStrategy[Files]:
    return contents.map(lambda content: {name: content})


# --------------------------------------------------------------------------- audio

FORMATS = (
    ("wav", "WAV", "PCM_16"), ("wav", "WAVEX", "FLOAT"), ("wav", "WAV", "MS_ADPCM"),
    ("wav", "RF64", "PCM_24"), ("w64", "W64", "PCM_16"), ("aiff", "AIFF", "PCM_16"),
    ("aifc", "AIFF", "FLOAT"), ("au", "AU", "PCM_16"), ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"), ("flac", "FLAC", "PCM_16"), ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"),
)  # fmt: skip


@functools.cache
def _sounds() -> dict[str, list[bytes]]:
    """Files of a twentieth of a second by suffix."""
    audio = 0.1 * np.random.default_rng(0).standard_normal((2_400, 2))
    found: dict[str, list[bytes]] = {}
    for suffix, container, subtype in FORMATS:
        for channels in (1, 2):
            file = io.BytesIO()
            soundfile.write(file, audio[:, :channels], 48_000, subtype, format=container)
            found.setdefault(suffix, []).append(file.getvalue())
    return found


def _audio_files() -> SearchStrategy[Files]:
    return st.one_of(
        *(_one(f"song.{suffix}", damage.damaged(seeds)) for suffix, seeds in _sounds().items())
    )


MEDIA = (
    ("m4a", "ipod", "aac"), ("m4a", "ipod", "alac"), ("mp4", "mp4", "libopus"),
    ("mov", "mov", "pcm_s16le"), ("webm", "webm", "libopus"), ("mka", "matroska", "flac"),
    ("wma", "asf", "wmav2"), ("aac", "adts", "aac"), ("ac3", "ac3", "ac3"), ("wv", "wv", "wavpack"),
)  # fmt: skip


def _media_files() -> SearchStrategy[Files]:
    """Files of a twentieth of a second that libav reads."""
    from tests import media

    audio = 0.1 * np.random.default_rng(0).standard_normal((2_400, 2))
    kinds = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix, form, codec in MEDIA:
            made = media.write(Path(folder, "made"), audio, 48_000, form, codec)
            kinds.append(_one(f"song.{suffix}", damage.damaged([made.read_bytes()])))
    return st.one_of(kinds)


def _read_audio(path: Path) -> None:
    """Twice, in all blocks; and as training draws from it."""
    source = AudioSource(path, downmix=True)
    counts = []
    for _ in range(2):
        counts.append(0)
        for block in source.blocks():
            _must(block.shape[0] == source.channels, "another number of channels than told")
            _must(bool(np.isfinite(block).all()), "NaN or infinity handed over")
            counts[-1] += block.shape[1]
            if counts[-1] > 10**8:
                return  # a format may pack silence that well
    _must(counts[0] == counts[1] == source.samples, f"another length each time: {counts}")
    for track in _draw_crops(path).tracks:
        _must(track.frames <= counts[0], f"training counts {track.frames} of {counts[0]} samples")


def _draw_crops(path: Path) -> CropDataset:
    """Two crops of a source, as training draws them."""
    config = DataConfig(sources=({"tracks": str(path)},), crop_samples=640, short_tracks="pad")
    crops = CropDataset(config, 44_100)
    for number in range(2):
        audio = crops[number]["audio"]
        _must(audio.shape == (2, 640) and bool(audio.isfinite().all()), "a crop of something else")
    return crops


# --------------------------------------------------------------------------- latents

_METADATA = Metadata(
    sample_rate=44_100, original_rate=44_100, channels=2, hop_length=64, model="0123456789ab",
    latents="mean", settings="0123456789ab", source="a/song.wav", source_sha256="0" * 64,
    track_samples=640, samples=640, sample_offset=0, original_samples=640, original_offset=0,
    frames=10, frames_valid=10,
)  # fmt: skip


@functools.cache
def _latents() -> Latents:
    values = np.random.default_rng(0).standard_normal((8, 10)).astype(np.float32)
    return Latents(_METADATA, values, np.abs(values))


def _latent_files() -> SearchStrategy[Files]:
    plain = damage.safetensors_files([_latents().to_safetensors()])
    sidecar = json.loads(_latents().to_sidecar())
    pair = st.tuples(damage.damaged([_latents().to_npy()]), damage.json_files([sidecar]))
    return st.one_of(
        _one("song.safetensors", plain),
        pair.map(lambda both: {"song.npy": both[0], "song.json": both[1]}),
    )


def _read_latents(path: Path) -> None:
    header = latents_file.inspect(path)
    found = latents_file.read(path)
    _must(found.values.shape == (header.channels, header.frames), "another shape than told")
    _check_latents(found)


def _check_latents(found: Latents) -> None:
    """What is told of the latents is what they hold: lengths are allocated by it."""
    of = found.metadata
    _must(bool(np.isfinite(found.values.astype(np.float32)).all()), "NaN or infinity")
    _must(of.true_frames <= found.values.shape[1], "more frames told than held")
    seconds = of.samples / of.sample_rate, of.original_samples / of.original_rate
    _must(abs(seconds[0] - seconds[1]) < 1 + 1e-3 * seconds[0], f"two lengths: {seconds} s")
    measured = statistics.Statistics.of(found)
    _must(bool(np.isfinite(measured.mean).all()), "a mean that is not finite")


def _bare_files() -> SearchStrategy[Files]:
    """Arrays as other programs save them."""
    values = _latents().values
    pickled = io.BytesIO()
    torch.save({"latents": torch.from_numpy(values)[None]}, pickled)
    return st.one_of(
        _one("z.npy", damage.damaged([_latents().to_npy()])),
        _one("z.pt", damage.damaged([pickled.getvalue()])),
        _one("z.safetensors", damage.safetensors_files([safetensors.torch.save(
            {"samples": torch.from_numpy(values)})])),
    )  # fmt: skip


def _read_bare(path: Path) -> None:
    if not bare.is_bare(path):
        latents_file.read(path)
        return
    shape = bare.shape(path)
    found = bare.read(path, shape[0] - 1)
    _must(found.shape == shape[1:], "another shape than told")
    _must(bool(np.isfinite(found).all()), "NaN or infinity")


def _statistics() -> SearchStrategy[Files]:
    values = json.loads(statistics.Statistics.of(_latents()).to_json())
    return _one(statistics.NAME, damage.json_files([values]))


def _read_statistics(path: Path) -> None:
    found = statistics.read(path)
    values = found.denormalise(found.normalise(np.zeros((len(found.mean), 2), np.float32)))
    _must(values.shape == (len(found.mean), 2), "another number of channels than told")
    _must(isinstance(found.to_json(), str) and len(found.digest) == 12, "no statistics")


# --------------------------------------------------------------------------- shards


def _latent_shards() -> SearchStrategy[Files]:
    sidecar = _latents().to_sidecar()
    members = [
        ("0.safetensors", _latents().to_safetensors()), ("0.json", sidecar),
        ("1.npy", _latents().to_npy()), ("1.json", sidecar),
    ]  # fmt: skip
    return _one("shard-000000.tar", damage.tar_files(members))


def _read_latent_shard(path: Path) -> None:
    for found in latents_file.read_shard(path):
        _check_latents(found)


@functools.cache
def _pack() -> tuple[dict, bytes]:
    """The index and the shard of packed music."""
    from earvae.training.tar_write import Packer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "song.wav").write_bytes(_sounds()["wav"][1])
        usable, _ = sources.inspect([tracks.MusicFile(str(folder / "song.wav"), "song.wav")])
        Packer(usable, folder / "pack", 30.0, 10**9, None, lambda line: None).pack()
        index = json.loads((folder / "pack" / "index.json").read_bytes())
        return index, (folder / "pack" / index["shards"][0]["file"]).read_bytes()


def _packs() -> SearchStrategy[Files]:
    index, shard = _pack()
    name = index["shards"][0]["file"]
    both = st.tuples(damage.json_files([index]), damage.damaged([shard], most=2))
    return both.map(lambda files: {"index.json": files[0], name: files[1]})


def _read_pack(path: Path) -> None:
    _draw_crops(path)


# --------------------------------------------------------------------------- libraries


@functools.cache
def _library_model() -> EarVAE:
    return small_library.small_model()


def _encode(folder: Path) -> Path:
    """Encode ``folder/music`` into the library beside it, which is returned."""
    vae, out = _library_model(), folder / "out"
    encode_library(
        vae,
        Library(tracks.find([folder / "music"]).files, 2),
        out,
        small_library.settings_of(vae),
        small_library.geometry_of(vae),
    )
    return out


@functools.cache
def _library() -> Files:
    """Music and its finished library."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(3):
            path = folder / "music" / f"{number}.wav"
            small_library.write_music(path, 1_000 + 500 * number, number)
            os.utime(path, ns=(WRITTEN, WRITTEN))
        _encode(folder)
        return _bytes_of(folder)


@st.composite
def _libraries(draw: st.DrawFn) -> Files:
    """A library whose records are damaged, or whose outputs are cut off or gone."""
    files = dict(_library())
    names = sorted(name for name in files if name.startswith("out/"))
    for name in draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
        if name.endswith(".json"):
            files[name] = draw(damage.json_files([json.loads(files[name])]))
        elif not draw(st.integers(0, 3)):
            del files[name]
        else:
            files[name] = files[name][: draw(st.integers(0, len(files[name])))]
    return {"out/library.json": b""} | files


def _read_library(path: Path) -> None:
    """A run that goes on, and is told to be done, has whole outputs."""
    out = _encode(path.parents[1])
    for name, content in _library().items():
        if name.endswith(latents_file.SUFFIX):
            made = (path.parents[1] / name).read_bytes()
            _must(made == content, f"{name} is not what it was")
    _must((out / "index.jsonl").read_bytes().count(b"\n") == 3, "an index of other files")


# --------------------------------------------------------------------------- weights


def _bytes_of(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@functools.cache
def _models() -> list[tuple[dict, bytes]]:
    """``config.json`` and ``model.safetensors`` of small models."""
    found = []
    for vae in (compact(), compact(short_length=64)):
        with tempfile.TemporaryDirectory() as name:
            vae.save_pretrained(name)
            files = _bytes_of(Path(name))
            found.append((json.loads(files["config.json"]), files["model.safetensors"]))
    return found


@st.composite
def _weight_files(draw: st.DrawFn) -> Files:
    config, weights = draw(st.sampled_from(_models()))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        name = draw(st.sampled_from(("tiny48k_v2", "tiny_earvae2")))
        published = json.loads((GOLDEN / f"{name}_config.json").read_text())
        return {
            "vae.pt": draw(_pickles(_published(name))),
            "vae.json": draw(damage.json_files([published])),
        }
    if kind == 1:
        return {
            "config.json": draw(damage.json_files([config])),
            "model.safetensors": weights,
        }
    return {
        "config.json": damage.as_json(config),
        "model.safetensors": draw(damage.safetensors_files([weights])),
    }


@functools.cache
def _published(name: str) -> dict:
    """Tensors of a published layout; εar-VAE2's as its training leaves them."""
    from safetensors.torch import load_file

    tensors = load_file(GOLDEN / f"{name}_state_dict.safetensors")
    if name == "tiny48k_v2":
        return tensors
    averaged = {f"ema_model.{key}": tensor for key, tensor in tensors.items()}
    return {"gen_ema": averaged | {"step": torch.tensor(3)}, "step": 3}


@st.composite
def _pickles(draw: st.DrawFn, content: dict) -> bytes:
    """What ``torch.save`` writes of a dictionary of which parts are others; or damaged."""
    for _ in range(draw(st.integers(0, 2))):
        content = draw(_other_parts(content))
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=draw(st.integers(0, 7)) > 0)
    data = file.getvalue()
    return data if draw(st.booleans()) else draw(damage.damaged([data]))


@st.composite
def _other_parts(draw: st.DrawFn, content: dict) -> dict:
    key = draw(st.sampled_from(sorted(content, key=str)))
    value = content[key]
    if isinstance(value, dict) and value and draw(st.booleans()):
        return content | {key: draw(_other_parts(value))}
    action = draw(st.integers(0, 6))
    if action == 0:
        return {k: v for k, v in content.items() if k != key}
    if action == 1:
        return content | {key: _Code()}
    if action == 2 or not isinstance(value, torch.Tensor):
        return content | {key: draw(st.sampled_from(damage.HOSTILE))}
    if action == 3:
        return content | {key: torch.zeros(()).expand(draw(st.sampled_from((1, 10**6, 10**11))))}
    if value.numel() > 10**6:  # such a view, of which a copy would take all memory
        return content | {key: value[:1]}
    if action == 4:
        kinds = (torch.bool, torch.int64, torch.float16, torch.float64, torch.complex64)
        return content | {key: value.to(draw(st.sampled_from(kinds)))}
    if action == 5:
        return content | {
            key: torch.full_like(value, draw(st.sampled_from((torch.nan, torch.inf))))
        }
    return content | {key: value.flatten()[:1]}


class _Code:
    """An object that, unpickled by something that executes, leaves a file."""

    def __reduce__(self):
        return (os.system, ("touch executed",))


def _read_weights(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # where executed code would leave its file
    try:
        vae = EarVAE.from_pretrained(path if path.name == "vae.pt" else path.parent)
    finally:
        os.chdir(before)
    for name, value in vae.state_dict().items():
        _must(bool(value.isfinite().all()), f"{name} is not finite")


# --------------------------------------------------------------------------- configurations


def _configs() -> SearchStrategy[Files]:
    texts = [recipes.path_of(name).read_text("utf-8") for name in ("smoke", "compact", "finetune")]
    values = TrainConfig(stages=[{"name": "a", "steps": 1, "data": {"sources": [{"tracks": "x"}]}}])
    whole = json.loads(values.model_dump_json())
    return st.one_of(
        _one("recipe.yaml", damage.yaml_files(texts)),
        _one("recipe.json", damage.json_files([whole])),
    )


def _read_config(path: Path) -> None:
    config = read(TrainConfig, path)
    again = TrainConfig.model_validate_json(config.model_dump_json())
    _must(again.steps == config.steps, "another configuration when it is written and read")


# --------------------------------------------------------------------------- manifests


def _manifests() -> SearchStrategy[Files]:
    lines = [
        {"file": "a/song.wav", "split": "train", "duration": 1.5, "rate": 44_100, "channels": 2},
        {"file": "b.flac"},
        {"file": "../c.ogg", "title": "x"},
    ]
    return _one("manifest.jsonl", damage.json_lines(lines))


def _read_manifest(path: Path) -> None:
    music = tracks.find([path])
    for file in music.files:
        inside = tracks.inside(file.name)
        _must(".." not in inside.split("/") and not os.path.isabs(inside), f"leads out: {inside}")
        shown = tracks.printable(file.name)
        _must(shown.isprintable(), f"a name with control characters: {shown!r}")
        with contextlib.suppress(OSError):
            os.stat(file.path)
        json.dumps(shown).encode()
    for problem in music.problems + music.left_out_lines():
        _must(path.name in problem, f"a problem that names nothing: {problem!r}")
        _must(problem.isprintable(), f"a problem with control characters: {problem!r}")
    sources.inspect(music.files)


# --------------------------------------------------------------------------- checkpoints

_RECIPE = {
    "model": {
        "architecture": "compact", "latent_channels": 8, "hop_length": 64, "short_length": 32,
        "width": 8, "encoder_blocks": 1, "decoder_blocks": 1,
    },
    "discriminator": {"resolutions": [64], "channels": 2},
    "linear_code_crops": 0,
    "stages": [
        {
            "name": "a", "steps": 2, "adversarial": {},
            "data": {"sources": [{"tracks": "x"}], "crop_samples": 640},
        }
    ],
}  # fmt: skip


@functools.cache
def _fabric():
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


@functools.cache
def _checkpoint() -> dict:
    from earvae.training.set_up import set_up
    from earvae.training.state import CHECKPOINT, save

    config, quiet = TrainConfig(**_RECIPE), io.StringIO()
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.redirect_stderr(quiet),
        contextlib.redirect_stdout(quiet),
    ):
        state = set_up(_fabric(), config, Path(name))
        state.step = 1
        save(_fabric(), config, Path(name), state)
        return torch.load(Path(name) / CHECKPOINT, weights_only=True)


def _checkpoints() -> SearchStrategy[Files]:
    return _one("checkpoint.pt", _pickles(_checkpoint()))


def _read_checkpoint(path: Path) -> None:
    from earvae.training.set_up import set_up

    config = TrainConfig(**_RECIPE)
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        state = set_up(_fabric(), config, path.parent)
    finally:
        os.chdir(before)
    _must(type(state.step) is int and 0 <= state.step <= config.steps, f"step {state.step!r}")
    for network in (state.vae, state.ema, state.discriminator):
        for name, value in network.state_dict().items():
            _must(bool(value.isfinite().all()), f"{name} is not finite")


# --------------------------------------------------------------------------- results


def _results() -> SearchStrategy[Files]:
    metrics: dict = dict.fromkeys(figures.BY_KEY) | {"si_sdr": 10.0}
    loudness: dict = {}
    values = {
        "format": FORMAT,
        "settings": {
            "sample_rate": 44_100, "metric_version": 1, "seconds": 1.0, "start": "middle",
            "loud": False,
        },
        "codecs": [{"name": "mine", "description": "x", "kbps": 96.0}],
        "tracks": [
            {"name": "song.wav", "slug": "song", "start": 0.0, "seconds": 1.0, "loudness": loudness}
        ],
        "results": [{"codec": "mine", "track": "song.wav", "metrics": metrics, "kbps": 96.0}],
        "summary": [
            {
                "codec": "mine", "metric": "si_sdr", "mean": 10.0, "median": 10.0, "low": 9.0,
                "high": 11.0, "count": 1,
            }
        ],
    }  # fmt: skip
    return _one("results.json", damage.json_files([values]))


def _read_results(path: Path) -> None:
    from earvae.evaluation.report import pages

    found = Results.read(path)
    for write in (tables.csv_text, tables.markdown, tables.published_values):
        write(found)
    for codec in found.codecs:
        found.kbps(codec)
    with contextlib.suppress(AudioFileError):  # there is no audio: pages need it last
        pages.build(path.parent)


def _answers() -> Files:
    paths = sorted((GOLDEN.parent / "evaluation/answers").glob("*.json"))
    return _one("answers.json", damage.json_files([json.loads(p.read_text()) for p in paths]))


def _read_answers(path: Path) -> None:
    tests = listeners.read(path)
    found = listeners.opinions(tests)
    listeners.scores(found)
    listeners.csv_text(found, listeners.screened(found)).encode()
    if not all(0 <= row.p <= 1 for row in listeners.guesses(tests)):
        raise Fault("a probability that is none")


READERS = (
    Reader("audio", _audio_files, _read_audio),
    *([Reader("media", _media_files, _read_audio)] if find_spec("av") else []),
    Reader("latents", _latent_files, _read_latents),
    Reader("bare latents", _bare_files, _read_bare),
    Reader("statistics", _statistics, _read_statistics),
    Reader("latent shards", _latent_shards, _read_latent_shard),
    Reader("packs", _packs, _read_pack),
    Reader("libraries", _libraries, _read_library, 25),
    Reader("weights", _weight_files, _read_weights, 15),
    Reader("configurations", _configs, _read_config, 25),
    Reader("manifests", _manifests, _read_manifest),
    Reader("checkpoints", _checkpoints, _read_checkpoint, 8),
    Reader("results", _results, _read_results),
    Reader("answers", _answers, _read_answers),
)
