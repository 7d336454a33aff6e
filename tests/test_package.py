"""The public surface, and what importing it costs."""

import subprocess
import sys

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
