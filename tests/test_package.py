"""The public surface, and what importing it costs."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import earvae


def test_every_public_name_can_be_imported():
    for name in earvae.__all__:
        assert getattr(earvae, name) is not None
    from earvae import EarVAE, metrics

    assert EarVAE.__name__ == "EarVAE"
    assert callable(metrics.si_sdr)
    assert set(earvae.__all__) <= set(dir(earvae))
    with pytest.raises(AttributeError, match="no attribute 'EarVEA'"):
        _ = earvae.EarVEA


def test_the_command_line_starts_without_torch():
    code = "import sys, earvae.cli.main; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_objective_and_metrics_do_not_import_the_model():
    code = (
        "import sys, earvae.objective, earvae.evaluation.metrics\n"
        "print([m for m in sys.modules if m.startswith('earvae.model')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_the_shipped_model_does_not_import_torchs_compiler():
    """torch._dynamo costs two seconds; an operation on the meta device can pull it in."""
    code = (
        "import sys, earvae\n"
        "earvae.EarVAE.from_pretrained()\n"
        "print([m for m in sys.modules if m.startswith('torch._dynamo')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def earvae_process(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "earvae", *words], capture_output=True, text=True, check=True,
        env=os.environ | environment,
    ).stdout  # fmt: skip


def test_the_package_is_a_command_whose_help_is_not_cut():
    assert earvae_process("--version") == f"earvae {earvae.__version__}\n"
    text = earvae_process("--help", COLUMNS="80", TERMINAL_WIDTH="80")
    assert ".." not in text.partition("Commands:")[2] and "to hear what it does." in text
    assert "--install-completion" in text and "--show-completion" in text


def test_a_shell_completes_verbs_and_options():
    asked = {"_EARVAE_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "earvae rec"}
    assert earvae_process(**asked).split() == ["reconstruct"]
    asked |= {"COMP_CWORD": "2", "COMP_WORDS": "earvae stats --wr"}
    assert earvae_process(**asked).split() == ["--write"]


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (Path(earvae.__file__).parent / "py.typed").is_file()
    typed = set(re.findall(r"\b(\w+)\b", inspect.getsource(earvae).split("__version__")[0]))
    assert set(earvae.__all__) <= typed  # those that TYPE_CHECKING imports
