"""A recipe that trains in a moment."""

import copy

import numpy as np
import pytest
import soundfile

from tests.small import white as noise
from tests.training.music import save
from tests.training.recipes import ADVERSARIAL, MODEL


@pytest.fixture
def folder(tmp_path):
    """Three files of noise: of another rate, mono and in a folder below among them."""
    save(tmp_path / "a.wav", noise(2, seed=1))
    save(tmp_path / "b.flac", noise(1, 1, 48_000, seed=2), 48_000)
    save(tmp_path / "sub" / "c.ogg", noise(3, seed=3))
    return tmp_path


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Two short pieces of decaying tones over noise."""
    folder = tmp_path_factory.mktemp("music")
    random = np.random.default_rng(0)
    time = np.arange(2 * 44_100) / 44_100
    for index in range(2):
        tones = sum(np.sin(2 * np.pi * f * time) for f in random.uniform(80, 4000, 5)) * 0.05
        audio = (tones * np.exp(-3 * (time % 0.5)))[:, None] + 0.01 * random.standard_normal(
            (len(time), 2)
        )
        soundfile.write(folder / f"{index}.wav", audio, 44_100, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def whole_recipe(music) -> dict:
    """One generator-only stage of six steps."""
    data = {
        "sources": [{"tracks": str(music)}],
        "crop_samples": 128 * 24, "batch_size": 2, "workers": 0,
    }  # fmt: skip
    return {
        "model": MODEL,
        "objective": {"resolutions": [256, 128, 64], "resolutions_per_step": 1},
        "discriminator": {"resolutions": [256, 64], "channels": 2, "resolutions_per_step": 1},
        "data": data,
        "validation": data,
        "validation_items": 2,
        "linear_code_crops": 8,
        "stages": [{"name": "warm-up", "steps": 6}],
        "log_every": 1,
        "validate_every": 6,
        "checkpoint_every": 6,
        "optimiser": {"warmup_steps": 2},
    }


@pytest.fixture(scope="module")
def staged_recipe(whole_recipe) -> dict:
    """Warm-up, an adversarial stage that begins with the discriminator alone, a continuation."""
    return whole_recipe | {
        "validation": None,
        "stages": [
            {"name": "warm-up", "steps": 3},
            {"name": "adversarial", "steps": 5, "adversarial": ADVERSARIAL},
            {
                "name": "continuation", "steps": 2, "accumulate": 2,
                "adversarial": ADVERSARIAL | {"discriminator_only_steps": 0},
                "optimiser": {"learning_rate": 1e-4},
            },
        ],
    }  # fmt: skip


@pytest.fixture
def recipe(whole_recipe) -> dict:
    """A test's own copy of ``whole_recipe``."""
    return copy.deepcopy(whole_recipe)


@pytest.fixture
def staged(staged_recipe) -> dict:
    """A test's own copy of ``staged_recipe``."""
    return copy.deepcopy(staged_recipe)
