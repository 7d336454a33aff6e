"""Models of the hub, without a network: its client's functions are stood in for."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from earvae.errors import WeightsError, WriteError
from earvae.export.diffusers import export_diffusers
from earvae.model.vae import EarVAE
from tests.small import GOLDEN, oobleck, spectral

COMMIT = "c0ffee"


@pytest.fixture
def small() -> EarVAE:
    return spectral()


class Hub:
    """One repository; what the client's ``snapshot_download`` does of it, by the same patterns."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.snapshot, self.calls = folder, cache / COMMIT, []

    def snapshot_download(
        self, repository, *, revision=None, token=None, allow_patterns, ignore_patterns=()
    ):
        self.calls.append((repository, revision, token))
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            wanted = any(fnmatch(name, pattern) for pattern in allow_patterns)
            left = any(fnmatch(name, pattern) for pattern in ignore_patterns)
            if path.is_file() and wanted and not left:
                (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.snapshot / name)
        return str(self.snapshot)

    @property
    def fetched(self) -> list[str]:
        files = (path for path in self.snapshot.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.snapshot).as_posix() for path in files)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    (tmp_path / "repository").mkdir()
    hub = Hub(tmp_path / "repository", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def test_our_model_is_fetched_without_what_lies_beside_it(small, hub):
    small.save_pretrained(hub.folder)
    (hub.folder / "README.md").write_text("a card")
    (hub.folder / "other.safetensors").write_bytes(b"large")
    vae = EarVAE.from_pretrained("someone/ear-vae", revision="v1", token="secret")
    assert vae.identity == small.identity
    assert hub.fetched == ["config.json", "model.safetensors"]
    assert hub.calls == [  # the weights are of the commit that the config is of
        ("someone/ear-vae", "v1", "secret"),
        ("someone/ear-vae", COMMIT, "secret"),
    ]


def test_of_a_pipeline_only_the_autoencoder_is_fetched(hub):
    vae = oobleck(latent_channels=2, strides=(2, 4))
    export_diffusers(vae, hub.folder / "vae")
    (hub.folder / "transformer").mkdir()
    (hub.folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"huge")
    (hub.folder / "model.ckpt").write_bytes(b"huge, too")
    assert EarVAE.from_pretrained("someone/pipeline").identity == vae.identity
    assert hub.fetched == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_a_published_weight_file_is_fetched_with_its_json(hub):
    shutil.copy(GOLDEN / "tiny48k_state_dict.safetensors", hub.folder / "weights.safetensors")
    shutil.copy(GOLDEN / "tiny48k_config.json", hub.folder / "model_config.json")
    assert EarVAE.from_pretrained("someone/published").sample_rate == 48_000
    assert hub.fetched == ["model_config.json", "weights.safetensors"]


def test_a_failed_download_is_one_line(monkeypatch):
    def snapshot_download(repository, **_):
        raise OSError("no network\nlong explanation")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(WeightsError) as caught:
        EarVAE.from_pretrained("someone/ear-vae")
    assert str(caught.value).endswith("the hub download failed: no network")


def test_a_revision_of_a_local_model_is_refused(small, tmp_path):
    small.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="not of the hub, so it has no revision v1"):
        EarVAE.from_pretrained(tmp_path, revision="v1")


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

    monkeypatch.setattr("huggingface_hub.HfApi", HfApi)
    address = small.push_to_hub("someone/mine", token="secret", private=True)
    assert address == "https://hub/someone/mine/commit/1"
    assert made == ["secret", ("someone/mine", True, True)]
    assert EarVAE.from_pretrained(tmp_path / "someone" / "mine").identity == small.identity


def test_a_failed_push_is_one_line(small, monkeypatch):
    class HfApi:
        def __init__(self, token): ...

        def create_repo(self, repository, **_):
            raise PermissionError("401 Unauthorized\nlong explanation")

    monkeypatch.setattr("huggingface_hub.HfApi", HfApi)
    with pytest.raises(WriteError, match="^someone/mine: the upload failed: 401 Unauthorized$"):
        small.push_to_hub("someone/mine")


def test_a_revision_may_stand_behind_the_name(small, hub):
    small.save_pretrained(hub.folder)
    assert EarVAE.from_pretrained("someone/ear-vae@0123abc").identity == small.identity
    assert hub.calls[0] == ("someone/ear-vae", "0123abc", None)
    with pytest.raises(WeightsError, match="is of revision 0123abc, but v1 was asked for"):
        EarVAE.from_pretrained("someone/ear-vae@0123abc", revision="v1")


def test_nothing_is_unpickled_where_there_are_safetensors(hub):
    for suffix in ("safetensors", "pt", "ckpt"):
        (hub.folder / f"weights.{suffix}").write_bytes(b"not looked at")
    shutil.copy(GOLDEN / "tiny44k_state_dict.safetensors", hub.folder / "weights.safetensors")
    assert EarVAE.from_pretrained("someone/published").sample_rate == 44_100
    assert hub.fetched == ["weights.safetensors"]


def test_a_published_file_of_another_form_is_fetched_where_there_is_nothing_else(hub):
    torch.save(load_file(GOLDEN / "tiny44k_state_dict.safetensors"), hub.folder / "weights.pyt")
    assert EarVAE.from_pretrained("someone/published").sample_rate == 44_100


def test_what_is_missing_in_ones_own_folder_is_not_asked_of_a_stranger(
    small, hub, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    small.save_pretrained(hub.folder)
    with pytest.raises(WeightsError, match="runs/compact: no such file or folder in runs"):
        EarVAE.from_pretrained("runs/compact")
    assert hub.calls == []
    assert EarVAE.from_pretrained("runs/compact@main").identity == small.identity
