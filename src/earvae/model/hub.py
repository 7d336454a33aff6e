"""Models on the Hugging Face hub, by plain calls of its client."""

from __future__ import annotations

import re
from pathlib import Path

from earvae.errors import WeightsError, WriteError
from earvae.model import diffusers, saved
from earvae.model.weight_files import SUFFIXES, read_json

ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


def split_id(source: str) -> tuple[str, str | None] | None:
    """The repository and the revision of ``owner/name`` or ``owner/name@revision``; None for
    anything else."""
    match = ID.fullmatch(source)
    return match and (match["repository"], match["revision"])


def download(repository: str, revision: str | None, token: str | bool | None) -> Path:
    """The folder, in the hub client's cache, of a repository's configs and the weights they need.

    ``revision`` is a branch, tag or commit; ``token`` a string, or False for none; None takes what
    the user logged in with. Raises WeightsError.
    """
    folder = _fetch(repository, revision, token, allow_patterns=["*.json"])
    commit = folder.name  # the folder has its name; the weights must be of the same
    part, choices = _weights_for(folder)
    for names in choices:
        patterns = {"allow_patterns": [part + name for name in names]}
        outside = {} if part else {"ignore_patterns": ["*/*"]}
        folder = _fetch(repository, commit, token, **patterns, **outside)
        if any(path for name in names for path in (folder / part).glob(name)):
            break
    return folder


def _fetch(
    repository: str, revision: str | None, token: str | bool | None, **patterns: list[str]
) -> Path:
    from huggingface_hub import snapshot_download  # slow to import; only needed here

    try:
        return Path(snapshot_download(repository, revision=revision, token=token, **patterns))
    except Exception as error:  # the client raises many kinds; the user needs one line
        raise WeightsError(
            f"{repository}: not a local path, and the hub download failed: {_reason(error)}"
        ) from error


def _weights_for(configs: Path) -> tuple[str, list[list[str]]]:
    """Where the weights lie that a repository's configs describe: a folder in it, empty or with
    its slash, and names; safetensors first, the others only where there are none."""
    if "architecture" in read_json(configs / saved.CONFIG_NAME):
        return "", [[saved.WEIGHTS_NAME]]
    for part in ("", "vae/"):  # a pipeline has its autoencoder there
        if diffusers.is_config(read_json(configs / part / diffusers.CONFIG_NAME)):
            return part, [[name] for name in diffusers.WEIGHTS_NAMES]
    pickled = [f"*{suffix}" for suffix in SUFFIXES if suffix != ".safetensors"]
    return "", [["*.safetensors"], pickled]


def upload(folder: Path, repository: str, token: str | bool | None, private: bool) -> str:
    """Put a folder's files into a repository, which is made if need be; the commit's address.

    Raises WriteError.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        return api.upload_folder(repo_id=repository, folder_path=folder).commit_url
    except Exception as error:
        raise WriteError(f"{repository}: the upload failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
