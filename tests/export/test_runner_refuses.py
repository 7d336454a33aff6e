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
from tests import hostile_audio
from tests.hostile_audio import Hostile
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


@pytest.mark.parametrize("case", hostile_audio.FILES, ids=str)
def test_both_read_all_of_a_file_or_say_why_not(runner, tmp_path, case: Hostile):
    source = tmp_path / case.name
    case.make(source)
    before = found(tmp_path)
    for name, reconstruct in (
        ("runner", lambda target: runner("reconstruct", source, target)),
        ("earvae", lambda target: earvae("reconstruct", source, target)),
    ):
        target = tmp_path / f"{name}.out.wav"
        status, said = reconstruct(target)
        if case.says is None:
            assert (status, soundfile.info(target).frames) == (0, case.samples), (name, said)
            target.unlink()
        else:
            assert status == 1 and said.startswith("error: "), name
            assert said.count("\n") == 1 and case.says in said, (name, said)
        assert found(tmp_path) == before
