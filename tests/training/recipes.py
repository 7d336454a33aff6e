"""Parts of recipes that train in a moment, and what tests do with runs."""

import os
import signal

import torch

from earvae.config import TrainConfig
from earvae.training import train as training
from earvae.training.checkpoint import CHECKPOINT
from earvae.training.set_up import initial_model

MODEL = {
    "architecture": "compact", "hop_length": 128, "short_length": 32, "latent_channels": 8,
    "width": 16, "encoder_blocks": 1, "decoder_blocks": 1,
}  # fmt: skip
ADVERSARIAL = {
    "discriminator_only_steps": 2,
    "optimiser": {"warmup_steps": 0, "learning_rate": 1e-3},
}


def from_a_saved_start(recipe: dict, folder) -> dict:
    """The recipe, starting from a saved model. Without one, every run fits the linear start itself,
    and another number of threads can round its values differently."""
    initial_model(TrainConfig(**recipe)).save_pretrained(folder)
    return recipe | {"initial_weights": str(folder)}


def of_steps(recipe: dict, steps: int) -> dict:
    """The recipe with a single stage of so many steps."""
    return recipe | {"stages": [recipe["stages"][0] | {"steps": steps}]}


def start(recipe: dict, folder) -> int:
    """Train on the CPU; the exit status."""
    return training.train(TrainConfig(**recipe), folder, accelerator="cpu")


def state_of(folder) -> dict:
    return torch.load(folder / CHECKPOINT, weights_only=True)


def assert_identical(one, other) -> None:
    """Bit for bit, at any depth."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    else:
        assert one == other


def interrupt_at(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send a signal to this process during the given step of the next run."""
    original = training.train_step
    calls = []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(training, "train_step", interrupted)


def assert_same_weights(ours, theirs) -> None:
    """Equal to 3e-5, but for one in a thousand: Adam makes a whole step of a gradient that is all
    rounding, as those of inputs that cancel over a batch are."""
    assert ours.keys() == theirs.keys()
    both = [(ours[name].double(), theirs[name].double()) for name in ours]
    distances = torch.cat([(a - b).abs().flatten() for a, b in both])
    assert distances.max() < 1e-2
    assert (distances > 3e-5).double().mean() < 1e-3
