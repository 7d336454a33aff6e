"""Weights and configurations that are not what they say: one line, before memory is spent."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from earvae.errors import WeightsError, WriteError
from earvae.model.vae import EarVAE
from tests.small import GOLDEN, compact, oobleck

NAME = "decoder.shape.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    compact().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def nothing_is_built(monkeypatch):
    def build(config):
        raise AssertionError("a model was built")

    monkeypatch.setattr("earvae.model.vae.build", build)


def refused(source: Path, **options) -> str:
    with pytest.raises(WeightsError) as caught:
        EarVAE.from_pretrained(source, **options)
    message = str(caught.value)
    assert "\n" not in message and str(source) in message and len(message) < 1_000
    return message


@pytest.mark.parametrize(
    "change",
    [
        {"width": 4_000},
        {"hop_length": 16_384, "short_length": 32},
        {"hop_length": 4_096, "split_hz": 20_000.0, "width": 1_000},
        {"decoder_blocks": 256, "width": 500},
        {"width": 10**9},
        {"latent_channels": 10**9},
    ],
)
def test_a_configuration_beyond_its_weights_is_not_built(folder, change, nothing_is_built):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(folder)


def test_a_configuration_without_end_is_one_line(folder):
    for text in ("[" * 100_000, '{"architecture": ' + "[" * 900, " " * 2**21 + "{}"):
        (folder / "config.json").write_text(text)
        refused(folder)


def views(c: int) -> dict[str, torch.Tensor]:
    """A whole encoder of one number, by shapes that say ``c`` channels."""
    one = torch.ones(1)
    shapes = {"0": (c, 2, 7), "1.layers.4": (c, c, 4), "3": (8, c, 3)}
    return {f"encoder.layers.{n}.weight_v": one.expand(s) for n, s in shapes.items()}


@pytest.mark.parametrize("format", ["archive", "legacy"])
def test_views_that_claim_more_than_the_file_are_refused(tmp_path, format, nothing_is_built):
    path = tmp_path / "x.pt"
    torch.save(views(2**17), path, _use_new_zipfile_serialization=format == "archive")
    assert "claim more bytes than it has" in refused(path, sample_rate=44_100)


def test_an_archive_that_unpacks_is_not_unpacked(tmp_path):
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    assert "unpacks to" in refused(tmp_path / "bomb.pt")


def test_a_dictionary_that_holds_itself_has_an_end(tmp_path):
    within: dict = {}
    within["state_dict"] = within
    torch.save(within, tmp_path / "x.pt")
    assert "no state dict" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.sparse_coo_tensor(
            torch.tensor([[0]]), torch.ones(1), (10**9,), check_invariants=True
        ),
        torch.empty(10**9, device="meta"),
        3.0,
    ],
    ids=["sparse", "meta", "number"],
)
def test_what_is_no_plain_tensor_is_named(tmp_path, tensor):
    torch.save({"encoder.odd": tensor}, tmp_path / "x.pt")
    assert "encoder.odd" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.fill_(torch.nan),
        lambda x: x.fill_(torch.inf),
        lambda x: x.double().fill_(1e300),
        lambda x: x.long(),
        lambda x: x.bool(),
        lambda x: x.to(torch.float8_e4m3fn),
    ],
    ids=["nan", "inf", "beyond float32", "int64", "bool", "float8"],
)
def test_values_that_are_no_weights_are_named(folder, change):
    state = load_file(folder / "model.safetensors")
    save_file(state | {NAME: change(state[NAME])}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=NAME):
        EarVAE.from_pretrained(folder)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"x.{suffix}")
    assert "is a pipe" in refused(tmp_path / f"x.{suffix}")


def test_a_published_configuration_has_the_bounds_of_ours(tmp_path):
    good = json.loads((GOLDEN / "tiny44k_config.json").read_text())
    edits = [
        lambda c: c["transformer"].update(depth=10**9),
        lambda c: c["transformer"]["config"].update(dim_heads=0),
        lambda c: c["encoder"]["config"].update(strides=[2] * 10_000),
        lambda c: c["encoder"]["config"].update(channels=10**15),
        lambda c: c["decoder"]["config"].update(strides=[-2] * 5),
    ]
    for edit in edits:
        values = json.loads(json.dumps(good))
        edit(values)
        (tmp_path / "c.json").write_text(json.dumps(values))
        with pytest.raises(WeightsError, match=r"c\.json") as caught:
            EarVAE.from_pretrained(
                GOLDEN / "tiny44k_state_dict.safetensors", config=tmp_path / "c.json"
            )
        assert len(str(caught.value)) < 2_000


def test_weights_that_could_not_be_loaded_are_not_written(folder):
    vae = EarVAE.from_pretrained(folder)
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        vae.decoder.shape.weight[0, 0] = 1e6
    with pytest.raises(WriteError, match=f"{folder}: nothing was written: {NAME} holds"):
        vae.save_pretrained(folder, torch.float16)
    assert (folder / "model.safetensors").read_bytes() == before
    vae.save_pretrained(folder)
    assert EarVAE.from_pretrained(folder).identity == vae.identity


def test_half_a_published_model_is_not_taken_for_a_small_one(tmp_path):
    state = oobleck().state_dict()
    torch.save({n: t for n, t in state.items() if n.startswith("encoder")}, tmp_path / "x.pt")
    assert "names missing" in refused(tmp_path / "x.pt", sample_rate=44_100)
