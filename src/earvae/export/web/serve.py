"""A server of one folder for this machine, with the headers that give a page threads."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from earvae.export.web import ISOLATION, POLICY

PORT = 8000


class Handler(SimpleHTTPRequestHandler):
    """Files, with their types as browsers want them whatever the system's table says."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        ".css": "text/css",
        ".html": "text/html; charset=utf-8",
    }

    def end_headers(self) -> None:
        """Add what goes with every answer."""
        headers = ISOLATION | {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        for name, value in headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing: a page asks for twenty files."""


def server(folder: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server that only this machine reaches, at ``port`` or, where that is taken, at any.

    Its ``server_port`` says which; ``serve_forever()`` starts it.
    """
    handler = partial(Handler, directory=str(folder))
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)
