"""Batches are on the device, their counts are not, and no run trains on nothing."""

import json

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from earvae.cli.main import app
from earvae.config import ConfigError, DataConfig
from earvae.training.crops import ATTEMPTS
from earvae.training.filters import DROP_REASONS
from earvae.training.loader import SourceWatch, make_batches, open_crops
from tests.small import RATE
from tests.small import white as noise
from tests.training.recipes import of_steps, start

CPU = torch.device("cpu")


@pytest.fixture
def places(tmp_path):
    """A folder of music, one of silence, one of which a tenth sounds."""
    for name in ("music", "silence", "mostly"):
        (tmp_path / name).mkdir()
    soundfile.write(tmp_path / "music" / "a.wav", noise(2), RATE)
    soundfile.write(tmp_path / "silence" / "b.wav", np.zeros((RATE, 2)), RATE)
    for number in range(19):
        soundfile.write(tmp_path / "mostly" / f"{number}.wav", np.zeros((RATE, 2)), RATE)
    soundfile.write(tmp_path / "mostly" / "sounds.wav", noise(1), RATE)
    return tmp_path


def crops_of(*folders, **options):
    options = {"crop_samples": 5000, "batch_size": 4, "workers": 0} | options
    return open_crops(
        DataConfig(sources=[{"tracks": str(f)} for f in folders], **options), RATE, CPU
    )


@pytest.mark.parametrize("cache", ["none", "ram", "device"])
def test_audio_is_on_the_device_and_counts_are_on_the_cpu(places, cache):
    """The meta device stands for one that numbers cannot be read from."""
    crops = crops_of(places / "music", cache=cache, augmentation={"swap_channels": 0.5})
    batch = next(make_batches(crops, 0, 4, torch.device("meta")))
    assert batch["audio"].device.type == "meta"
    assert batch["audio"].shape == (4, 2, 5000) and batch["audio"].dtype == torch.float32
    assert {batch[name].device.type for name in ("source", "dropped", "augmented")} == {"cpu"}


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_a_silent_source_ends_the_crops_with_its_name(places, cache):
    crops = crops_of(places / "music", places / "silence", cache=cache)
    with pytest.raises(ConfigError, match="silence: .*draws were refused .*silent") as caught:
        list(make_batches(crops, 0, 400, CPU))
    assert "\n" not in str(caught.value) and "music" not in str(caught.value).split("silence")[0]


def test_a_source_of_broken_files_ends_the_crops_with_its_name(places):
    (places / "music" / "m.jsonl").write_text(
        '{"file": "a.wav", "duration": 2000, "rate": 44100, "channels": 2}\n'
    )
    crops = crops_of(places / "music" / "m.jsonl")
    with pytest.raises(ConfigError, match=r"m\.jsonl: .*draws were refused \(\d+ broken\)"):
        list(make_batches(crops, 0, 400, CPU))


def test_a_source_of_which_nineteen_in_twenty_draws_are_silent_ends_the_crops(places):
    with pytest.raises(ConfigError, match="mostly: "):
        list(make_batches(crops_of(places / "mostly"), 0, 400, CPU))


def test_a_source_of_which_half_is_silent_does_not(places):
    soundfile.write(places / "silence" / "sounds.wav", noise(1), RATE)
    batches = list(make_batches(crops_of(places / "silence"), 0, 400, CPU))
    dropped = sum(int(batch["dropped"].sum()) for batch in batches)
    assert len(batches) == 100 and 300 < dropped < 500


def test_sources_are_judged_apart_and_only_by_enough_draws():
    """190 of 200 draws refused are too many, 19 of 20 tell too little; 0.9 is allowed."""

    def watched(*counts: tuple[int, int, int]) -> None:
        watch = SourceWatch(DataConfig(sources=[{"tracks": "one"}, {"tracks": "two"}]))
        for source, refused, crops in counts:
            dropped = torch.zeros(crops, len(DROP_REASONS), dtype=torch.int64)
            dropped[:, 1] = refused
            watch.noted({"source": torch.full((crops,), source), "dropped": dropped})

    watched((0, 19, 9), (1, 0, 200))  # 9 · 20 draws
    watched((0, 9, 100), (1, 0, 1))
    watched((0, ATTEMPTS, 2), (1, 0, 100))
    for refused, crops in ((19, 10), (ATTEMPTS, 3)):
        with pytest.raises(ConfigError, match="^two: "):
            watched((0, 0, 100), (1, refused, crops))


@pytest.mark.parametrize("crops_for_codes", [0, 8])
def test_a_run_on_silence_ends_with_status_1_and_one_line(
    recipe, places, tmp_path, crops_for_codes
):
    data = recipe["data"] | {"sources": [{"tracks": str(places / "silence")}]}
    recipe = recipe | {
        "data": data, "validation": None, "linear_code_crops": crops_for_codes
    }  # fmt: skip
    with pytest.raises(ConfigError, match="silence: .* draws were refused"):
        start(recipe, tmp_path / "run")
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    result = CliRunner().invoke(app, ["train", str(path), "--run", str(tmp_path / "run2")])
    assert result.exit_code == 1
    assert "silence" in result.stderr.strip().splitlines()[-1]


def test_a_run_may_go_on_with_another_cache(recipe, tmp_path):
    recipe = recipe | {"validation": None}
    assert start(of_steps(recipe, 2), tmp_path) == 0
    assert start(of_steps(recipe | {"data": recipe["data"] | {"cache": "ram"}}, 4), tmp_path) == 0
