"""`-`: standard input and standard output; and progress where there is no terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earvae.cli.main import app
from earvae.cli.progress import Lines
from tests.small import load


@pytest.fixture(autouse=True)
def _model(use_model):
    use_model()


def piped(data: bytes, *arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=data)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sound_in_and_out(tmp_path, music, suffix):
    source = music(tmp_path / "a.ogg", 48_000)
    result = piped(source.read_bytes(), "reconstruct", "-", "-o", "-", "--format", suffix)
    assert result.exit_code == 0, result.stderr
    found, rate = soundfile.read(io.BytesIO(result.stdout_bytes), dtype="float32")
    assert rate == 48_000 and len(found) == len(load(source)[0].T)
    inner = slice(500, -500)  # resampling rings at the ends
    np.testing.assert_allclose(found[inner], load(source)[0].T[inner], atol=2e-3)
    assert "SI-SDR" in result.stderr and "samples" in result.stderr


def test_latents_in_and_out(tmp_path, music):
    source = music(tmp_path / "a.wav")
    latents = piped(source.read_bytes(), "encode", "-", "-o", "-")
    assert latents.exit_code == 0 and "frames" in latents.stderr
    piped(b"", "encode", source, "-o", tmp_path / "a.safetensors")
    assert latents.stdout_bytes == (tmp_path / "a.safetensors").read_bytes()
    decoded = piped(latents.stdout_bytes, "decode", "-", "-o", tmp_path / "d.wav")
    assert decoded.exit_code == 0, decoded.stderr
    np.testing.assert_allclose(load(tmp_path / "d.wav")[0], load(source)[0], atol=1e-3)


def test_what_is_no_sound_is_one_line_and_nothing_comes_out():
    result = piped(b"text", "reconstruct", "-", "-o", "-", "--json")
    assert result.exit_code == 1 and result.stdout_bytes == b""
    assert "error: standard input: not an audio file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-", "a.wav", "-o", "out/"], "name nothing else"),
        (["-", "-o", "out/"], "has no name"),
        (["a.wav", "a.wav", "-o", "-"], "takes one file"),
        (["-", "-o", "out"], "has no suffix"),
    ],
)
def test_what_cannot_be_piped(tmp_path, monkeypatch, music, arguments, line):
    monkeypatch.chdir(tmp_path)
    music(tmp_path / "a.wav")
    result = piped(b"", "reconstruct", *arguments)
    assert result.exit_code == 2 and line in result.stderr, result.stderr


def test_a_line_a_minute(capsys):
    clock = [0.0]
    lines = Lines(100, "encoding", lambda: clock[0])
    for second in range(1, 150):
        clock[0] = second
        lines.update(advance=0.5)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "30 of 100 (30%), about 2 min left: encoding",
        "60 of 100 (60%), about 80 s left: encoding",
    ]
