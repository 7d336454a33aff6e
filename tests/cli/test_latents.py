"""``earvae encode``, ``decode`` and ``info``: latents as files."""

from __future__ import annotations

import io
import json
import os
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sound_files import load

from earvae.cli.main import main


@pytest.fixture(autouse=True)
def _packing(use_model):
    """A codec that changes nothing, unless a test says otherwise."""


@pytest.mark.parametrize("rate,channels", [(44_100, 2), (48_000, 2), (22_050, 1)])
def test_encode_then_decode_is_reconstruct(tmp_path, earvae, music, rate, channels):
    source = music(tmp_path / "a.flac", rate, channels)
    assert earvae("encode", source, "-o", tmp_path / "a.safetensors").exit_code == 0
    assert earvae("decode", tmp_path / "a.safetensors", "-o", tmp_path / "d.wav").exit_code == 0
    assert earvae("reconstruct", source, "-o", tmp_path / "r.wav").exit_code == 0
    (decoded, found_rate), (reconstructed, _) = load(tmp_path / "d.wav"), load(tmp_path / "r.wav")
    assert found_rate == rate and decoded.shape == (channels, 30_001)
    assert np.array_equal(decoded, reconstructed)


def test_an_encoded_file_says_everything_that_decoding_needs(tmp_path, earvae, music):
    source = music(tmp_path / "a.flac", 48_000, 1, 48_001)
    target = tmp_path / "new" / "a.safetensors"
    assert earvae("encode", source, "-o", target, "--sample", "--seed", 5).exit_code == 0
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
        latents = file.get_tensor("latents")
    samples = -(-48_001 * 44_100 // 48_000)
    assert metadata == {
        "format": "earvae-latents",
        "format_version": "1",
        "sample_rate": "44100",
        "samples": str(samples),
        "original_rate": "48000",
        "original_samples": "48001",
        "channels": "1",
        "hop_length": "16",
        "model": "packing",
        "latents": "sample",
        "seed": "5",
    }
    assert latents.shape == (32, -(-samples // 16)) and latents.dtype == torch.float32


def test_the_mean_is_the_default_and_half_precision_an_option(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav", samples=100)
    earvae("encode", source, "-o", tmp_path / "f.safetensors")
    earvae("encode", source, "-o", tmp_path / "h.safetensors", "--half")
    full = load_file(tmp_path / "f.safetensors")["latents"]
    half = load_file(tmp_path / "h.safetensors")["latents"]
    audio = torch.from_numpy(load(source)[0])
    assert torch.equal(full[0], audio[0, ::16])  # the packing model's latents are the samples
    assert half.dtype == torch.float16 and torch.equal(half, full.half())


def test_latents_of_another_model_need_force(tmp_path, earvae, music, use_model):
    latents = tmp_path / "a.safetensors"
    earvae("encode", music(tmp_path / "a.wav"), "-o", latents)
    use_model(identity="another")
    refused = earvae("decode", latents, "-o", tmp_path / "o.wav")
    assert refused.exit_code == 1 and not (tmp_path / "o.wav").exists()
    assert all(word in refused.stderr for word in ("packing", "another", "--force", "--weights"))
    assert earvae("decode", latents, "-o", tmp_path / "o.wav", "--force").exit_code == 0


def test_latents_of_another_shape_are_refused_even_with_force(tmp_path, earvae, music, use_model):
    latents = tmp_path / "a.safetensors"
    earvae("encode", music(tmp_path / "a.wav"), "-o", latents)
    use_model(hop=32)
    result = earvae("decode", latents, "-o", tmp_path / "o.wav", "--force")
    assert result.exit_code == 1 and "32 latents per 16 samples" in result.stderr


@pytest.mark.parametrize(
    "kind", ["missing", "text", "other tensors", "cut", "short", "newer", "no rate", "nan"]
)
def test_a_bad_latent_file_is_one_line_and_the_others_are_done(tmp_path, earvae, music, kind):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    earvae("encode", music(tmp_path / "a.wav"), "-o", good)
    latents = load_file(good)["latents"]
    with safe_open(good, "pt") as file:
        metadata = file.metadata()
    if kind == "text":
        bad.write_text("not latents")
    elif kind == "other tensors":
        save_file({"weight": latents}, bad)
    elif kind == "cut":
        bad.write_bytes(good.read_bytes()[:-100])
    elif kind == "short":
        save_file({"latents": latents[:, :-1].contiguous()}, bad, metadata)
    elif kind == "newer":
        save_file({"latents": latents}, bad, metadata | {"format_version": "2"})
    elif kind == "no rate":
        save_file({"latents": latents}, bad, {k: v for k, v in metadata.items() if "rate" not in k})
    elif kind == "nan":
        save_file({"latents": latents * torch.nan}, bad, metadata)
    result = earvae("decode", bad, good, "-o", tmp_path / "out")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 1 and len(errors) == 1 and str(bad) in errors[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.wav"]


def test_folders_of_latents_keep_their_subfolders(tmp_path, earvae, music):
    music(tmp_path / "in" / "a.wav"), music(tmp_path / "in" / "b" / "c.mp3")
    assert earvae("encode", tmp_path / "in", "-o", tmp_path / "latents").exit_code == 0
    assert earvae("decode", tmp_path / "latents", "-o", tmp_path / "out").exit_code == 0
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.wav"))
    assert found == ["a.wav", "b/c.wav"]


def test_encode_goes_on_past_a_bad_file(tmp_path, earvae, music):
    music(tmp_path / "in" / "good.wav")
    (tmp_path / "in" / "bad.wav").write_text("no")
    result = earvae("encode", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "bad.wav" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.safetensors"]


def test_an_encoded_file_ends_in_safetensors_and_a_folder_in_a_slash(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav")
    assert earvae("encode", source, "-o", tmp_path / "a.latents").exit_code == 2
    assert os.listdir(tmp_path) == ["a.wav"]
    assert earvae("encode", source, "-o", f"{tmp_path}/new/").exit_code == 0
    assert os.listdir(tmp_path / "new") == ["a.safetensors"]


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_missing_arguments_have_status_2(earvae, verb):
    assert earvae(verb).exit_code == 2
    assert earvae(verb, "a.wav").exit_code == 2


# ------------------------------------------------------------------------------ info


def test_info_of_latents_audio_and_nothing_known(tmp_path, monkeypatch, earvae, music):
    source = music(tmp_path / "a.flac", 48_000)
    earvae("encode", source, "-o", tmp_path / "a.safetensors")
    monkeypatch.undo()
    latents = json.loads(earvae("info", tmp_path / "a.safetensors", "--json").stdout)
    assert latents["original_samples"] == 30_001 and latents["model"] == "packing"
    audio = json.loads(earvae("info", source, "--json").stdout)
    assert audio["format"] == "FLAC PCM_16" and audio["samples"] == 30_001
    assert earvae("info", tmp_path / "gone.wav").exit_code == 1
    assert "FLAC" in earvae("info", source).stdout


def test_info_counts_the_published_models_parameters(tmp_path, monkeypatch, earvae):
    monkeypatch.undo()
    from pathlib import Path

    from earvae.model.vae import EarVAE

    weights = Path(__file__).parents[1] / "golden" / "tiny44k_state_dict.safetensors"
    rows = json.loads(earvae("info", weights, "--json").stdout)
    vae = EarVAE.from_pretrained(weights)
    assert rows["architecture"] == "oobleck" and rows["hop_length"] == 1024
    assert rows["parameters_millions"] == pytest.approx(
        sum(p.numel() for p in vae.parameters()) / 1e6, abs=0.005
    )
    assert rows["identity"] == vae.identity


def test_help_survives_a_terminal_without_greek_letters(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "argv", ["earvae", "--help"])
    with pytest.raises(SystemExit) as left:
        main()
    screen.flush()
    assert left.value.code == 0 and b"ar-VAE" in screen.buffer.getvalue()


def test_help_teaches_by_example(earvae):
    assert "earvae reconstruct song.flac -o out.wav" in earvae("--help").stdout
    for verb in ("reconstruct", "encode", "decode", "info"):
        assert f"  earvae {verb}" in earvae(verb, "--help").stdout
