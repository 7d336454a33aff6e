"""What a model's card says in short: the YAML at the head of ``MODEL_CARD.md`` or ``README.md``.

The form is that of model hubs: a block between two lines of three dashes, before the text.
"""

from __future__ import annotations

from pathlib import Path

from earvae.config_files import read_yaml
from earvae.errors import ConfigError
from earvae.regular import ReadError, read_regular

CARDS = ("MODEL_CARD.md", "README.md")
LONGEST = 2**20  # bytes


def essentials(folder: Path) -> dict[str, str | int | float | bool]:
    """Names and plain values of the card in a model's folder; none where there is no such head."""
    for name in CARDS:
        try:
            text = read_regular(folder / name, LONGEST).decode("utf-8")
        except (ReadError, UnicodeDecodeError):
            continue
        head, mark, _ = text.removeprefix("---\n").partition("\n---\n")
        if not mark or not text.startswith("---\n"):
            continue
        try:
            values, _ = read_yaml(head, name)
        except ConfigError:
            continue
        if isinstance(values, dict):
            plain = (str, int, float, bool)
            return {str(k): v for k, v in values.items() if isinstance(v, plain)}
    return {}
