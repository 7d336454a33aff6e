"""ONNX Runtime Web, the files of it that a page needs: from npm, or from a folder or archive."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from earvae.errors import EarvaeError
from earvae.regular import read_regular

VERSION = "1.30.0"
INTEGRITY = (  # of npm's archive
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
PACKAGE = f"onnxruntime-web@{VERSION}"
MOST_BYTES = 200_000_000
SECONDS = 600  # for npm

BACKENDS = {
    "wasm": {
        "module": "ort.wasm.min.mjs",
        "glue": "ort-wasm-simd-threaded.mjs",
        "wasm": "ort-wasm-simd-threaded.wasm",
    },
    "webgpu": {
        "module": "ort.webgpu.min.mjs",
        "glue": "ort-wasm-simd-threaded.asyncify.mjs",
        "wasm": "ort-wasm-simd-threaded.asyncify.wasm",
    },
}
"""Files by backend: what a script imports, what that imports, and the compiled code."""
FILES = sorted(name for files in BACKENDS.values() for name in files.values())


class RuntimeMissing(EarvaeError):
    """ONNX Runtime Web that cannot be had: no npm, no network, another file than it should be."""


@dataclass(frozen=True)
class Runtime:
    """Its version, and its files by name."""

    version: str
    files: dict[str, bytes]


def find(path: Path | None = None, tell: Callable[[str], None] = lambda line: None) -> Runtime:
    """The files of ``path``, or of VERSION from npm, whose integrity is checked.

    Args:
        path: the package's folder (such as ``node_modules/onnxruntime-web``) of any version that
            has these files, or the ``.tgz`` that ``npm pack`` left of VERSION.
        tell: is told when npm is asked.

    Raises RuntimeMissing, ReadError.
    """
    if path is None:
        return _from_npm(tell)
    return _from_folder(path) if path.is_dir() else _from_archive(path)


def _from_npm(tell: Callable[[str], None]) -> Runtime:
    npm = shutil.which("npm")
    advice = f"or give its files with --onnxruntime-web (`npm pack {PACKAGE}` on any machine)"
    if npm is None:
        raise RuntimeMissing(f"{PACKAGE} comes from npm, which is not installed; {advice}")
    tell(f"getting {PACKAGE} from npm")
    with tempfile.TemporaryDirectory(prefix="earvae-") as place:
        command = [
            npm,
            "pack",
            "--loglevel=error",
            "--fetch-retries=1",
            "--prefer-offline",
            "--pack-destination",
            place,
            PACKAGE,
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, cwd=place
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeMissing(f"{PACKAGE}: npm fails: {error}; {advice}") from None
        found = sorted(Path(place).glob("*.tgz"))
        if done.returncode or not found:
            lines = [line.removeprefix("npm error ") for line in done.stderr.splitlines()]
            reason = next((line for line in lines if "reason:" in line), (lines or ["no file"])[0])
            raise RuntimeMissing(f"{PACKAGE}: npm fails: {reason}; {advice}")
        return _from_archive(found[0])


def _from_archive(path: Path) -> Runtime:
    data = read_regular(path, MOST_BYTES)
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise RuntimeMissing(f"{path}: is not {PACKAGE} as npm has it; get it again")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        files = {}
        for member in archive:
            name = member.name.removeprefix("package/dist/")
            if name in FILES and (file := archive.extractfile(member)):
                files[name] = file.read()
    return Runtime(VERSION, files)


def _from_folder(path: Path) -> Runtime:
    place = path / "dist" if (path / "dist").is_dir() else path
    files = {name: read_regular(place / name, MOST_BYTES) for name in FILES}
    try:
        about = json.loads(read_regular(place.parent / "package.json", 1_000_000))
        version = str(about["version"])
    except (EarvaeError, ValueError, TypeError, KeyError):
        version = "of unknown version"
    return Runtime(version, files)
