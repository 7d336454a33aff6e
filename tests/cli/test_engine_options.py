"""``--engine`` of the verbs that run a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import earvae.engine
from earvae import EarVAE
from earvae.cli import options
from tests.small import GOLDEN, compact

PAPER = GOLDEN / "tiny44k_state_dict.safetensors"


@pytest.fixture
def accelerated(monkeypatch):
    """The engines that ``accelerate`` was asked for."""
    calls = []
    real = earvae.engine.accelerate

    def spy(vae, engine):
        calls.append(engine)
        return real(vae, engine)

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
        "library": ["library", source.parent, "-o", tmp_path / "library"],
        "shards": ["library", source.parent, "-o", tmp_path / "shards", "--shards"],
    }


@pytest.fixture
def one_engine(tmp_path):
    """A folder with a small model of the architecture that has one engine."""
    compact().save_pretrained(tmp_path / "compact")
    return tmp_path / "compact"


VERBS = ("reconstruct", "decode", "encode", "library", "shards")


@pytest.mark.parametrize("verb", VERBS)
def test_the_switch_reaches_the_engine(accelerated, commands, earvae, verb):
    accelerated.clear()
    for given, expected in (([], "auto"), (["--engine", "plain"], "plain")):
        command = [*commands[verb], "--weights", PAPER, *given]
        command += ["--replace"] if verb in ("library", "shards") else []
        result = earvae(*command)
        assert result.exit_code == 0, result.output
        assert accelerated.pop() == expected and not accelerated


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("given, complaint", [
    (["--engine", "quick"], "use one of auto, plain, exact, fast"),
    (["--engine", "fast"], "no bfloat16 arithmetic; use auto"),
    (["--precision", "bf16"], "--engine fast for bfloat16"),
    (["--engine", "plain", "--precision", "fp32"], "any other for float32"),
], ids=str)  # fmt: skip
def test_what_does_not_go_together_is_one_line_and_status_2(
    accelerated, commands, earvae, verb, given, complaint
):
    refused(earvae(*commands[verb], "--weights", PAPER, *given), complaint)


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_an_architecture_with_one_engine_has_no_other(commands, earvae, one_engine, engine):
    command = [*commands["reconstruct"], "--weights", one_engine]
    assert earvae(*command).exit_code == 0
    complaint = f"the architecture '{one_engine.name}' has one engine"
    refused(earvae(*command, "--engine", engine), complaint)


def refused(result, complaint: str) -> None:
    """One line on standard error that says so, and status 2."""
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and line.startswith("error: --") and complaint in line


# ------------------------------------------------------------------------------ libraries


@pytest.fixture
def encode(tmp_path, earvae, music, monkeypatch):
    """Encode two short files as a library: ``encode("--engine", "fast")``."""
    for number in range(2):
        music(tmp_path / "in" / f"{number}.wav", samples=9000 + 1000 * number)
    monkeypatch.setattr(options, "load_model", lambda *_: EarVAE.from_pretrained(PAPER))

    def run(*given, out=tmp_path / "out"):
        return earvae("library", tmp_path / "in", "-o", out, *given)

    return run


def record_of(out: Path) -> dict:
    return json.loads((out / "library.json").read_text())


def test_a_library_records_the_engine_that_was_used_and_refuses_another(tmp_path, encode):
    assert encode().exit_code == 0
    used = record_of(tmp_path / "out")
    assert (used["engine"], used["precision"]) == ("exact", "fp32")
    assert "2 files were done already" in encode("--engine", "exact").stdout  # what auto comes to
    refused = encode("--engine", "plain")
    (line,) = refused.stderr.splitlines()
    assert refused.exit_code == 1 and "(engine exact → plain)" in line and "--replace" in line
    again = encode("--engine", "plain", "--replace")
    assert again.exit_code == 0 and "encoded 2 files" in again.stdout


def test_bfloat16_is_another_setting(tmp_path, encode, monkeypatch):
    monkeypatch.setattr(earvae.engine, "has_bfloat16", lambda device: True)
    assert encode("--engine", "fast").exit_code == 0
    used = record_of(tmp_path / "out")
    assert (used["engine"], used["precision"]) == ("fast", "bf16")
    refused = encode("--engine", "exact")
    assert refused.exit_code == 1 and "(engine fast → exact" in refused.stderr


def test_engines_give_a_library_what_they_give_a_model(tmp_path, encode):
    encode("--engine", "plain", out=tmp_path / "plain")
    encode("--engine", "exact", out=tmp_path / "exact")
    for name in ("0.safetensors", "1.safetensors"):
        plain = load_file(tmp_path / "plain" / name)["latents"]
        exact = load_file(tmp_path / "exact" / name)["latents"]
        torch.testing.assert_close(exact, plain, rtol=0, atol=1e-5 * plain.abs().max().item())


def test_the_digest_of_settings_stays_as_files_have_it():
    from earvae.library.settings import Settings

    before = Settings("packing", 44_100, 1024, 64)
    assert before.digest == "c7c0c34cfd85"
    assert before.digest != Settings("packing", 44_100, 1024, 64, engine="exact").digest


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(2, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_is_the_gpu_that_is_there(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # it is there
    assert options.device_of("auto") == device
