"""The runner alone: one file, no torch, the same files in and out as the package's verbs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.small import noise

pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
pytest.importorskip("onnxruntime", reason="the runner needs the package onnxruntime")

from earvae import codec, files  # noqa: E402
from earvae.audio import output_format  # noqa: E402
from earvae.export import runner as runner_module  # noqa: E402
from earvae.latents import file as latent_file  # noqa: E402
from earvae.latents import statistics as latent_statistics  # noqa: E402

WITHOUT_TORCH = """
import runpy, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "earvae", "safetensors", "soxr", "onnx"):
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)

sys.meta_path.insert(0, NoTorch())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write(path: Path, samples: int, rate: int = 44_100, channels: int = 2) -> np.ndarray:
    audio = noise(samples)[0, :channels].numpy()
    soundfile.write(path, audio.T, rate, subtype="FLOAT")
    return audio


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def run(*arguments) -> int:
    return runner_module.main([str(argument) for argument in arguments])


@pytest.fixture
def tiny(exported):
    """Model, runner and folder of a small model that decodes with a transformer."""
    return exported("tiny44k")


def test_one_copied_file_runs_where_torch_cannot_be_imported(tiny, tmp_path):
    vae, _, folder = tiny
    audio = write(tmp_path / "in.wav", 30_001)
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_TORCH, folder / "runner.py", "reconstruct",
         "in.wav", "out.wav", "--threads", "1", "--chunk-seconds", "0.3"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out.wav: 30001 samples, 0.68 s, peak ")
    expected = codec.reconstruct(vae, noise(30_001)).numpy()[0]
    assert audio.shape == expected.shape
    assert np.abs(read(tmp_path / "out.wav") - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_module_imports_without_torch():
    code = "import sys, earvae.export.runner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_latents_of_the_runner_are_those_of_earvae_encode(tiny, tmp_path):
    vae, _, folder = tiny
    write(tmp_path / "in.wav", 30_001)
    assert run("encode", tmp_path / "in.wav", tmp_path / "a.safetensors", "--model", folder) == 0
    files.encode_file(vae, tmp_path / "in.wav", tmp_path / "b.safetensors")
    ours, theirs = (latent_file.inspect(tmp_path / f"{x}.safetensors") for x in "ab")
    assert ours == theirs
    a, b = (latent_file.read(tmp_path / f"{x}.safetensors").values for x in "ab")
    assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_each_decodes_what_the_other_encoded(tiny, tmp_path, channels, half):
    vae, _, folder = tiny
    source, latents = tmp_path / "in.wav", tmp_path / "l.safetensors"
    write(source, 12_345, channels=channels)
    if half:
        files.encode_file(vae, source, latents, half=True)
    else:
        run("encode", source, latents, "--model", folder)
    assert run("decode", latents, tmp_path / "a.wav", "--model", folder) == 0
    form = output_format(".wav", None, None)
    files.decode_file(vae, latents, tmp_path / "b.wav", form)
    a, b = read(tmp_path / "a.wav"), read(tmp_path / "b.wav")
    assert a.shape == b.shape == (channels, 12_345)
    assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()


@pytest.mark.parametrize("name", ["tiny44k", "tiny_earvae2"])
def test_chunks_are_those_of_the_package(exported, name):
    vae, runner, _ = exported(name)
    assert runner._chunk(None) == codec.chunk_of(vae)  # which it cannot ask: torch


def test_mono_stays_mono_unless_asked(tiny, tmp_path):
    vae, _, folder = tiny
    mono = write(tmp_path / "in.wav", 5000, channels=1)
    for out, options in (("mono.wav", []), ("stereo.wav", ["--stereo"])):
        run("reconstruct", tmp_path / "in.wav", tmp_path / out, "--model", folder, *options)
    stereo = read(tmp_path / "stereo.wav")
    assert stereo.shape == (2, 5000)
    assert np.allclose(read(tmp_path / "mono.wav")[0], stereo.mean(axis=0), atol=1e-6)
    expected = codec.reconstruct(vae, noise(5000)[:, :1].repeat(1, 2, 1)).numpy()[0]
    assert mono.shape == (1, 5000)
    assert np.abs(stereo - expected).max() < 1e-4 * np.abs(expected).max()


def test_other_rates_come_back_as_the_package_brings_them(tiny, tmp_path):
    vae, _, folder = tiny
    source = tmp_path / "in.wav"
    write(source, 12_345, rate=48_000)
    assert run("reconstruct", source, tmp_path / "a.wav", "--model", folder) == 0
    files.reconstruct_file(vae, source, tmp_path / "b.wav", output_format(".wav", None, None))
    a, b = read(tmp_path / "a.wav"), read(tmp_path / "b.wav")
    assert a.shape == b.shape == (2, 12_345)
    assert soundfile.info(tmp_path / "a.wav").samplerate == 48_000
    assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()
    latents = tmp_path / "l.safetensors"
    assert run("encode", source, latents, "--model", folder) == 0
    files.encode_file(vae, source, tmp_path / "m.safetensors")
    assert latent_file.inspect(latents) == latent_file.inspect(tmp_path / "m.safetensors")
    assert run("decode", latents, tmp_path / "c.wav", "--model", folder) == 0
    assert np.array_equal(read(tmp_path / "c.wav"), a)


def test_without_soxr_a_line_says_so(tiny, tmp_path, capsys, monkeypatch):
    folder, source, latents = tiny[2], tmp_path / "in.wav", tmp_path / "l.safetensors"
    write(source, 4800, rate=48_000)
    assert run("encode", source, latents, "--model", folder) == 0
    monkeypatch.setitem(sys.modules, "soxr", None)
    capsys.readouterr()
    assert run("reconstruct", source, tmp_path / "a.wav", "--model", folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is at 48000 Hz, the model at 44100; `pip install soxr`" in line
    assert run("decode", latents, tmp_path / "a.wav", "--model", folder) == 0
    assert "(at the model's 44100 Hz, not 48000" in capsys.readouterr().out
    assert soundfile.info(tmp_path / "a.wav").frames == 4410


def test_folders_keep_their_tree_and_go_on_past_bad_files(tiny, tmp_path, capsys):
    folder, music = tiny[2], tmp_path / "music"
    (music / "album").mkdir(parents=True)
    write(music / "song.wav", 3000)
    write(music / "album" / "song.wav", 2000)
    (music / "album" / "bad.wav").write_bytes(b"not sound")
    soundfile.write(music / "song.flac", np.zeros((1000, 2)), 44_100)
    assert run("reconstruct", music, tmp_path / "out", "--model", folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "bad.wav" in line
    names = {"song.wav.wav": 3000, "song.flac.wav": 1000, "album/song.wav": 2000}
    made = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*.*")}
    assert {name: soundfile.info(path).frames for name, path in made.items()} == names
    assert run("encode", music / "album", tmp_path / "latents", "--model", folder) == 1
    assert run("decode", tmp_path / "latents", tmp_path / "back", "--model", folder) == 0
    assert soundfile.info(tmp_path / "back" / "song.wav").frames == 2000


def test_info_prints_the_metadata(tiny, capsys):
    vae, _, folder = tiny
    assert run("info", "--model", folder) == 0
    assert f"model: {vae.identity}" in capsys.readouterr().out


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (lambda p: write(p, 0), "out.wav", "no audio samples"),
        (lambda p: p.write_bytes(b"not sound"), "out.wav", "not an audio file"),
        (lambda p: None, "out.wav", "no such file"),
        (lambda p: write(p, 100), "out.mp3", "use one of .wav"),
        (lambda p: write(p, 100), "in.wav/out.wav", "cannot be written"),
        (
            lambda p: soundfile.write(p, np.zeros((9, 3)), 44_100),
            "out.wav",
            "has 3 channels",
        ),
        (
            lambda p: soundfile.write(p, np.full((9, 2), np.nan), 44_100, subtype="FLOAT"),
            "out.wav",
            "NaN",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    tiny, tmp_path, capsys, make, target, message
):
    source = tmp_path / "in.wav"
    make(source)
    before = sorted(tmp_path.iterdir())
    assert run("reconstruct", source, tmp_path / target, "--model", tiny[2]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_latents_of_another_model_need_force(tiny, exported, tmp_path, capsys):
    _, _, other = exported("tiny44k_no_transformer")
    write(tmp_path / "in.wav", 3000)
    latents, out = tmp_path / "l.safetensors", tmp_path / "out.wav"
    run("encode", tmp_path / "in.wav", latents, "--model", other)
    assert run("decode", latents, out, "--model", tiny[2]) == 1
    assert "was encoded by model" in capsys.readouterr().err
    assert run("decode", latents, out, "--model", tiny[2], "--force") == 0
    assert read(out).shape == (2, 3000)


@pytest.mark.parametrize("cut", [0, 5, 40, 2000])
def test_damaged_latents_are_refused(tiny, tmp_path, capsys, cut):
    write(tmp_path / "in.wav", 30_000)
    latents = tmp_path / "l.safetensors"
    run("encode", tmp_path / "in.wav", latents, "--model", tiny[2])
    latents.write_bytes(latents.read_bytes()[:cut])
    assert run("decode", latents, tmp_path / "out.wav", "--model", tiny[2]) == 1
    assert "l.safetensors: damaged" in capsys.readouterr().err


# --------------------------------------------------------------------------- normalised latents


@pytest.fixture
def normalised(tiny, tmp_path):
    """A latent file of mean 0 and deviation 1, its statistics, and the latents as they were."""
    vae, _, folder = tiny
    write(tmp_path / "in.wav", 30_000)
    latents = tmp_path / "l.safetensors"
    run("encode", tmp_path / "in.wav", latents, "--model", folder)
    stored = latent_file.read(latents)
    values, metadata = stored.values, stored.metadata
    moments = latent_statistics.Moments.of(values)
    statistics = latent_statistics.Statistics(vae.identity, "mean", 1, moments)
    metadata = replace(metadata, normalised=statistics.digest)
    latent_file.write(latents, latent_file.Latents(metadata, statistics.normalise(values)))
    return latents, statistics, values


def test_normalised_latents_are_put_back_by_the_statistics_beside_them(
    tiny, tmp_path, normalised, capsys
):
    vae, runner, folder = tiny
    latents, statistics, values = normalised
    assert run("decode", latents, tmp_path / "out.wav", "--model", folder) == 1
    assert "is normalised, and there is no latent_stats.json beside it" in capsys.readouterr().err
    (tmp_path / "latent_stats.json").write_text(statistics.to_json())
    assert run("decode", latents, tmp_path / "out.wav", "--model", folder) == 0
    expected = runner.decode(values[None], 30_000)[0]
    assert np.abs(read(tmp_path / "out.wav") - expected).max() < 1e-4 * np.abs(expected).max()


def test_other_statistics_are_refused(tiny, tmp_path, normalised, capsys):
    latents, statistics, values = normalised
    other = tmp_path / "other.json"
    moments = latent_statistics.Moments.of(2 * values)
    other.write_text(replace(statistics, moments=moments).to_json())
    arguments = ("decode", latents, tmp_path / "o.wav", "--model", tiny[2], "--denormalise", other)
    assert run(*arguments) == 1
    assert "was normalised by statistics" in capsys.readouterr().err
    for text in ("{}", "[" * 9999, statistics.to_json().replace('"count": 30', '"count": 31')):
        other.write_text(text)
        assert run(*arguments) == 1
        assert "other.json: " in capsys.readouterr().err
    other.write_text(statistics.to_json())
    assert run(*arguments) == 0
