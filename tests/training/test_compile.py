"""Compiled networks settle: after the first steps nothing is compiled again."""

from functools import partial

import pytest
import torch

from earvae.training import train as training
from tests.training.recipes import start


@pytest.fixture
def traced(monkeypatch):
    """torch.compile as it is up to the code it would make: all that decides what is compiled."""
    for name in ("compile",):
        monkeypatch.setattr(torch, name, partial(torch.compile, backend="eager"))
    monkeypatch.setattr(
        torch.nn.Module, "compile",
        lambda self, **options: setattr(self, "_compiled_call_impl",
                                        torch.compile(self._call_impl, **options)),
    )  # fmt: skip
    torch._dynamo.reset()
    # too many variants of one code are otherwise left uncompiled without a word
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, error_on_recompile=False):
        yield
    torch._dynamo.reset()


def test_nothing_is_compiled_again_once_every_scale_was_drawn(
    traced, recipe, tmp_path, monkeypatch
):
    """The discriminator learns and teaches by turns, at two of its three scales, in another order
    at every step, on another stretch of the crops."""
    recipe |= {
        "compile": True, "validation": None, "linear_code_crops": 0,
        "discriminator": {
            "resolutions": [256, 128, 64], "channels": 2, "resolutions_per_step": 2,
            "crop_samples": 1024,
        },
        "stages": [
            {"name": "both", "steps": 14, "adversarial": {"discriminator_only_steps": 1}}
        ],
    }  # fmt: skip
    step = training.train_step
    done = []

    def watched(*arguments):
        done.append(None)
        torch._dynamo.config.error_on_recompile = len(done) > 8
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", watched)
    assert start(recipe, tmp_path) == 0
    assert len(done) == 14
