"""``earvae encode``, ``decode`` and ``info``: latents as files."""

from __future__ import annotations

import io
import json
import os
import re
import sys

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from earvae.cli.main import app, main
from earvae.cli.renamed import OF_LIBRARIES
from earvae.latents import statistics
from tests.small import GOLDEN, load


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
        save_file({"weight": latents, "bias": latents[0].clone()}, bad)
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


@pytest.mark.parametrize("verb", ["encode", "decode", "library"])
def test_missing_arguments_have_status_2(earvae, verb):
    assert earvae(verb).exit_code == 2
    assert earvae(verb, "a.wav").exit_code == 2


# ------------------------------------------------------------------------------ libraries


@pytest.fixture
def library(tmp_path, music):
    """A folder of five files, one of them unreadable."""
    for number in range(4):
        music(tmp_path / "in" / "ab"[number % 2] / f"{number}.wav", samples=1600 + 16 * number)
    (tmp_path / "in" / "a" / "bad.wav").write_text("no")
    return tmp_path / "in"


def test_a_library_is_encoded_and_a_second_run_finds_it_done(tmp_path, earvae, library):
    out = tmp_path / "out"
    first = earvae("library", library, "-o", out)
    assert first.exit_code == 1 and "bad.wav" in first.stderr and "encoded 4 files" in first.stdout
    latents = load_file(out / "b" / "1.safetensors")["latents"]
    audio = torch.from_numpy(load(library / "b" / "1.wav")[0])
    assert torch.equal(latents[0], audio[0, ::16])  # the packing model's latents are the samples
    index = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [line["file"] for line in index] == [
        "a/0.safetensors", "a/2.safetensors", "b/1.safetensors", "b/3.safetensors"
    ]  # fmt: skip
    second = earvae("library", library, "-o", out)
    assert second.exit_code == 1 and "4 files were done already" in second.stdout
    (library / "a" / "bad.wav").unlink()
    assert earvae("library", library, "-o", out).exit_code == 0
    assert not (out / "failures.jsonl").read_bytes()
    assert earvae("decode", out, "-o", tmp_path / "decoded").exit_code == 0
    decoded, _ = load(tmp_path / "decoded" / "b" / "1.wav")
    assert np.array_equal(decoded, load(library / "b" / "1.wav")[0])


def test_a_manifest_is_a_library(tmp_path, earvae, library):
    lines = [{"file": "in/b/3.wav", "split": "train"}, {"file": "in/a/bad.wav", "split": "test"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = earvae("library", tmp_path / "list.jsonl", "-o", tmp_path / "out", "--split", "train")
    assert result.exit_code == 0 and (tmp_path / "out" / "in" / "b" / "3.safetensors").is_file()


def test_a_bad_line_of_a_manifest_is_named_and_the_other_files_are_encoded(
    tmp_path, earvae, library
):
    (tmp_path / "list.jsonl").write_text('{"file": "in/b/3.wav"}\n{"fil": 1}\n')
    result = earvae("library", tmp_path / "list.jsonl", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "list.jsonl: line 2" in result.stderr
    assert (tmp_path / "out" / "in" / "b" / "3.safetensors").is_file()


def test_a_folder_has_the_splits_of_training(tmp_path, earvae, library):
    (library / "a" / "bad.wav").unlink()
    command = ["library", library, "-o", tmp_path / "out", "--split"]
    result = earvae(*command, "train")  # of four tracks none is held out
    assert result.exit_code == 0 and "4 entries" in result.stdout
    result = earvae(*command, "validation")
    assert result.exit_code == 1 and "no files of split 'validation'" in result.stderr
    assert "has the splits train and validation" in earvae(*command, "test").stderr


def test_music_that_is_not_taken_is_named(tmp_path, earvae, music):
    music(tmp_path / "in" / "a.wav"), music(tmp_path / "in" / ".b.wav")
    (tmp_path / "in" / "c.ape").touch()
    for verb in ("library", "encode", "reconstruct"):
        result = earvae(verb, tmp_path / "in", "-o", tmp_path / verb)
        assert result.exit_code == 0 and ".b.wav" in result.stderr and "c.ape" in result.stderr


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ranks_share_a_library_and_the_last_one_concludes(tmp_path, earvae, library, order):
    """Rank 0 has the bad file. A launcher would stop the others if it failed before them."""
    command = ["library", library, "-o", tmp_path / "out", "--npy", "--block-files", 1]
    results = [earvae(*command, "--rank", rank, "--world-size", 2) for rank in order]
    assert [result.exit_code for result in results] == [0, 1]
    assert [("bad.wav" in result.stderr) for result in results] == [order[0] == 0, order[1] == 0]
    assert "this rank is done, others are not" in results[0].stdout
    assert f"rank {order[0]} of 2" in results[0].stdout
    assert "1 failed in all" in results[1].stderr
    assert len((tmp_path / "out" / "index.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "options,message",
    [
        (["--store", "median"], "'median' is not one of"),
        (["--store", "sample"], "needs a --seed"),
        (["--seed", 1], "--seed belongs to --store sample"),
        (["--npy", "--store", "mean+std"], "one array a file"),
    ],
)
def test_library_options_that_do_not_go_together_have_status_2(
    tmp_path, earvae, library, options, message
):
    result = earvae("library", library, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--library"], ["--shards"], ["--npy", "--half"],
    ["--workers", 2], ["--padding=0"], ["--rank", 0, "--world-size", 2], ["--replace"],
    ["--store", "mean"]], ids=str)  # fmt: skip
def test_what_was_once_an_option_of_encode_names_the_verb(tmp_path, earvae, library, options):
    result = earvae("encode", library, "-o", tmp_path / "out", *options)
    name = options[0].partition("=")[0]
    assert result.stderr == f"error: {name} is of libraries: earvae library IN... -o OUT\n"
    assert result.exit_code == 2 and not (tmp_path / "out").exists()


def test_a_manifest_given_to_encode_names_the_verb(tmp_path, earvae):
    (tmp_path / "list.jsonl").touch()
    result = earvae("encode", tmp_path / "list.jsonl", "-o", tmp_path / "out")
    assert result.exit_code == 2 and "earvae library IN... -o OUT" in result.stderr


def test_every_option_that_only_libraries_have_is_known_to_encode():
    def names(verb) -> set[str]:
        command = typer.main.get_command(app).commands[verb]
        return {name for given in command.params for name in given.opts if name[:2] == "--"}

    assert names("library") - names("encode") == set(OF_LIBRARIES) - {"--library"}


def test_npy_libraries_are_decoded_and_told_about_like_others(tmp_path, earvae, library):
    (library / "a" / "bad.wav").unlink()
    assert earvae("library", library, "-o", tmp_path / "out", "--npy").exit_code == 0
    assert earvae("decode", tmp_path / "out", "-o", tmp_path / "heard").exit_code == 0
    heard, _ = load(tmp_path / "heard" / "b" / "1.wav")
    assert np.array_equal(heard, load(library / "b" / "1.wav")[0])
    rows = json.loads(earvae("info", tmp_path / "out" / "b" / "1.npy", "--json").stdout)
    assert rows["original_samples"] == 1616 and rows["model"] == "packing"


@pytest.mark.parametrize("layout", [[], ["--npy"], ["--shards"], ["--shards", "--npy"],
    ["--segment-seconds", 0.1]], ids=str)  # fmt: skip
def test_every_layout_of_a_library_is_decoded_and_told_about(
    tmp_path, earvae, library, music, layout
):
    (library / "a" / "bad.wav").unlink()
    music(library / "long.wav", samples=9_000)
    out, heard = tmp_path / "out", tmp_path / "heard"
    if "--shards" in layout:
        layout = [*layout, "--block-files", 2]
    assert earvae("library", library, "-o", out, *layout).exit_code == 0
    assert earvae("decode", out, "-o", heard).exit_code == 0
    for path in sorted(library.rglob("*.wav")):
        stem = path.relative_to(library).with_suffix("")
        found = sorted(heard.glob(f"{stem}*.wav"))
        samples = np.concatenate([load(one)[0] for one in found], axis=1)
        assert np.array_equal(samples, load(path)[0])
    entries = len(list(heard.rglob("*.wav")))
    assert entries == (7 if "--segment-seconds" in layout else 5)
    rows = json.loads(earvae("info", out, "--json").stdout)
    assert rows["entries"] == entries and rows["model"] == "packing"
    seconds = (4 * 1600 + 6 * 16 + 9_000) / 44_100
    assert rows["seconds"] == pytest.approx(seconds, abs=2e-3)


def test_a_shard_by_itself_is_decoded_past_what_is_damaged_in_it(tmp_path, earvae, library):
    (library / "a" / "bad.wav").unlink()
    assert earvae("library", library, "-o", tmp_path / "out", "--shards").exit_code == 0
    shard = tmp_path / "out" / "shard-000000.tar"
    rows = json.loads(earvae("info", shard, "--json").stdout)
    assert rows["entries"] == 4 and rows["latents"].startswith("32 × frames ")
    several = earvae("decode", shard, "-o", tmp_path / "one.wav")
    assert several.exit_code == 2 and "holds 4 latents" in several.stderr
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b'"F32"', b'"I32"', 1))  # in the first member's header
    result = earvae("decode", shard, "-o", tmp_path / "heard")
    assert result.exit_code == 1 and "shard-000000.tar: 00000000.safetensors: " in result.stderr
    names = sorted(
        str(p.relative_to(tmp_path / "heard")) for p in (tmp_path / "heard").rglob("*.wav")
    )
    assert names == ["a/2.wav", "b/1.wav", "b/3.wav"]
    shard.write_bytes(data[:-12_000])
    cut = earvae("decode", shard, "-o", tmp_path / "rest")
    assert cut.exit_code == 1 and "shard-000000.tar: " in cut.stderr
    assert len(list((tmp_path / "rest").rglob("*.wav"))) in (2, 3)


def test_entries_of_two_shards_with_one_name_both_get_through(tmp_path, earvae, library):
    (library / "a" / "bad.wav").unlink()
    assert earvae("library", library, "-o", tmp_path / "out", "--shards").exit_code == 0
    data = (tmp_path / "out" / "shard-000000.tar").read_bytes()
    (tmp_path / "out" / "again.tar").write_bytes(data)
    assert earvae("decode", tmp_path / "out", "-o", tmp_path / "heard").exit_code == 0
    names = sorted(path.name for path in (tmp_path / "heard" / "a").iterdir())
    assert names == ["0-00000000.wav", "0.wav", "2-00000001.wav", "2.wav"]


def bare_files(folder, values):
    """The same latents ``[batch, channels, frames]`` as other programs save them."""
    tensor = torch.from_numpy(values)
    np.save(folder / "array.npy", values)
    np.save(folder / "columns.npy", np.asfortranarray(values))
    torch.save(tensor, folder / "tensor.pt")
    torch.save({"step": 3, "latents": tensor}, folder / "dict.pth")
    save_file({"samples": tensor}, folder / "comfy.safetensors", {"format": "pt"})
    return sorted(folder.iterdir())


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_bare_arrays_and_tensors_are_decoded_as_the_api_does(tmp_path, earvae, batch):
    source = np.random.default_rng(0)
    values = source.uniform(-0.5, 0.5, (max(batch, 1), 32, 20)).astype(np.float32)
    (tmp_path / "in").mkdir()
    for path in bare_files(tmp_path / "in", values if batch else values[0]):
        result = earvae("decode", path, "-o", f"{tmp_path}/heard/{path.suffix}/")
        assert result.exit_code == 0 and "did not say what they are" in result.stdout
        assert "at 44100 Hz" in result.stdout and f"\n{max(batch, 1)} of them" in result.stdout
        for number in range(max(batch, 1)):
            name = f"{path.stem}-{number:04d}" if batch > 1 else path.stem
            heard, rate = load(tmp_path / "heard" / path.suffix / f"{name}.wav")
            expected = values[number].reshape(2, 16, 20).swapaxes(1, 2).reshape(2, 320)
            assert rate == 44_100 and np.array_equal(heard, expected)
        rows = json.loads(earvae("info", path, "--json").stdout)
        assert [rows[key] for key in ("batch", "channels", "frames")] == [*values.shape]


def test_a_bare_array_takes_its_length_and_rate_from_options(tmp_path, earvae):
    np.save(tmp_path / "z.npy", np.zeros((32, 100), np.float32))
    how = ["decode", tmp_path / "z.npy", "-o", tmp_path / "z.wav"]
    assert earvae(*how, "--samples", 1234).exit_code == 0
    assert load(tmp_path / "z.wav")[0].shape == (2, 1234)
    assert earvae(*how, "--rate", 22_050).exit_code == 0
    heard, rate = load(tmp_path / "z.wav")
    assert (heard.shape, rate) == ((2, 800), 22_050)
    longer = earvae(*how, "--samples", 1601)
    assert longer.exit_code == 1 and "100 frames hold 1600 samples at 44100 Hz" in longer.stderr
    assert earvae(*how, "--rate", 10).exit_code == 1


@pytest.mark.parametrize("kind,message", [
    ("turned", "its axes are the other way round"), ("flat", "array of shape \\[64\\]"),
    ("whole", "torch.int64, not a plain tensor of floating point"), ("nan", "not finite"),
    ("code", "nothing in it was executed"), ("two", "none called latents"),
    ("batch", "holds 2 latents; end the folder"),
])  # fmt: skip
def test_a_bare_file_that_cannot_be_latents_is_one_line(tmp_path, earvae, kind, message):
    values = torch.zeros(32, 20)
    content = {
        "turned": values.T, "flat": values[:4].reshape(-1)[:64], "whole": values.long(),
        "nan": values * torch.nan, "code": Runs(), "two": {"a": values, "b": values},
        "batch": values.expand(2, 32, 20).clone(),
    }[kind]  # fmt: skip
    path = tmp_path / "z.pt"
    torch.save(content.clone() if isinstance(content, torch.Tensor) else content, path)
    result = earvae("decode", path, "-o", tmp_path / "z.wav")
    (line,) = result.stderr.splitlines()
    assert result.exit_code in (1, 2) and re.search(message, line) and "z.pt" in line
    assert os.listdir(tmp_path) == ["z.pt"]


class Runs:
    """What a file of a stranger may hold."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("size", [22, 1000, 4097])  # at 4097 torch raises the system's error
def test_a_bare_file_that_is_cut_off_is_one_line(tmp_path, earvae, size):
    torch.save({"latents": torch.zeros(32, 60)}, tmp_path / "z.pt")
    whole = (tmp_path / "z.pt").read_bytes()
    (tmp_path / "z.pt").write_bytes(whole[:size])
    result = earvae("decode", tmp_path / "z.pt", "-o", tmp_path / "z.wav")
    (line,) = result.stderr.splitlines()
    assert len(whole) > size and result.exit_code == 1
    assert "z.pt: not a readable PyTorch file" in line and "a fault in earvae" not in line


def test_a_library_of_another_model_needs_replace(tmp_path, earvae, library, use_model):
    (library / "a" / "bad.wav").unlink()
    command = ["library", library, "-o", tmp_path / "out", "--shards"]
    assert earvae(*command).exit_code == 0
    use_model(identity="another")
    refused = earvae(*command)
    assert refused.exit_code == 1 and "model packing → another" in refused.stderr
    assert earvae(*command, "--replace").exit_code == 0


def test_normalised_latents_are_put_back_by_decode_without_being_asked(
    tmp_path, earvae, library, use_model
):
    (library / "a" / "bad.wav").unlink()
    plain, unit = tmp_path / "plain", tmp_path / "unit"
    assert earvae("library", library, "-o", plain).exit_code == 0
    measured = earvae("stats", plain)
    assert measured.exit_code == 0 and "4 entries" in measured.stdout
    stats = json.loads((plain / "latent_stats.json").read_text())
    whole = np.concatenate(
        [load_file(p)["latents"] for p in sorted(plain.rglob("*.safetensors"))], 1
    )
    assert np.allclose(stats["mean"], whole.mean(axis=1), atol=1e-6)
    assert np.allclose(stats["std"], whole.astype(np.float64).std(axis=1), atol=1e-6)
    how = ["--normalise", plain / "latent_stats.json"]
    assert earvae("library", library, "-o", unit, *how).exit_code == 0
    assert "normalised" in earvae("stats", unit).stdout  # and what undoes them is not overwritten
    assert json.loads((unit / "latent_stats.json").read_text()) == stats
    assert earvae("info", unit / "b" / "1.safetensors").exit_code == 0

    assert earvae("decode", unit, "-o", tmp_path / "heard").exit_code == 0
    for path in sorted(library.rglob("*.wav")):
        heard, _ = load((tmp_path / "heard" / path.relative_to(library)).with_suffix(".wav"))
        assert np.allclose(heard, load(path)[0], atol=1e-5)

    alone = tmp_path / "alone" / "x.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((unit / "b" / "1.safetensors").read_bytes())
    lost = earvae("decode", alone, "-o", tmp_path / "x.wav")
    assert lost.exit_code == 1 and "--denormalise" in lost.stderr
    named = ["decode", alone, "-o", tmp_path / "x.wav", "--denormalise", plain]
    assert earvae(*named).exit_code == 0
    stats["mean"][0] += 1
    (alone.parent / "latent_stats.json").write_text(json.dumps(stats))
    edited = earvae("decode", alone, "-o", tmp_path / "y.wav")
    assert edited.exit_code == 1 and "not those that were measured" in edited.stderr
    other = statistics.read(plain)
    other.mean[0] += 1
    (alone.parent / "latent_stats.json").write_text(other.to_json())
    wrong = earvae("decode", alone, "-o", tmp_path / "y.wav")
    assert wrong.exit_code == 1 and "was normalised by statistics" in wrong.stderr

    use_model(identity="another")
    refused = earvae("library", library, "-o", tmp_path / "z", *how)
    assert refused.exit_code == 1 and "statistics of model packing" in refused.stderr


def test_latents_that_do_not_say_that_they_are_normalised_are_put_back_on_request(
    tmp_path, earvae, library
):
    """As a diffusion model would save them: its own numbers under our metadata."""
    earvae("library", library, "-o", tmp_path / "plain")
    earvae("stats", tmp_path / "plain")
    stats = json.loads((tmp_path / "plain" / "latent_stats.json").read_text())
    source = tmp_path / "plain" / "b" / "1.safetensors"
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    mean, std = (torch.tensor(stats[name]).unsqueeze(1) for name in ("mean", "std"))
    generated = tmp_path / "generated.safetensors"
    save_file({"latents": (load_file(source)["latents"] - mean) / std}, generated, metadata)
    how = ["--denormalise", tmp_path / "plain" / "latent_stats.json"]
    assert earvae("decode", generated, "-o", tmp_path / "g.wav", *how).exit_code == 0
    heard, _ = load(tmp_path / "g.wav")
    assert np.allclose(heard, load(library / "b" / "1.wav")[0], atol=1e-5)
    assert (
        earvae("decode", generated, "-o", tmp_path / "g.wav", "--denormalise", library).exit_code
        == 1
    )


def test_statistics_of_ranks_are_merged_by_measuring_them(tmp_path, earvae, library):
    earvae("library", library, "-o", tmp_path / "out")
    for rank in (0, 1):
        assert earvae("stats", tmp_path / "out", "--rank", rank, "--world-size", 2).exit_code == 0
    parts = sorted((tmp_path / "out").glob("latent_stats.rank-*.json"))
    assert [path.name for path in parts] == [f"latent_stats.rank-{r}-of-2.json" for r in (0, 1)]
    assert earvae("stats", *parts, "-o", tmp_path / "merged.json").exit_code == 0
    assert earvae("stats", tmp_path / "out", "-o", tmp_path / "whole.json").exit_code == 0
    merged, whole = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("merged", "whole"))
    assert merged["count"] == whole["count"] and merged["entries"] == whole["entries"] == 4
    assert np.allclose(merged["mean"], whole["mean"], rtol=1e-12)
    assert np.allclose(merged["std"], whole["std"], rtol=1e-12)
    assert earvae("stats", library).exit_code == 1 and earvae("stats").exit_code == 2


# ------------------------------------------------------------------------------ info


def test_statistics_of_a_part_are_not_written_and_every_damaged_file_is_named(
    tmp_path, earvae, library
):
    (library / "a" / "bad.wav").unlink()
    out = tmp_path / "out"
    earvae("library", library, "-o", out)
    whole = sorted(out.rglob("*.safetensors"))
    for path in whole[1:3]:
        path.write_bytes(path.read_bytes()[:-8])
        shown = earvae("info", path)
        assert shown.exit_code == 1 and f"{path.name}: damaged" in shown.stderr
    refused = earvae("stats", out)
    assert refused.exit_code == 1 and not (out / "latent_stats.json").exists()
    assert all(f"{path}: damaged" in refused.stderr for path in whole[1:3])
    assert str(whole[0]) not in refused.stderr and "nothing was written" in refused.stderr


def test_a_name_with_markup_is_shown_as_it_is(tmp_path, earvae, music):
    source = music(tmp_path / "a.wav", 44_100, 1, 4_000)
    assert earvae("encode", source, "-o", tmp_path / "x.safetensors").exit_code == 0
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data.replace(b'"packing"', b'"[/b]pac"'))
    shown = earvae("stats", tmp_path / "x.safetensors", "-o", tmp_path / "s.json")
    assert shown.exit_code == 0 and "[/b]pac" in shown.stdout


def test_info_of_latents_audio_and_nothing_known(tmp_path, monkeypatch, earvae, music):
    source = music(tmp_path / "a.flac", 48_000)
    earvae("encode", source, "-o", tmp_path / "a.safetensors")
    monkeypatch.undo()
    latents = json.loads(earvae("info", tmp_path / "a.safetensors", "--json").stdout)
    assert latents["original_samples"] == 30_001 and latents["model"] == "packing"
    audio = json.loads(earvae("info", source, "--json").stdout)
    assert audio["format"] == "FLAC PCM_16" and audio["samples"] == 30_001
    assert earvae("info", tmp_path / "gone.wav").exit_code == 1
    for path in ("a.safetensors", "a.flac"):  # they have a rate of their own
        assert earvae("info", tmp_path / path, "--sample-rate", 44_100).exit_code == 2
    assert "FLAC" in earvae("info", source).stdout


def test_info_counts_the_published_models_parameters(tmp_path, monkeypatch, earvae):
    monkeypatch.undo()

    from earvae.model.vae import EarVAE

    weights = GOLDEN / "tiny44k_state_dict.safetensors"
    rows = json.loads(earvae("info", weights, "--json").stdout)
    vae = EarVAE.from_pretrained(weights)
    assert rows["architecture"] == "oobleck" and rows["hop_length"] == 1024
    assert rows["parameters_millions"] == pytest.approx(
        sum(p.numel() for p in vae.parameters()) / 1e6, abs=0.005
    )
    assert rows["identity"] == vae.identity


def test_info_of_the_shipped_model_tells_what_it_was_trained_on(monkeypatch, earvae):
    monkeypatch.undo()
    rows = json.loads(earvae("info", "--json").stdout)
    assert rows["license"] == "cc-by-4.0" and "Debian" in rows["training_data"]


def test_help_survives_a_terminal_without_greek_letters(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "argv", ["earvae", "--help"])
    monkeypatch.setattr("earvae.cli.main.heed", lambda: None)  # for as long as this process lives
    with pytest.raises(SystemExit) as left:
        main()
    screen.flush()
    assert left.value.code == 0 and b"ar-VAE" in screen.buffer.getvalue()


def test_help_teaches_by_example(earvae):
    assert "earvae reconstruct song.flac -o out.wav" in earvae("--help").stdout
    for verb in ("reconstruct", "encode", "decode", "library", "info", "stats"):
        assert f"  earvae {verb}" in earvae(verb, "--help").stdout


def test_the_model_that_is_used_is_never_written_over(tmp_path, earvae, music):
    model = tmp_path / "m" / "model.safetensors"
    model.parent.mkdir()
    model.write_text("the model")
    source = music(tmp_path / "model.wav")
    for target, weights in ((model, model.parent), (model, model), (f"{model.parent}/", model)):
        result = earvae("encode", source, "-o", target, "--weights", weights)
        assert result.exit_code == 2 and f"{model}: is the model" in result.stderr
    assert model.read_text() == "the model"


def test_statistics_replace_no_input_and_nothing_that_is_none(tmp_path, earvae, music):
    earvae("encode", music(tmp_path / "a.wav"), "-o", tmp_path / "l" / "a.safetensors")
    latents = tmp_path / "l" / "a.safetensors"
    before = latents.read_bytes()
    result = earvae("stats", tmp_path / "l", "-o", latents)
    assert result.exit_code == 2 and f"{latents}: is one of the inputs" in result.stderr
    assert latents.read_bytes() == before
    theirs = tmp_path / "l" / "latent_stats.json"
    theirs.write_text('{"mine": 1}')
    result = earvae("stats", tmp_path / "l")
    assert result.exit_code == 1 and str(theirs) in result.stderr and "-o FILE" in result.stderr
    assert theirs.read_text() == '{"mine": 1}'
