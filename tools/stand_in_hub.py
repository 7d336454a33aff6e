"""A stand-in for the Hugging Face hub on this machine: the file routes, over a folder.

    python tools/stand_in_hub.py REPOSITORIES earvae info ear-vae-44k
    python tools/stand_in_hub.py --fault broken_off REPOSITORIES earvae info ear-vae-44k

REPOSITORIES holds ``owner/name/`` folders. The command is run with the hub's address and a cache
beside REPOSITORIES in its environment; without one, they are printed, and served until Ctrl-C.
Every revision that is asked for is the folder as it is, under one commit, but for ``unknown``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = (".safetensors", ".pyt", ".pt", ".pth", ".bin", ".ckpt")  # kept by their SHA-256


@dataclass
class Faults:
    """What a hub may do wrong."""

    gated: bool = False  # metadata for all, files for none
    login: str | None = None  # without this token there is nothing to be found
    busy: bool = False  # 503 for everything
    wrong_bytes: bool = False  # of the right length
    broken_off: bool = False  # the connection ends half-way through a file, every time


@dataclass
class StandInHub:
    """A server of ``folder``; ``with StandInHub(folder) as hub`` runs it on ``hub.endpoint``.

    Attributes:
        asked: method and path of every request, in order.
    """

    folder: Path
    faults: Faults = field(default_factory=Faults)
    commit: str = "0123456789abcdef" + "0" * 24
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def fetched(self) -> list[str]:
        """The files whose contents were asked for, once each, in order."""
        got = [path.split("/resolve/")[1].split("/", 1)[1] for method, path in self.asked
               if method == "GET" and "/resolve/" in path]  # fmt: skip
        return list(dict.fromkeys(got))

    def __enter__(self) -> StandInHub:
        threading.Thread(target=lambda: self.server.serve_forever(0.02), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._serve()

        def do_GET(self) -> None:
            self._serve()

        def log_message(self, *_: object) -> None: ...

        def _serve(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path))
            if hub.faults.busy:
                return self._refuse(503, None)
            if hub.faults.login not in (None, self._token()):
                return self._refuse(401, "RepoNotFound")
            listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            route = listing or file
            if route is None or not (hub.folder / route[1]).is_dir():
                return self._refuse(401 if self._token() is None else 404, "RepoNotFound")
            if route[2] == "unknown":
                return self._refuse(404, "RevisionNotFound")
            return self._listing(route[1]) if listing else self._file(route[1], route[3])

        def _token(self) -> str | None:
            return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

        def _listing(self, repository: str) -> None:
            folder = hub.folder / repository
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            siblings = [_described(path, path.relative_to(folder).as_posix()) for path in files]
            body = {"id": repository, "sha": hub.commit, "siblings": siblings}
            self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _file(self, repository: str, name: str) -> None:
            path = hub.folder / repository / name
            if not path.is_file():
                return self._refuse(404, "EntryNotFound")
            if hub.faults.gated:
                return self._refuse(401 if self._token() is None else 403, "GatedRepo")
            data, about = path.read_bytes(), _described(path, name)
            if hub.faults.wrong_bytes and "lfs" in about:
                data = data[:-1] + bytes([data[-1] ^ 1])
            etag = about["lfs"]["sha256"] if "lfs" in about else about["blobId"]
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
            status, start = 200, 0
            if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                status, start = 206, int(asked[1])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            cut = len(data) // 2 if hub.faults.broken_off and "lfs" in about else None
            self._answer(status, data[start:], headers, cut)

        def _refuse(self, status: int, code: str | None) -> None:
            self._answer(status, b"{}", {"X-Error-Code": code} if code else {})

        def _answer(self, status: int, body: bytes, headers: dict, cut: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler


def _described(path: Path, name: str) -> dict:
    """A file as the hub lists it."""
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    about = {"rfilename": name, "size": len(data), "blobId": blob}
    if path.suffix in LARGE:
        digest = hashlib.sha256(data).hexdigest()
        about["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
    return about


def main() -> int:
    """Serve while the command runs, or until Ctrl-C; the command's status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="REPOSITORIES")
    parser.add_argument("--fault", choices=[field.name for field in fields(Faults)], default=None)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    cache = given.folder.resolve().with_name(given.folder.name + "_cache")
    with StandInHub(given.folder) as hub:
        if given.fault:
            setattr(hub.faults, given.fault, True)
        # A cache of its own: what comes from here must not be taken for what the hub has.
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(cache)}
        if given.command:
            return subprocess.call(given.command, env=os.environ | settings)
        print(*(f"export {name}={value}" for name, value in settings.items()), sep="\n", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
