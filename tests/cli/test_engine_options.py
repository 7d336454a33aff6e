"""``--engine`` and ``--precision`` of the verbs that run a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import earvae.engine
from earvae import EarVAE
from earvae.cli import options
from tests.small import GOLDEN, build, compact_config, spectral_config

PAPER = GOLDEN / "tiny44k_state_dict.safetensors"


@pytest.fixture
def accelerated(monkeypatch):
    """The arguments that ``accelerate`` got, behind the model."""
    calls = []
    real = earvae.engine.accelerate

    def spy(vae, *how):
        calls.append(how)
        return real(vae, *how)

    monkeypatch.setattr(earvae.engine, "accelerate", spy)
    monkeypatch.setattr(earvae.engine, "has_bfloat16", lambda device: False)
    return calls


@pytest.fixture
def commands(tmp_path, earvae, music):
    """Every verb with the switches, and what it reads and writes; paper's architecture, tiny."""
    source = music(tmp_path / "in" / "a.wav", samples=9000)
    latents = tmp_path / "a.safetensors"
    done = earvae("encode", source, "-o", latents, "--weights", PAPER, "--engine", "plain")
    assert done.exit_code == 0, done.output
    return {
        "reconstruct": ["reconstruct", source, "-o", tmp_path / "r.wav"],
        "decode": ["decode", latents, "-o", tmp_path / "d.wav", "--force"],
        "encode": ["encode", source, "-o", tmp_path / "e.safetensors"],
        "library": ["encode", source.parent, "-o", tmp_path / "library", "--library"],
        "shards": ["encode", source.parent, "-o", tmp_path / "shards", "--shards"],
    }


@pytest.fixture(params=[compact_config(), spectral_config()], ids=lambda made: made.architecture)
def one_engine(request, tmp_path):
    """A folder with a small model of an architecture that has one engine."""
    build(request.param).save_pretrained(tmp_path / request.param.architecture)
    return tmp_path / request.param.architecture


VERBS = ("reconstruct", "decode", "encode", "library", "shards")


@pytest.mark.parametrize("verb", VERBS)
def test_the_switches_reach_the_engine(accelerated, commands, earvae, verb):
    accelerated.clear()
    for given, expected in (
        ([], ("auto", None)),
        (["--engine", "plain", "--precision", "fp32"], ("plain", "fp32")),
    ):
        command = [*commands[verb], "--weights", PAPER, *given]
        command += ["--replace"] if verb in ("library", "shards") else []
        result = earvae(*command)
        assert result.exit_code == 0, result.output
        assert accelerated.pop() == expected and not accelerated


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("given, complaint", [
    (["--engine", "quick"], "use one of auto, plain, exact, fast"),
    (["--precision", "fp16"], "use one of fp32, bf16"),
    (["--precision", "bf16"], "engine auto promises float32"),
    (["--engine", "exact", "--precision", "bf16"], "engine exact promises float32"),
    (["--engine", "fast", "--precision", "bf16"], "no bfloat16 arithmetic here"),
], ids=str)  # fmt: skip
def test_what_does_not_go_together_is_one_line_and_status_2(
    accelerated, commands, earvae, verb, given, complaint
):
    refused(earvae(*commands[verb], "--weights", PAPER, *given), complaint)


@pytest.mark.parametrize("verb", VERBS)
def test_an_architecture_with_one_engine_has_no_bfloat16(commands, earvae, one_engine, verb):
    command = [*commands[verb], "--weights", one_engine, "--engine", "fast"]
    complaint = f"not for the architecture '{one_engine.name}'"
    refused(earvae(*command, "--precision", "bf16"), complaint)


@pytest.mark.parametrize("engine", ["auto", "exact", "fast"])
def test_any_engine_of_an_architecture_with_one_is_plain(commands, earvae, one_engine, engine):
    _, source, _, other = commands["reconstruct"]
    plain = other.with_name("plain.wav")
    for path, name in ((plain, "plain"), (other, engine)):
        done = earvae("reconstruct", source, "-o", path, "--weights", one_engine, "--engine", name)
        assert done.exit_code == 0, done.output
    assert np.array_equal(soundfile.read(plain)[0], soundfile.read(other)[0])


def refused(result, complaint: str) -> None:
    """One line on standard error that says so, and status 2."""
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and line.startswith("error: --engine") and complaint in line


# ------------------------------------------------------------------------------ libraries


@pytest.fixture
def encode(tmp_path, earvae, music, monkeypatch):
    """Encode two short files as a library: ``encode("--engine", "fast")``."""
    for number in range(2):
        music(tmp_path / "in" / f"{number}.wav", samples=9000 + 1000 * number)
    monkeypatch.setattr(options, "load_model", lambda *_: EarVAE.from_pretrained(PAPER))

    def run(*given, out=tmp_path / "out"):
        return earvae("encode", tmp_path / "in", "-o", out, "--library", *given)

    return run


def record_of(out: Path) -> dict:
    return json.loads((out / "library.json").read_text())


def test_a_library_records_the_engine_that_was_used_and_refuses_another(tmp_path, encode):
    assert encode().exit_code == 0
    used = record_of(tmp_path / "out")
    assert (used["engine"], used["precision"]) == ("exact", "fp32")
    assert "2 files were done already" in encode("--engine", "exact").stdout  # what auto comes to
    refused = encode("--engine", "fast", "--precision", "fp32")
    (line,) = refused.stderr.splitlines()
    assert refused.exit_code == 1 and "(engine exact → fast)" in line and "--replace" in line
    again = encode("--engine", "fast", "--precision", "fp32", "--replace")
    assert again.exit_code == 0 and "encoded 2 files" in again.stdout


def test_two_precisions_of_one_engine_are_different_settings(tmp_path, encode, monkeypatch):
    monkeypatch.setattr(earvae.engine, "has_bfloat16", lambda device: True)
    assert encode("--engine", "plain", "--precision", "bf16").exit_code == 0
    refused = encode("--engine", "plain")
    assert refused.exit_code == 1 and "(precision bf16 → fp32)" in refused.stderr


def test_engines_give_a_library_what_they_give_a_model(tmp_path, encode):
    encode("--engine", "plain", out=tmp_path / "plain")
    encode("--engine", "exact", out=tmp_path / "exact")
    for name in ("0.safetensors", "1.safetensors"):
        plain = load_file(tmp_path / "plain" / name)["latents"]
        exact = load_file(tmp_path / "exact" / name)["latents"]
        torch.testing.assert_close(exact, plain, rtol=0, atol=1e-5 * plain.abs().max().item())


def test_a_library_from_before_there_were_engines_goes_on_as_plain(tmp_path, encode):
    """Its record names no engine. The digests in its files stay valid: none is encoded again."""
    assert encode("--engine", "plain").exit_code == 0
    path = tmp_path / "out" / "library.json"
    record = record_of(tmp_path / "out")
    del record["engine"], record["precision"]
    path.write_text(json.dumps(record))
    refused = encode()
    assert refused.exit_code == 1 and "(engine plain → exact)" in refused.stderr
    assert "2 files were done already" in encode("--engine", "plain").stdout


def test_digests_from_before_there_were_engines_are_those_of_plain_float32():
    from earvae.library.settings import Settings

    before = Settings("packing", 44_100, 1024, 64)
    assert before.digest == "c7c0c34cfd85"
    assert before.digest != Settings("packing", 44_100, 1024, 64, engine="exact").digest
