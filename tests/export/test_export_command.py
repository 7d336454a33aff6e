"""``earvae export``: what it writes, says and refuses."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from earvae.cli.main import app
from earvae.model.vae import EarVAE
from tests.small import GOLDEN, model, two_snakes

TINY = GOLDEN / "tiny44k_state_dict.safetensors"


def earvae(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_onnx_folder_is_complete(tmp_path):
    pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
    pytest.importorskip("onnxruntime", reason="the runner needs the package onnxruntime")
    result = earvae("--onnx", tmp_path, "--weights", TINY)
    assert result.exit_code == 0
    parts = ["decoder.onnx", "encoder.onnx", "runner.py", "transformer.onnx"]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == parts
    assert EarVAE.from_pretrained(TINY).identity in result.stdout


def test_diffusers_folder_can_be_given_to_weights(tmp_path):
    two_snakes().save_pretrained(tmp_path / "ours")
    result = earvae("--diffusers", tmp_path / "vae", "--weights", tmp_path / "ours")
    assert result.exit_code == 0
    assert "note: odd strides" in result.stdout
    again = CliRunner().invoke(app, ["info", str(tmp_path / "vae"), "--json"])
    assert two_snakes().identity in again.stdout


def test_what_cannot_be_written_is_one_line(tmp_path):
    result = earvae("--diffusers", tmp_path / "vae", "--weights", TINY)
    assert result.exit_code == 1
    assert "transformer" in result.stderr
    assert result.stderr.count("\n") == 1
    (tmp_path / "file").write_text("")
    pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
    assert earvae("--onnx", tmp_path / "file", "--weights", TINY).exit_code == 1


def test_an_architecture_without_that_form_is_one_line_that_says_what_to_do(tmp_path):
    model("compact").save_pretrained(tmp_path / "compact")
    result = earvae("--diffusers", tmp_path / "out", "--weights", tmp_path / "compact")
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "architecture is 'compact'" in line and "wrap it: earvae.adapters.diffusers" in line


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "earvae.export.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = earvae("--onnx", tmp_path, "--weights", TINY)
    assert result.exit_code == 1
    assert "pip install 'earvae[export]'" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--diffusers", "x", "--half"]])
def test_options_that_make_no_sense_are_a_usage_error(arguments):
    assert earvae(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [("onnx", "runner.py"), ("diffusers", "config.json")],
)
def test_only_files_of_an_earlier_export_are_replaced(tmp_path, kind, name):
    if kind == "onnx":
        pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
    two_snakes().save_pretrained(tmp_path / "model")
    out, arguments = (
        tmp_path / "out",
        (f"--{kind}", tmp_path / "out", "--weights", tmp_path / "model"),
    )
    out.mkdir()
    (out / name).write_text("mine")
    refused = earvae(*arguments)
    assert refused.exit_code == 1 and f"{out / name}: is there already" in refused.stderr
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"
    (out / name).unlink()
    assert earvae(*arguments).exit_code == earvae(*arguments).exit_code == 0


def test_an_export_from_before_there_were_lists_is_replaced(tmp_path):
    pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
    assert earvae("--onnx", tmp_path, "--weights", TINY).exit_code == 0
    (tmp_path / ".earvae-export").unlink()
    two_snakes().save_pretrained(tmp_path / "model")
    assert earvae("--onnx", tmp_path, "--weights", tmp_path / "model").exit_code == 0
    assert not (tmp_path / "transformer.onnx").exists()
