"""Hostile input: the exported runner answers as `earvae` does, in one line, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earvae.cli import options
from earvae.cli.main import app
from tests import hostile_audio, hostile_latents
from tests.small import RATE, white


@pytest.fixture(scope="module")
def program(exported):
    """The exported file as a module of its own, beside its graphs."""
    spec = spec_from_file_location("exported_runner", exported("tiny44k")[2] / "runner.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def runner(program, capsys):
    """Call it: its status, and what it printed to standard error."""

    def run(*arguments) -> tuple[int, str]:
        capsys.readouterr()
        try:
            status = program.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = leaving.code
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def earvae(exported, monkeypatch):
    """Call that: its status, and what it printed to standard error."""
    monkeypatch.setattr(options, "inference_model", lambda *_: exported("tiny44k")[0])

    def run(verb: str, source: Path, target: Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, [verb, str(source), "-o", str(target)])
        return result.exit_code, result.stderr

    return run


@pytest.fixture(params=["runner", "earvae"])
def either(request):
    """The runner and the package's command, one after the other."""
    return request.getfixturevalue(request.param)


def found(folder: Path) -> dict[str, int]:
    """Names and sizes of all that lies in a folder."""
    return {path.name: path.lstat().st_size for path in folder.iterdir()}


def check(status: int, said: str, says: str | None, path: Path) -> None:
    """One line that names the file, or status 0."""
    if says is None:
        assert status == 0, said
    else:
        assert status == 1 and said.startswith("error: ") and said.count("\n") == 1, said
        assert str(path) in said and says in said and "a fault in" not in said, said
        assert "\x1b" not in said


@pytest.mark.parametrize("case", hostile_audio.FILES, ids=str)
def test_sound_is_read_whole_or_refused(either, tmp_path, case: hostile_audio.Hostile):
    source, target = tmp_path / case.name, tmp_path / "out.wav"
    case.make(source)
    before = found(tmp_path)
    status, said = either("reconstruct", source, target)
    check(status, said, case.says, source)
    if case.says is None:
        assert soundfile.info(target).frames == case.samples
        target.unlink()
    assert found(tmp_path) == before


@pytest.fixture(scope="module")
def good(program, exported, tmp_path_factory):
    """A good file of latents."""
    folder = tmp_path_factory.mktemp("latents")
    soundfile.write(folder / "in.wav", white(0.6), RATE)
    path = folder / "good.safetensors"
    assert program.main(["encode", str(folder / "in.wav"), str(path)]) == 0
    return path


@pytest.mark.parametrize("case", hostile_latents.FILES, ids=str)
def test_latents_are_decoded_or_refused(either, good, tmp_path, case: hostile_latents.Hostile):
    source, target = tmp_path / f"{case.name}.safetensors", tmp_path / "out.wav"
    case.make(source, good)
    before = found(tmp_path)
    status, said = either("decode", source, target)
    check(status, said, case.says, source)
    target.unlink(missing_ok=case.says is not None)
    assert found(tmp_path) == before


# --------------------------------------------------------------------------- the runner's own


@pytest.fixture
def music(tmp_path):
    """A good sound file."""
    soundfile.write(tmp_path / "music.wav", white(0.6), RATE)
    return tmp_path / "music.wav"


@pytest.mark.parametrize("name", ["music.wav", "link.wav", "hard.wav", "./music.wav"])
@pytest.mark.parametrize("verb", ["reconstruct", "decode"])
def test_the_input_is_never_the_output(runner, music, tmp_path, name, verb):
    (tmp_path / "link.wav").symlink_to(music)
    (tmp_path / "hard.wav").hardlink_to(music)
    before = music.read_bytes()
    status, said = runner(verb, music, f"{tmp_path}/{name}")
    check(status, said, "is the input", tmp_path / name)
    assert music.read_bytes() == before


def test_names_that_are_not_text_are_written_and_shown_as_escapes(runner, music, tmp_path):
    source = tmp_path / os.fsdecode(b"m\xff\x1b.wav")
    music.rename(source)
    assert runner("reconstruct", source, tmp_path / os.fsdecode(b"o\xff.wav"))[0] == 0
    status, said = runner("decode", source, tmp_path / "o.wav")
    assert status == 1 and "m\\xff\\x1b.wav" in said


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"mean": [1e999]}', "[" * 99_999])
def test_statistics_that_are_none_are_one_line(runner, good, tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    before = found(tmp_path)
    given = ("decode", good, tmp_path / "o.wav", "--denormalise", tmp_path / "s.json")
    check(*runner(*given), "", tmp_path / "s.json")
    (tmp_path / "s.json").unlink()
    os.mkfifo(tmp_path / "s.json")
    check(*runner(*given), "pipe", tmp_path / "s.json")
    assert set(found(tmp_path)) == set(before)


def test_an_output_that_is_a_folder_is_refused(runner, music, tmp_path):
    (tmp_path / "out.wav").mkdir()
    before = found(tmp_path)
    check(
        *runner("reconstruct", music, tmp_path / "out.wav"), "no file can take its place", tmp_path
    )
    assert found(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [["--chunk-seconds", "nan"], ["--chunk-seconds", "0"], ["--chunk-seconds", "inf"],
     ["--chunk-seconds", "-1"], ["--threads", "-5"], ["--threads", "0"], ["--threads", "1e3"],
     ["--subtype", "mp3"]],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_usage_errors(runner, music, tmp_path, arguments):
    status, said = runner("reconstruct", music, tmp_path / "out.wav", *arguments)
    assert status == 2 and f"argument {arguments[0]}" in said


def test_a_provider_that_is_not_there_is_refused(runner):
    status, said = runner("info", "--provider", "Nope")
    assert status == 1 and said.startswith("error: Nope: ") and said.count("\n") == 1


def of_another_model(folder: Path, graph) -> None:
    graph.metadata_props[[p.key for p in graph.metadata_props].index("model")].value = "0" * 12


def without_metadata(folder: Path, graph) -> None:
    del graph.metadata_props[:]


def says(name: str, value: str):
    def change(folder: Path, graph) -> None:
        graph.metadata_props[[p.key for p in graph.metadata_props].index(name)].value = value

    return change


def full_of_nan(folder: Path, graph) -> None:
    tensor = next(each for each in graph.graph.initializer if "bias" in each.name)
    tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, "<f4").tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_another_model, "export both again"),
        (without_metadata, "not a graph of"),
        (says("format_version", "9"), "format version 9"),
        (says("context_frames", "many"), "its metadata make no sense (context_frames: many)"),
        (says("context_frames", "9" * 5000), "its metadata make no sense (context_frames: 999"),
        (says("part", "encoder"), "not a graph of"),
        (full_of_nan, "NaN or infinity"),
        (lambda folder, graph: (folder / "decoder.onnx").write_bytes(b"x" * 99), "cannot load it"),
        (lambda folder, graph: (folder / "decoder.onnx").touch(), "cannot load it"),
        (lambda folder, graph: os.mkfifo(folder / "decoder.onnx"), "pipe"),
        (lambda folder, graph: (folder / "decoder.onnx").symlink_to("/dev/zero"), "device"),
        (lambda folder, graph: (folder / "decoder.onnx").mkdir(), "folder"),
        (lambda folder, graph: os.link(folder / "encoder.onnx", folder / "decoder.onnx"),
         "not a graph of"),
        (lambda folder, graph: (folder / "transformer.onnx").unlink(), "transformer.onnx is"),
        (lambda folder, graph: (folder / "decoder.onnx").symlink_to("nowhere"), "no such file"),
    ],
)  # fmt: skip
def test_damaged_graphs_are_one_line(runner, exported, music, tmp_path, change, words):
    onnx = pytest.importorskip("onnx")
    source, folder = exported("tiny44k")[2], tmp_path / "model"
    folder.mkdir()
    for name in ("encoder.onnx", "transformer.onnx"):
        (folder / name).symlink_to(source / name)
    graph = onnx.load(source / "decoder.onnx")
    change(folder, graph)
    if not os.path.lexists(folder / "decoder.onnx"):
        onnx.save(graph, folder / "decoder.onnx")
    before = found(tmp_path)
    status, said = runner("reconstruct", music, tmp_path / "out.wav", "--model", folder)
    check(status, said, words, tmp_path)
    assert found(tmp_path) == before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_and_leaves_nothing(exported, tmp_path, name):
    soundfile.write(tmp_path / "long.wav", np.zeros((9 * RATE, 2)), RATE)
    before = found(tmp_path)
    program = exported("tiny44k")[2] / "runner.py"
    command = [sys.executable, program, "reconstruct", "long.wav", "out.wav"]
    options = ["--chunk-seconds", "0.5", "--threads", "1"]
    process = subprocess.Popen(
        [*command, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while len(found(tmp_path)) == 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)  # until something is written
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert b"Traceback" not in said
    assert found(tmp_path) == before
