"""Programs of one file: complete, of little more than they use, and free of this package."""

from __future__ import annotations

import ast
import sys

import pytest

from earvae.export import standalone
from earvae.export.standalone import standalone as text_of

ALLOWED = {"numpy", "onnxruntime", "soundfile"}
OPTIONAL = {"av", "soxr"}  # for more containers, and for other rates


def imported(text: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    names = {alias.name for node in nodes for alias in node.names}
    froms = {n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
    return {name.split(".")[0] for name in names | froms}


def test_the_runner_needs_what_it_says_and_nothing_else():
    found = imported(text_of("earvae.export.runner")) - sys.stdlib_module_names
    assert found == ALLOWED | OPTIONAL


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The names of a program whose package consists of these modules."""

    def run(**modules: str) -> dict:
        for name, text in modules.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'"""Of {name}."""\n\nfrom __future__ import annotations\n\n{text}\n')
        monkeypatch.setattr(standalone, "SOURCE", tmp_path)
        names: dict = {"__name__": "alone"}
        exec(compile(text_of("earvae.main"), "main.py", "exec"), names)
        return names

    return run


def test_equal_names_of_two_modules_do_not_meet(program):
    names = program(
        a="def own():\n    return 'a'\n\n\ndef both():\n    return own()",
        b="from earvae.a import both as other\n\n\ndef own():\n    return 'b' + other()",
        main="from earvae import a\nfrom earvae.b import own\n\nfound = own() + a.own()",
    )
    assert names["found"] == "baa"


def test_only_what_is_used_goes_along(program):
    names = program(
        a='import torch\n\nUSED = 1\n"""Of this much."""\n\n\ndef unused() -> torch.Tensor:\n'
        "    return torch.ones(UNUSED)\n\n\nUNUSED = 2",
        main="from earvae.a import USED\n\n\ndef f(of: unused):\n    return USED",
    )
    assert vars(names["earvae_a"]) == {"USED": 1}
    assert names["f"](0) == 1


def test_a_module_that_is_a_value_goes_along_whole(program):
    names = program(
        kinds__a="def name():\n    return 'a'",
        kinds__b="def name():\n    return 'b'",
        main="from earvae.kinds import a, b\n\nfound = [kind.name() for kind in (a, b)]",
    )
    assert names["found"] == ["a", "b"]


def test_what_is_not_there_is_named(program):
    with pytest.raises(KeyError, match=r"earvae\.a defines no b"):
        program(a="c = 1", main="from earvae.a import b\n\nb()")
