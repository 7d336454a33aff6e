"""The how-tos of docs/extend.md, followed word for word in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def steps(section: str) -> dict[str, list[str]]:
    """Python blocks of a section of the page, in order, by the file that they are for."""
    page = (ROOT / "docs" / "extend.md").read_text("utf-8")
    text = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)[1]
    found: dict[str, list[str]] = {}
    for step in re.split(r"^\*\*\d\.\*\* ", text, flags=re.MULTILINE)[1:]:
        path = re.match(r"`((?:src|tests)/[\w./]+)`", step)
        if path:
            found[path[1]] = re.findall(r"^```python\n(.*?)^```$", step, re.DOTALL | re.MULTILINE)
    return found


class Copy:
    """The package and a folder of tests, to be changed as the page says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "weights")
        )

    def write(self, path: str, text: str) -> None:
        assert not (self.folder / path).exists()
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, "utf-8")

    def change(self, path: str, pattern: str, replacement: str) -> None:
        """Replace the one place that matches; a page that fell behind the code fails here."""
        text = (self.folder / path).read_text("utf-8")
        flags = re.DOTALL | re.MULTILINE
        changed, places = re.subn(
            pattern, lambda match: match.expand(replacement), text, flags=flags
        )
        assert places == 1, f"{path}: {places} places are like {pattern}"
        (self.folder / path).write_text(changed, "utf-8")

    def add_import(self, path: str, line: str) -> None:
        self.change(path, r"\A(.*?)^from earvae", rf"\1{line}from earvae")


@pytest.mark.long
def test_a_metric_a_loss_term_and_a_weight_format_are_added_as_the_page_says(tmp_path):
    copy = Copy(tmp_path)
    for section, path, add in (
        ("A metric", "src/earvae/evaluation/figures.py", r"(^FIGURES: .*?)(^\)  # fmt: skip)"),
        ("A loss term", "src/earvae/objective/terms.py", r"(^SPECTRA.*?)(^\}|\}$)"),
    ):
        blocks = steps(section)
        line, entry = blocks.pop(path)
        copy.add_import(path, line)
        copy.change(path, add, rf"\1{entry}\2")
        if weight := blocks.pop("src/earvae/config.py", None):
            copy.change("src/earvae/config.py", r"(    kl: Factor = )", rf"{weight[0]}\1")
        for new, (text,) in blocks.items():
            copy.write(new, text)
    blocks = steps("A weight format")
    line, chain = blocks.pop("src/earvae/model/pretrained.py")
    copy.change("src/earvae/model/pretrained.py", "^from earvae.model import diffusers.*?\n", line)
    copy.change("src/earvae/model/pretrained.py", r"^    return \(\n.*?^    \)\n", chain)
    for new, (text,) in blocks.items():
        copy.write(new, text)

    tests = [*tmp_path.glob("tests/**/test_*.py")]
    assert len(tests) == 3
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"10 passed", done.stdout), done.stdout
