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

from earvae.cli.main import app
from tests import hostile_audio, hostile_latents
from tests.small import GOLDEN, RATE, white

TINY = GOLDEN / "tiny44k_state_dict.safetensors"


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


def earvae(verb: str, source: Path, target: Path) -> tuple[int, str]:
    arguments = [verb, str(source), "-o", str(target), "--weights", str(TINY)]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stderr


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


@pytest.mark.parametrize("program_name", ["runner", "earvae"])
@pytest.mark.parametrize("case", hostile_audio.FILES, ids=str)
def test_sound_is_read_whole_or_refused(
    runner, tmp_path, case: hostile_audio.Hostile, program_name
):
    source, target = tmp_path / case.name, tmp_path / "out.wav"
    case.make(source)
    before = found(tmp_path)
    reconstruct = runner if program_name == "runner" else earvae
    status, said = reconstruct("reconstruct", source, target)
    check(status, said, case.says, target if case.name == "far_too_loud.wav" else source)
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


@pytest.mark.parametrize("program_name", ["runner", "earvae"])
@pytest.mark.parametrize("case", hostile_latents.FILES, ids=str)
def test_latents_are_decoded_or_refused(
    runner, good, tmp_path, case: hostile_latents.Hostile, program_name
):
    source, target = tmp_path / f"{case.name}.safetensors", tmp_path / "out.wav"
    case.make(source, good)
    before = found(tmp_path)
    decode = runner if program_name == "runner" else earvae
    status, said = decode("decode", source, target)
    check(status, said, case.says, source)
    target.unlink(missing_ok=case.says is not None)
    assert found(tmp_path) == before
