"""A recipe that trains in a moment."""

import numpy as np
import pytest
import soundfile

MODEL = {
    "architecture": "spectral", "hop_length": 128, "mdct_length": 64, "latent_channels": 8,
    "linear_channels": 5, "width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "level_frames": 3,
}  # fmt: skip


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


@pytest.fixture
def recipe(music):
    data = {"tracks": str(music), "crop_samples": 128 * 24, "batch_size": 2, "workers": 0}
    return {
        "model": MODEL,
        "objective": {"resolutions": [256, 128, 64], "resolutions_per_step": 1},
        "data": data,
        "validation": data,
        "validation_items": 2,
        "linear_code_crops": 8,
        "steps": 6,
        "log_every": 1,
        "validate_every": 6,
        "checkpoint_every": 6,
        "optimiser": {"warmup_steps": 2},
    }
