"""What left earvae is told in one line that says what to do, wherever it is met."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from earvae import EarVAE, former, recipes
from earvae.audio import output_format
from earvae.cli.main import app
from earvae.config import ConfigError, ModelConfig, TrainConfig, parse, read
from earvae.errors import EarvaeError, WeightsError
from earvae.files import decode_file, encode_file
from earvae.latents import file
from earvae.latents.file import LatentsError
from earvae.training import checkpoint
from tests.small import compact, white
from tests.training.music import save

RECIPE = """
model: {architecture: spectral, linear_classes: 9}
data: {sources: [{tracks: music}]}
stages: [{name: a, steps: 1}]
"""


def assert_told(error: EarvaeError, place: str) -> None:
    assert str(error).count("\n") == 0 and str(error).startswith(place)
    assert str(error).endswith(former.GONE)


@pytest.fixture
def folder(tmp_path):
    """A model of before, as save_pretrained left it."""
    compact().save_pretrained(tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    values = {"architecture": "spectral", "latent_channels": 64, "linear_classes": 144}
    path.write_text(json.dumps(values))
    return tmp_path / "old"


def test_its_weights(folder):
    with pytest.raises(WeightsError) as caught:
        EarVAE.from_pretrained(folder)
    assert_told(caught.value, f"{folder / 'config.json'}: ")


def test_its_weights_on_the_command_line(folder, tmp_path):
    save(tmp_path / "a.wav", white(0.1))
    for command in (
        ["info", folder],
        ["reconstruct", tmp_path / "a.wav", "-o", tmp_path / "b.wav", "--weights", folder],
        ["train", "--data", tmp_path, "--weights", folder, "--run", tmp_path / "run"],
        ["encode", tmp_path / "a.wav", "-o", tmp_path / "a.safetensors", "--weights", folder],
    ):
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 1, command
        assert former.GONE in result.stderr.strip().splitlines()[-1]


def test_its_configuration(tmp_path):
    with pytest.raises(ConfigError) as caught:
        parse(ModelConfig, {"architecture": "spectral"}, "m.json")
    assert_told(caught.value, "m.json: ")
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(ConfigError) as caught:
        read(TrainConfig, tmp_path / "r.yaml")
    assert_told(caught.value, f"{tmp_path / 'r.yaml'}:2: model: ")


def test_its_recipe_by_name_and_as_what_another_extends(tmp_path):
    with pytest.raises(ConfigError) as caught:
        recipes.path_of("spectral")
    assert_told(caught.value, "no recipe 'spectral': ")
    (tmp_path / "r.yaml").write_text("extends: spectral\n")
    with pytest.raises(ConfigError, match="r.yaml:1: extends: no recipe 'spectral': the archi"):
        read(TrainConfig, tmp_path / "r.yaml")


def test_latents_of_the_model_that_shipped(tmp_path):
    vae = compact()
    save(tmp_path / "a.wav", white(0.2))
    path = tmp_path / "a.safetensors"
    encode_file(vae, tmp_path / "a.wav", path)
    latents = file.read(path)
    file.write(path, replace(latents, metadata=replace(latents.metadata, model=former.SHIPPED)))
    with pytest.raises(LatentsError) as caught:
        decode_file(vae, path, tmp_path / "b.wav", output_format(".wav"))
    assert_told(caught.value, f"{path}: was encoded by the former shipped model: ")


def test_a_checkpoint_of_before_is_read_without_the_options_that_went(tmp_path):
    data = {"sources": [{"tracks": "music"}], "crop_samples": 640}
    model = compact().config
    config = TrainConfig(model=model, data=data, stages=[{"name": "a", "steps": 1}])
    values = config.model_dump(mode="json")
    values["linear_code_top_hz"] = 4000.0
    values["discriminator"] |= {"tile": None, "lowest": 0.0}
    state = compact().state_dict()
    content = {
        "config": json.dumps(values), "vae": state, "ema": state, "optimiser": {"state": {}},
        "step": 0, "counters": {},
    }  # fmt: skip
    torch.save(content, tmp_path / checkpoint.CHECKPOINT)
    assert checkpoint.read(tmp_path).config == config
    values["model"] = {"architecture": "spectral"}
    torch.save(content | {"config": json.dumps(values)}, tmp_path / checkpoint.CHECKPOINT)
    with pytest.raises(ConfigError) as caught:
        checkpoint.read(tmp_path)
    assert_told(caught.value, f"{tmp_path / checkpoint.CHECKPOINT}: its configuration: model: ")
