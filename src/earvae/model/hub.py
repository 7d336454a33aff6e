"""Models on the Hugging Face hub: what names them, what is fetched of them, what may go wrong.

A repository's files are listed first, so that only those are fetched that a model needs, and
compared with the SHA-256 that the hub states. Token, cache and endpoint are those of
``huggingface_hub``. Without a network, what was fetched before is used.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from earvae.errors import WeightsError, WriteError
from earvae.model import diffusers, saved
from earvae.model.weight_files import LONGEST_JSON, SUFFIXES, read_json, sha256, some

PREFIX = "hub:"
FORMS = "hub:owner/name, hub:owner/name/FILE, either with @revision"
SECONDS = 10  # to wait for the hub's answer
LONGEST_REASON = 120  # characters of what the client says
_SOURCE = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:/(?P<inside>[^@]+))?(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A repository of the hub, with the file or folder in it and the revision, where given."""

    repository: str
    inside: str | None = None
    revision: str | None = None  # a branch, a tag or a commit; none = the main branch

    def __str__(self) -> str:
        inside = f"/{self.inside}" if self.inside else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repository}{inside}{revision}"


KNOWN = {
    "ear-vae-44k": Place("earlab/EAR_VAE", "ear_vae_44k.pyt"),
    "ear-vae-48k": Place("earlab/EAR_VAE", "ear_vae_v2_48k.pyt"),
    "ear-vae2": Place("earlab/EAR_VAE2", "weights/ear_vae2.pt"),
}
"""The published weights by short names."""


def place_of(source: str) -> Place | None:
    """The place that a known name, ``owner/name`` or ``hub:owner/name/file`` stands for, each with
    ``@revision`` or without; None for anything else.

    Raises WeightsError for ``hub:`` with what is not of that form.
    """
    explicit, rest = source.startswith(PREFIX), source.removeprefix(PREFIX)
    name, _, revision = rest.partition("@")
    if name in KNOWN and (revision or "@" not in rest):
        return replace(KNOWN[name], revision=revision or None)
    found = _SOURCE.fullmatch(rest)
    if found and (inside := found["inside"]):
        if not explicit or {"", ".", ".."} & set(inside.split("/")):
            found = None
    if found is None and explicit:
        raise WeightsError(f"{source}: write {FORMS}, or {' or '.join(KNOWN)}")
    return found and Place(found["repository"], found["inside"], found["revision"])


def download(place: Place, token: str | bool | None) -> Path:
    """The weight file, or the folder of a model, in the hub client's cache; fetched if need be.

    ``token`` is a string, or False for none; None takes what the user logged in with. Raises
    WeightsError, in one line that says what to do.
    """
    fetch = _Fetch(place, token)
    inside = place.inside
    if inside in fetch.files:
        fetch(*_configs_for(inside, fetch.files))
        fetch.weights(inside)
        return fetch.folder / inside
    folder = f"{inside}/" if inside else ""
    if not any(name.startswith(folder) for name in fetch.files):
        raise WeightsError(f"{place}: there is no such file; {fetch.choices()}")
    part, names = _weights_in(fetch, folder)
    there = [name for name in fetch.files if name in names]
    if len(there) != 1:
        how = f"holds {len(there)} weight files" if there else "holds no model here"
        raise WeightsError(f"{place}: {how}; {fetch.choices()}")
    fetch.weights(there[0])
    return fetch.folder / part


def _configs_for(weights: str, files: Iterable[str]) -> list[str]:
    """The JSON files that may describe one weight file: that of its name, else those beside it."""
    own = PurePosixPath(weights).with_suffix(".json")
    beside = [name for name in files if _is_json_in(name, own.parent)]
    return [str(own)] if str(own) in beside else beside


def _weights_in(fetch: _Fetch, folder: str) -> tuple[str, list[str]]:
    """The part of a repository that is a model, and the weight files that it may have; its configs
    are fetched. Safetensors are preferred, and the others offered only where there are none."""
    fetch(*(name for name in fetch.files if _is_json_in(name, PurePosixPath(folder))))
    if "architecture" in fetch.json(folder + saved.CONFIG_NAME):
        return folder, [folder + saved.WEIGHTS_NAME]
    for part in (folder, f"{folder}vae/"):  # a pipeline has its autoencoder there
        if diffusers.is_config(fetch.json(part + diffusers.CONFIG_NAME)):
            names = [part + name for name in diffusers.WEIGHTS_NAMES]
            return part, [next((name for name in names if name in fetch.files), names[0])]
    inside = PurePosixPath(folder)
    here = [name for name in fetch.weight_files if PurePosixPath(name).parent == inside]
    plain = [name for name in here if name.endswith(".safetensors")]
    return folder, plain or here


def _is_json_in(name: str, folder: PurePosixPath) -> bool:
    path = PurePosixPath(name)
    return path.parent == folder and path.suffix == ".json"


@dataclass(frozen=True)
class _File:
    size: int | None = None  # bytes
    sha256: str | None = None  # of the files that the hub keeps as large ones


class _Fetch:
    """One revision of a repository: its files, and calls that bring them into the cache.

    Attributes:
        files: every file by its name there; without a network, those in the cache.
        folder: where the files lie once they are fetched.
    """

    def __init__(self, place: Place, token: str | bool | None) -> None:
        self.place, self.token = place, token
        self.files, self.folder = {}, Path()
        try:
            found = self._asked(self._listing)
        except _Unreachable as error:
            self.online = False
            cached = _cached(place)
            if cached is None:
                raise WeightsError(
                    f"{place}: {error}, and it is not in the cache; {error.advice}"
                ) from None
            self.folder = cached
            names = (path for path in cached.glob("**/*") if path.is_file())
            self.files = {path.relative_to(cached).as_posix(): _File() for path in names}
            if place.inside and not any(f"{n}/".startswith(f"{place.inside}/") for n in self.files):
                raise WeightsError(
                    f"{place}: {error}, and of this repository only {some(self.files)} is in the "
                    f"cache; {error.advice}"
                ) from None
        else:
            self.online, self.commit = True, found.sha
            for file in found.siblings or ():
                large = file.lfs
                self.files[file.rfilename] = _File(file.size, large and large.sha256)

    def _listing(self):
        from huggingface_hub import HfApi  # slow to import; only needed here

        place = self.place
        return HfApi(token=self.token).model_info(
            place.repository, revision=place.revision, timeout=SECONDS, files_metadata=True
        )

    @property
    def weight_files(self) -> list[str]:
        """The names that weights may have."""
        return [name for name in self.files if PurePosixPath(name).suffix in SUFFIXES]

    def choices(self) -> str:
        """How to name one of the weight files."""
        if not self.weight_files:
            return "its repository holds no weight files"
        sizes = (self.files[name].size for name in self.weight_files)
        shown = [
            name + (f" ({size / 1e6:.0f} MB)" if size else "")
            for name, size in zip(self.weight_files, sizes, strict=True)
        ]
        example = replace(self.place, inside=self.weight_files[0])
        return f"name one of {some(shown, 20)}, as in {example}"

    def __call__(self, *names: str) -> None:
        """Bring configs; none is as large as weights."""
        for name in names:
            if (self.files[name].size or 0) <= LONGEST_JSON:
                self._bring(name)

    def json(self, name: str) -> dict:
        """The object in a JSON file; empty where there is none."""
        if name not in self.files or (self.files[name].size or 0) > LONGEST_JSON:
            return {}
        return read_json(self._bring(name))

    def weights(self, name: str) -> None:
        """Bring a weight file; where that takes a download, compare and tell its SHA-256."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.utils import are_progress_bars_disabled

        repository = self.place.repository
        if not self.online:
            return
        if isinstance(try_to_load_from_cache(repository, name, revision=self.commit), str):
            self._bring(name)
            return

        def tell(line: str) -> None:
            if not are_progress_bars_disabled():
                print(line, file=sys.stderr, flush=True)

        if not sys.stderr.isatty():  # where the client shows no bar
            tell(f"fetching {name} of {repository}")
        path = self._bring(name)
        found, stated = sha256(path), self.files[name].sha256
        if stated and found != stated:
            path.resolve().unlink(missing_ok=True)  # or it would be taken for whole the next time
            path.unlink(missing_ok=True)
            raise WeightsError(
                f"{self.place}: {name} came damaged: its SHA-256 is {found}, but the hub says "
                f"{stated}; it was removed, run the same command again"
            )
        size = path.stat().st_size / 1e6
        tell(f"fetched {name} of {repository}, commit {self.commit[:12]}: {size:.1f} MB, "
             f"SHA-256 {found}")  # fmt: skip

    def _bring(self, name: str) -> Path:
        if not self.online:
            return self.folder / name
        from huggingface_hub import hf_hub_download

        place = self.place  # by its revision, which the cache then knows without a network
        path = self._asked(
            lambda: hf_hub_download(
                place.repository, name, revision=place.revision, token=self.token
            ),
            name,
        )
        path = Path(path)
        self.folder = path.parents[len(PurePosixPath(name).parts) - 1]
        if self.folder.name != self.commit:
            raise WeightsError(f"{place}: was changed meanwhile; run the same command again")
        return path

    def _asked(self, ask: Callable[[], T], name: str | None = None) -> T:
        """What ``ask`` gives, or one line of why the hub does not; _Unreachable where there is no
        answer to a listing."""
        from huggingface_hub import constants, utils

        place = self.place
        login = "log in with `hf auth login` or set HF_TOKEN"
        try:
            return ask()
        except utils.GatedRepoError:
            told = (
                f"its owner lets in those who asked: accept the terms at {constants.ENDPOINT}/"
                f"{place.repository}, then {login}"
            )
        except utils.RepositoryNotFoundError:
            told = f"there is no such repository, or it is private: check the name, or {login}"
        except utils.RevisionNotFoundError:
            told = f"there is no revision {place.revision}; name a branch, tag or commit, or none"
        except utils.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)  # none where nothing answered
            told = f"the hub answered {status or _reason(error)}; "
            told += login if status in (401, 403) else "run the same command again later"
        except utils.OfflineModeIsEnabled:
            raise _Unreachable("the hub is not asked while HF_HUB_OFFLINE is set", "unset that") \
                from None  # fmt: skip
        except Exception as error:  # the client raises many kinds; the user needs one line
            if name is None:
                raise _Unreachable(
                    f"{constants.ENDPOINT} cannot be reached ({_reason(error)})",
                    f"check the network, or fetch {place.inside or 'the file'} elsewhere and "
                    "name that",
                ) from error
            told = (
                f"the download of {name} broke off ({_reason(error)}); run the same command again"
            )
        raise WeightsError(f"{place}: {told}") from None


class _Unreachable(Exception):
    """No answer, and what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice


def _cached(place: Place) -> Path | None:
    """The folder, in the client's cache, of what was fetched of that revision before."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=place.repository, repo_type="model")
    home = Path(constants.HF_HUB_CACHE) / name
    revision = place.revision or constants.DEFAULT_REVISION
    try:
        revision = (home / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        pass  # a commit
    folder = home / "snapshots" / revision
    return folder if folder.is_dir() else None


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
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"
