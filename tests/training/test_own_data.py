"""A recipe on other music than its own, and what is held out of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earvae import EarVAE, recipes
from earvae.config import ConfigError, SourceConfig, TrainConfig, read
from earvae.training.own_data import with_data
from earvae.training.set_up import with_model
from earvae.training.sources import list_tracks
from tests.small import GOLDEN


def songs(folder, count: int, seconds: float = 0.2):
    folder.mkdir(parents=True, exist_ok=True)
    audio = 0.1 * np.random.default_rng(0).standard_normal((int(44_100 * seconds), 2))
    for number in range(count):
        soundfile.write(folder / f"song {number}.wav", audio, 44_100)
    return folder


def names(source: SourceConfig) -> set[str]:
    return {track.path.name for track in list_tracks(source)[0]}


@pytest.fixture
def tiny(recipe) -> TrainConfig:
    return TrainConfig(**recipe)


def test_every_stage_trains_on_the_folder_and_validates_on_what_is_held_out_of_it(tmp_path, staged):
    folder = songs(tmp_path / "music", 12)
    config, line = with_data(TrainConfig(**staged | {"validation": staged["data"]}), [str(folder)])
    assert line == "validation on tracks kept out of training"
    trained = [names(source) for stage in config.stages for source in stage.data.sources]
    kept_out = names(config.validation.sources[0])
    assert len(trained) == 3 and trained[0] == trained[1] == trained[2]
    assert kept_out and not kept_out & trained[0]
    assert kept_out | trained[0] == {path.name for path in folder.iterdir()}
    assert config.stages[1].adversarial.discriminator_only_steps == 2  # and the rest stays


def test_a_folder_of_short_songs_beside_one_of_long_ones_is_not_validated_on(tmp_path, tiny):
    long, short = songs(tmp_path / "long", 6, 0.2), songs(tmp_path / "short", 6, 0.05)
    config, _ = with_data(tiny, [str(long), str(short)])
    crop = config.validation.crop_samples
    assert [Path(source.tracks).name for source in config.validation.sources] == ["long"]
    assert 0.05 * 44_100 < crop <= 0.2 * 44_100


def test_of_fewer_than_five_songs_none_is_held_out_and_that_is_said(tmp_path, tiny):
    folder = songs(tmp_path / "music", 4)
    config, line = with_data(tiny, [str(folder)])
    assert config.validation is None
    assert line == "no validation: a folder of fewer than 5 tracks is trained on whole"
    assert len(names(config.stages[0].data.sources[0])) == 4


def test_a_manifest_keeps_its_own_splits(tmp_path, tiny):
    songs(tmp_path, 6)
    lines = [
        {"file": f"song {n}.wav", "split": ("train", "validation", "test")[n // 2]}
        for n in range(6)
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config, _ = with_data(tiny, [str(manifest)])
    assert names(config.stages[0].data.sources[0]) == {"song 0.wav", "song 1.wav"}
    assert names(config.validation.sources[0]) == {"song 2.wav", "song 3.wav"}
    manifest.write_text('{"file": "song 0.wav"}\n')
    config, line = with_data(tiny, [str(manifest)])
    assert names(config.stages[0].data.sources[0]) == {"song 0.wav"}
    assert config.validation is None and line.startswith("no validation: only folders")


def test_crops_to_validate_on_are_no_longer_than_the_songs(tmp_path, tiny):
    folder = songs(tmp_path / "music", 6, seconds=0.2)  # 8820 samples
    long = tiny.validation.model_copy(update={"crop_samples": 128 * 100})
    config, _ = with_data(tiny.model_copy(update={"validation": long}), [str(folder)])
    assert config.validation.crop_samples == tiny.stages[0].data.crop_samples
    short = songs(tmp_path / "effects", 6, seconds=0.05)  # 2205, and a crop is 3072
    config, line = with_data(tiny, [str(short)])
    assert config.validation is None and "as long as a crop" in line


def test_several_folders_are_all_trained_on(tmp_path, tiny):
    places = [str(songs(tmp_path / name, count)) for name, count in (("a", 2), ("b", 7))]
    config, _ = with_data(tiny, places)
    assert [source.tracks for source in config.stages[0].data.sources] == places
    assert [source.tracks for source in config.validation.sources] == places[1:]


def test_a_recipe_without_validation_trains_on_the_whole_folder(tmp_path, tiny):
    folder = songs(tmp_path / "music", 6)
    config, line = with_data(tiny.model_copy(update={"validation": None}), [str(folder)])
    assert len(names(config.stages[0].data.sources[0])) == 6
    assert line == "this recipe has no validation"


def test_a_folder_without_music_is_named(tmp_path, tiny):
    with pytest.raises(ConfigError, match=f"{tmp_path}: holds no audio files"):
        with_data(tiny, [str(tmp_path)])


@pytest.mark.parametrize("name", recipes.names())
def test_every_packaged_recipe_takes_a_folder(tmp_path, name):
    folder = songs(tmp_path / "music", 5)
    config, _ = with_data(read(TrainConfig, recipes.path_of(name)), [str(folder)])
    assert {s.tracks for stage in config.stages for s in stage.data.sources} == {str(folder)}


@pytest.mark.parametrize("weights", ["tiny44k", "tiny48k_v2"])
def test_the_recipe_for_published_weights_takes_the_model_of_any(weights):
    config = read(TrainConfig, recipes.path_of("finetune_published"))
    assert config.model is None
    path = str(GOLDEN / f"{weights}_state_dict.safetensors")
    config = with_model(config.model_copy(update={"initial_weights": path}))
    assert config.model == EarVAE.from_pretrained(path).config


def test_weights_without_a_likelihood_are_sent_to_another_recipe():
    path = str(GOLDEN / "tiny44k_state_dict.safetensors")
    config = read(TrainConfig, recipes.path_of("finetune"))
    with pytest.raises(ConfigError, match="oobleck: .* --recipe finetune_published"):
        with_model(config.model_copy(update={"initial_weights": path}))


def test_the_shipped_weights_tell_the_shipped_model():
    config = with_model(read(TrainConfig, recipes.path_of("finetune")))
    assert config.model == EarVAE.from_pretrained().config.without_statistics()


def test_crops_that_do_not_fit_the_model_of_the_weights_are_refused(recipe):
    path = str(GOLDEN / "tiny48k_v2_state_dict.safetensors")
    config = TrainConfig(**recipe | {"initial_weights": path, "model": None})
    with pytest.raises(
        ConfigError, match="stages.0.data.crop_samples: 3072 is not .* 2880 or 3840"
    ):
        with_model(config)
