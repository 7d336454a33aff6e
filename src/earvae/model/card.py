"""What a model's card says in short: the YAML at the head of ``MODEL_CARD.md`` or ``README.md``.

The form is that of model hubs: a block between two lines of three dashes, before the text.
"""

from __future__ import annotations

from pathlib import Path

import yaml

CARDS = ("MODEL_CARD.md", "README.md")


def essentials(folder: Path) -> dict[str, str | int | float | bool]:
    """Names and plain values of the card in a model's folder; none where there is no such head."""
    for name in CARDS:
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        head, mark, _ = text.removeprefix("---\n").partition("\n---\n")
        if not mark or not text.startswith("---\n"):
            continue
        try:
            values = yaml.safe_load(head)
        except yaml.YAMLError:
            continue
        if isinstance(values, dict):
            plain = (str, int, float, bool)
            return {str(k): v for k, v in values.items() if isinstance(v, plain)}
    return {}
