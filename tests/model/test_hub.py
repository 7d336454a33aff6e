"""Models of the hub, with its client, against a server on this machine that speaks its routes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from typer.testing import CliRunner

from earvae.cli.main import app
from earvae.errors import WeightsError, WriteError
from earvae.evaluation.systems.registry import make
from earvae.export.diffusers import export_diffusers
from earvae.model import hub as hub_module
from earvae.model.vae import EarVAE
from tests.small import GOLDEN, compact, oobleck

TOOL = Path(__file__).parents[2] / "tools" / "stand_in_hub.py"
spec = importlib.util.spec_from_file_location("stand_in_hub", TOOL)
stand_in_hub = sys.modules["stand_in_hub"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in_hub)

AUTHORS = "earlab/EAR_VAE"
SUCCESSOR = "earlab/EAR_VAE2"


@pytest.fixture
def small() -> EarVAE:
    return compact()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the authors' repositories, in small, and an empty one; no token is kept here."""
    root = tmp_path / "repositories"
    (root / "someone" / "mine").mkdir(parents=True)
    for ours, theirs in (
        ("tiny44k", f"{AUTHORS}/ear_vae_44k.pyt"),
        ("tiny48k_v2", f"{AUTHORS}/ear_vae_v2_48k.pyt"),
        ("tiny_earvae2", f"{SUCCESSOR}/weights/ear_vae2.pt"),
    ):
        (root / theirs).parent.mkdir(parents=True, exist_ok=True)
        torch.save(load_file(GOLDEN / f"{ours}_state_dict.safetensors"), root / theirs)
    (root / AUTHORS / "README.md").write_text("a card")
    with stand_in_hub.StandInHub(root) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def mine(hub) -> Path:
    """The folder of ``someone/mine`` there."""
    return hub.folder / "someone" / "mine"


def refused(source: str, **options) -> str:
    """The one line that loading ends in."""
    with pytest.raises(WeightsError) as caught:
        EarVAE.from_pretrained(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------- what is fetched


@pytest.mark.parametrize(
    ("name", "owner", "file", "golden", "rate"),
    [
        ("ear-vae-44k", AUTHORS, "ear_vae_44k.pyt", "tiny44k", 44_100),
        ("ear-vae-48k", AUTHORS, "ear_vae_v2_48k.pyt", "tiny48k_v2", 48_000),
        ("ear-vae2", SUCCESSOR, "weights/ear_vae2.pt", "tiny_earvae2", 48_000),
    ],
)
def test_a_known_name_is_the_authors_file_and_no_other(hub, capfd, name, owner, file, golden, rate):
    vae = EarVAE.from_pretrained(name)
    assert (
        vae.identity == EarVAE.from_pretrained(GOLDEN / f"{golden}_state_dict.safetensors").identity
    )
    assert vae.sample_rate == rate and hub.fetched == [file]
    digest = hashlib.sha256((hub.folder / owner / file).read_bytes()).hexdigest()
    assert f"fetched {file} of {owner}" in (told := capfd.readouterr().err)
    assert digest in told

    asked = len(hub.asked)
    assert EarVAE.from_pretrained(f"hub:{owner}/{file}@main").identity == vae.identity
    assert not any(method == "GET" and "/resolve/" in path for method, path in hub.asked[asked:])
    assert "fetched" not in capfd.readouterr().err


def test_a_file_comes_with_the_json_of_its_name_or_those_beside_it(hub, mine):
    for folder in ("", "old"):
        (mine / folder).mkdir(exist_ok=True)
        shutil.copy(GOLDEN / "tiny48k_state_dict.safetensors", mine / folder / "a.safetensors")
        shutil.copy(GOLDEN / "tiny44k_state_dict.safetensors", mine / folder / "b.safetensors")
        shutil.copy(GOLDEN / "tiny48k_config.json", mine / folder / "model_config.json")
    assert EarVAE.from_pretrained("hub:someone/mine/old/a.safetensors").sample_rate == 48_000
    assert hub.fetched == ["old/model_config.json", "old/a.safetensors"]
    (mine / "a.json").write_bytes((GOLDEN / "tiny48k_config.json").read_bytes() + b"\n")
    assert EarVAE.from_pretrained("hub:someone/mine/a.safetensors").sample_rate == 48_000
    assert hub.fetched[2:] == ["a.json"]  # the weights are those that are there already
    # The JSON beside it is of the other file: the weights tell their layout themselves.
    assert EarVAE.from_pretrained("hub:someone/mine/old/b.safetensors").sample_rate == 44_100


def test_our_model_is_fetched_without_what_lies_beside_it(small, hub, mine):
    small.save_pretrained(mine)
    (mine / "README.md").write_text("a card")
    (mine / "other.safetensors").write_bytes(b"large")
    assert EarVAE.from_pretrained("someone/mine", revision="v1").identity == small.identity
    assert hub.fetched == ["config.json", "model.safetensors"]
    assert {path.split("/")[4] for _, path in hub.asked if "/resolve/" in path} == {"v1"}


def test_of_a_pipeline_only_the_autoencoder_is_fetched(hub, mine):
    vae = oobleck(latent_channels=2, strides=(2, 4))
    export_diffusers(vae, mine / "vae")
    (mine / "transformer").mkdir()
    (mine / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"huge")
    (mine / "model.ckpt").write_bytes(b"huge, too")
    for source in ("someone/mine", "hub:someone/mine", "hub:someone/mine/vae"):
        assert EarVAE.from_pretrained(source).identity == vae.identity
    assert hub.fetched == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_a_published_weight_file_is_fetched_with_its_json(hub, mine):
    shutil.copy(GOLDEN / "tiny48k_state_dict.safetensors", mine / "weights.safetensors")
    shutil.copy(GOLDEN / "tiny48k_config.json", mine / "model_config.json")
    assert EarVAE.from_pretrained("someone/mine").sample_rate == 48_000
    assert hub.fetched == ["model_config.json", "weights.safetensors"]


def test_nothing_is_unpickled_where_there_are_safetensors(hub, mine):
    for suffix in ("pt", "ckpt"):
        (mine / f"weights.{suffix}").write_bytes(b"not looked at")
    shutil.copy(GOLDEN / "tiny44k_state_dict.safetensors", mine / "weights.safetensors")
    assert EarVAE.from_pretrained("someone/mine").sample_rate == 44_100
    assert hub.fetched == ["weights.safetensors"]


def test_several_weight_files_are_listed_with_how_to_name_one(hub, mine):
    line = refused(AUTHORS)
    for part in ("holds 2 weight files", "ear_vae_v2_48k.pyt", f"hub:{AUTHORS}/ear_vae_44k.pyt"):
        assert part in line
    assert f"as in hub:{AUTHORS}/ear_vae_44k.pyt@v1" in refused(f"hub:{AUTHORS}/none.pyt@v1")
    assert hub.fetched == []
    assert "holds no weight files" in refused("someone/mine")


def test_several_weight_files_in_a_folder_here_are_listed_too(tmp_path):
    for name in ("a", "b"):
        shutil.copy(GOLDEN / "tiny44k_state_dict.safetensors", tmp_path / f"{name}.safetensors")
    line = refused(str(tmp_path))
    assert f"name one of a.safetensors, b.safetensors, as in {tmp_path / 'a.safetensors'}" in line


def test_info_shows_the_sha256_of_a_file_of_the_hub_and_evaluate_takes_it_as_a_codec(hub, mine):
    shutil.copy(GOLDEN / "tiny44k_state_dict.safetensors", mine / "a.safetensors")
    told = CliRunner().invoke(app, ["info", "hub:someone/mine/a.safetensors@v1", "--json"])
    rows = json.loads(told.stdout)
    assert rows["sha256"] == hashlib.sha256((mine / "a.safetensors").read_bytes()).hexdigest()
    assert rows["model"] == "hub:someone/mine/a.safetensors@v1"
    assert Path(rows["weights"]).name == "a.safetensors"
    assert make("earvae:ear-vae-48k").name == "earvae-ear-vae-48k"
    none = CliRunner().invoke(app, ["info", "ear-vae-48k@unknown"])
    assert none.exit_code == 1 and "there is no revision unknown" in none.stderr
    assert none.stderr.count("\n") == 1 and not none.stdout


# --------------------------------------------------------------------------- what goes wrong


def test_a_file_of_another_sha256_is_refused_and_not_kept(hub):
    hub.faults.wrong_bytes = True
    line = refused("ear-vae-44k")
    assert "came damaged" in line and "run the same command again" in line
    hub.faults.wrong_bytes = False
    assert EarVAE.from_pretrained("ear-vae-44k").sample_rate == 44_100


def test_a_download_that_breaks_off_is_one_line_and_can_be_repeated(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's own attempts
    hub.faults.broken_off = True
    line = refused("ear-vae-44k")
    assert "the download of ear_vae_44k.pyt broke off" in line
    hub.faults.broken_off = False
    assert EarVAE.from_pretrained("ear-vae-44k").sample_rate == 44_100


def test_without_a_network_what_was_fetched_is_used_and_the_rest_told(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    identity = EarVAE.from_pretrained("ear-vae-44k").identity
    hub.__exit__()
    assert EarVAE.from_pretrained("ear-vae-44k").identity == identity
    assert EarVAE.from_pretrained(f"hub:{AUTHORS}@{hub.commit}").identity == identity
    for source in ("ear-vae-48k", "someone/mine"):
        line = refused(source)
        assert f"{hub.endpoint} cannot be reached" in line and "check the network" in line
    assert "only ear_vae_44k.pyt is in the cache" in refused("ear-vae-48k")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert EarVAE.from_pretrained("ear-vae-44k").identity == identity
    assert "HF_HUB_OFFLINE is set" in refused("ear-vae-48k")


@pytest.mark.parametrize("token", [None, "secret"])
def test_a_gated_repository_says_where_to_ask(hub, token):
    hub.faults.gated = True
    line = refused("ear-vae-44k", token=token)
    assert f"accept the terms at {hub.endpoint}/{AUTHORS}" in line and "HF_TOKEN" in line


def test_a_private_repository_takes_a_token(hub):
    hub.faults.login = "secret"
    assert "no such repository, or it is private" in refused("ear-vae-44k")
    assert EarVAE.from_pretrained("ear-vae-44k", token="secret").sample_rate == 44_100


def test_what_is_not_on_the_hub_is_told(hub, monkeypatch):
    assert "no such repository, or it is private: check the name" in refused("someone/else")
    assert "there is no revision unknown" in refused("ear-vae-44k@unknown")
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.faults.busy = True
    assert "the hub answered 503; run the same command again later" in refused("ear-vae-44k")


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("ear-vae-44k", f"hub:{AUTHORS}/ear_vae_44k.pyt"),
        ("hub:ear-vae-48k@v1", f"hub:{AUTHORS}/ear_vae_v2_48k.pyt@v1"),
        ("ear-vae2", f"hub:{SUCCESSOR}/weights/ear_vae2.pt"),
        ("owner/name", "hub:owner/name"),
        ("owner/name@pr/1", "hub:owner/name@pr/1"),
        ("hub:owner/name/in/file.pt@0123", "hub:owner/name/in/file.pt@0123"),
    ],
)
def test_what_names_a_place_on_the_hub(source, place):
    assert str(hub_module.place_of(source)) == place


@pytest.mark.parametrize("source", ["song.flac", "a/b/c.pt", "owner/name@", "./here/there"])
def test_what_names_none(source):
    assert hub_module.place_of(source) is None


@pytest.mark.parametrize("source", ["hub:", "hub:owner", "hub:owner/name/../../x", "hub:a/b/"])
def test_a_wrong_form_is_told_with_the_right_ones(source):
    assert "write hub:owner/name, hub:owner/name/FILE" in refused(source)


def test_a_misspelt_name_is_answered_with_the_right_one(tmp_path):
    assert refused("ear-vae-44").endswith("did you mean ear-vae-44k?")
    line = refused("someone/mine/in/weights.pt")
    assert line.endswith("did you mean hub:someone/mine/in/weights.pt?")
    assert "ear-vae-44k or ear-vae-48k" in refused(str(tmp_path / "none"))


def test_a_revision_may_stand_behind_the_name(small, hub, mine):
    small.save_pretrained(mine)
    assert EarVAE.from_pretrained("someone/mine@0123abc").identity == small.identity
    assert "is of revision 0123abc, but v1 was asked for" in refused(
        "someone/mine@0123abc", revision="v1"
    )


def test_a_revision_of_a_local_model_is_refused(small, tmp_path):
    small.save_pretrained(tmp_path)
    assert "not of the hub, so it has no revision v1" in refused(tmp_path, revision="v1")


def test_what_is_missing_in_ones_own_folder_is_not_asked_of_a_stranger(
    small, hub, mine, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    small.save_pretrained(mine)
    assert "someone/mine: no such file or folder in someone" in refused("someone/mine")
    assert hub.asked == []
    assert EarVAE.from_pretrained("hub:someone/mine").identity == small.identity


def test_a_run_folder_stands_for_its_averaged_weights(small, tmp_path):
    small.save_pretrained(tmp_path / "ema")
    (tmp_path / "config.json").write_text(json.dumps({"stages": []}))
    assert EarVAE.from_pretrained(tmp_path).identity == small.identity


# --------------------------------------------------------------------------- up to the hub


def test_a_pushed_model_is_the_one_that_is_loaded(small, tmp_path, monkeypatch):
    made = []

    class HfApi:
        def __init__(self, token):
            made.append(token)

        def create_repo(self, repository, *, private, exist_ok):
            made.append((repository, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    address = small.push_to_hub("someone/mine", token="secret", private=True)
    assert address == "https://hub/someone/mine/commit/1"
    assert made == ["secret", ("someone/mine", True, True)]
    assert EarVAE.from_pretrained(tmp_path / "someone" / "mine").identity == small.identity


def test_a_failed_push_is_one_line(small, monkeypatch):
    class HfApi:
        def __init__(self, token): ...

        def create_repo(self, repository, **_):
            raise PermissionError("401 Unauthorized\nlong explanation")

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    with pytest.raises(WriteError, match="^someone/mine: the upload failed: 401 Unauthorized$"):
        small.push_to_hub("someone/mine")
