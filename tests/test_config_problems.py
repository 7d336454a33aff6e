"""Problems of a recipe are told once, at the place and by the name that its author wrote."""

import pytest

from earvae import recipes
from earvae.config import ConfigError, ModelConfig, ObjectiveConfig, TrainConfig, parse, read

RECIPE = """
model: {architecture: compact}
data:
  sources: [{tracks: music}]
  batch_size: 4
stages:
  - name: first
    steps: 1
  - name: second
    steps: 1
    data:
      batch_size: 2
  - name: third
    steps: 1
"""


def told(tmp_path, text: str, suffix: str = "yaml") -> list[str]:
    """The lines of the error that a recipe gives, without its folder."""
    path = tmp_path / f"r.{suffix}"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(TrainConfig, path)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_the_base_of_these_tests_is_valid(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert len(read(TrainConfig, tmp_path / "r.yaml").stages) == 3


def test_a_misspelt_key_of_a_shared_block_is_told_once_with_its_line_and_the_nearest_key(tmp_path):
    lines = told(tmp_path, RECIPE.replace("  batch_size: 4", "  batch_sise: 4"))
    assert lines == ["r.yaml:5: data.batch_sise: no such key; did you mean batch_size?"]


def test_a_wrong_value_is_told_of_the_block_that_holds_it(tmp_path):
    shared = told(tmp_path, RECIPE.replace("batch_size: 4", "batch_size: 0"))
    assert [line.split(": ")[:2] for line in shared] == [["r.yaml:5", "data.batch_size"]]
    own = told(tmp_path, RECIPE.replace("batch_size: 2", "batch_size: 0"))
    assert [line.split(": ")[:2] for line in own] == [["r.yaml:12", "stages.1.data.batch_size"]]


def test_a_check_of_a_whole_block_is_told_once_even_if_a_stage_adds_to_the_block(tmp_path):
    text = RECIPE.replace("  batch_size: 4", "  augmentation: {gain_db: [3, 1]}")
    text = text.replace("batch_size: 2", "augmentation: {mono: 0.5}")
    lines = told(tmp_path, text)
    assert lines == [
        "r.yaml:5: data.augmentation: gain_db: the first value must not exceed the second"
    ]


def test_what_all_stages_lack_is_told_once(tmp_path):
    lines = told(tmp_path, RECIPE.replace("  sources: [{tracks: music}]\n", ""))
    assert lines == ["r.yaml:3: data.sources: is needed"]
    lines = told(tmp_path, "stages: [{name: a, steps: 1}, {name: b, steps: 1}]\n")
    assert lines == ["r.yaml: data: is needed"]


BALANCED = (
    RECIPE
    + """
balance: {shares: {waveform: 1}}
objective:
  weights: {kl: 0.1, magnitude_log: 2, waveform: 3}
"""
)


def test_weights_beside_shares_are_refused_in_one_line(tmp_path):
    """They would do nothing; the KL's counts, for it has no share."""
    lines = told(tmp_path, BALANCED)
    assert lines == [
        "r.yaml:18: objective.weights: magnitude_log, waveform: of no effect beside `balance`, "
        "which has shares in place of weights; leave it out"
    ]
    adversarial = "    adversarial: {feature_matching: 9}\n"
    text = RECIPE + adversarial + "balance: {shares: {waveform: 1, feature_matching: 1}}\n"
    assert told(tmp_path, text) == [
        "r.yaml:15: stages.2.adversarial: feature_matching: of no effect beside `balance`, which "
        "has shares in place of weights; leave it out"
    ]


def test_null_takes_the_weights_of_what_is_extended_away(tmp_path):
    (tmp_path / "base.yaml").write_text(BALANCED.replace("balance:", "#"))
    (tmp_path / "r.yaml").write_text(
        "extends: base.yaml\nbalance: {shares: {waveform: 1}}\nobjective: {weights: null}\n"
    )
    config = read(TrainConfig, tmp_path / "r.yaml")
    assert config.stages[0].objective == ObjectiveConfig()
    assert parse(TrainConfig, config.model_dump(), "printed") == config


def test_the_choice_of_a_model_is_no_key(tmp_path):
    lines = told(tmp_path, RECIPE.replace("compact}", "compact, widht: 8}"))
    assert lines == ["r.yaml:2: model.widht: no such key; did you mean width?"]
    with pytest.raises(ConfigError, match="^m.json: width: "):
        parse(ModelConfig, {"architecture": "compact", "width": 0}, "m.json")
    lines = told(tmp_path, RECIPE.replace("architecture: compact", "width: 8"))
    assert lines == ["r.yaml:2: model: needs the key 'architecture'"]


def test_a_key_in_the_wrong_block_is_sent_to_its_own(tmp_path):
    lines = told(tmp_path, RECIPE + "learning_rate: 1.0e-3\ngain_db: [0, 1]\n")
    assert lines == [
        "r.yaml:15: learning_rate: no such key here; it belongs to optimiser",
        "r.yaml:16: gain_db: no such key here; it belongs to data.augmentation",
    ]


def test_a_key_like_no_other_gets_the_list_of_those_there_are(tmp_path):
    lines = told(tmp_path, RECIPE.replace("  batch_size: 4", "  zzz: 4"))
    assert lines[0].startswith("r.yaml:5: data.zzz: no such key; there are sources, ")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    lines = told(tmp_path, RECIPE + f"optimiser: {{learning_rate: {value}}}\n")
    assert lines == ["r.yaml:15: optimiser.learning_rate: Input should be a finite number"]
    lines = told(tmp_path, RECIPE + f"optimiser: {{betas: [0.5, {value}]}}\n")
    assert lines == ["r.yaml:15: optimiser.betas.1: Input should be a finite number"]


def test_problems_stand_in_the_order_of_the_file(tmp_path):
    lines = told(tmp_path, "seed: -1\n" + RECIPE.replace("batch_size: 4", "batch_size: x"))
    assert [line.split(": ")[0] for line in lines] == ["r.yaml:1", "r.yaml:6"]


def test_lines_of_json_are_told_too(tmp_path):
    lines = told(tmp_path, '{\n"seed": -1,\n"stages": []\n}\n', "json")
    assert [line.split(": ")[:2] for line in lines] == [["r.json:2", "seed"]]


def test_text_that_is_no_yaml_is_one_line_with_its_place(tmp_path):
    lines = told(tmp_path, "seed: 1\nstages: [a\nmodel: }\n")
    assert len(lines) == 1
    assert lines[0].startswith("r.yaml:3: not valid YAML: ")


# --------------------------------------------------------------------------- whole frames


def test_a_key_that_stands_twice_in_a_block_is_refused_where_it_stands_again(folder):
    """The first of its values would be lost in silence."""
    lines = problem_of(folder, "extends: base.yaml\nseed: 1\ndata: {workers: 0}\nseed: 2\n")
    assert lines == ["r.yaml:4: not valid YAML: seed stands there twice"]
    lines = problem_of(folder, "extends: base.yaml\ndata:\n  workers: 0\n  workers: 0\n")
    assert lines == ["r.yaml:4: not valid YAML: workers stands there twice"]
    merge = "extends: base.yaml\nstages:\n- &a {name: a, steps: 3}\n- {<<: *a, name: b}\n"
    assert [stage.name for stage in extending(folder, merge).stages] == ["a", "b"]


def test_a_crop_that_is_not_whole_frames_is_refused_with_the_sizes_next_to_it(tmp_path):
    layout = "model: {architecture: oobleck, strides: [2, 2, 4, 6, 10]}"
    text = RECIPE.replace("model: {architecture: compact}", layout)
    text = text.replace("batch_size: 4", "crop_samples: 72_000")
    text = text.replace("batch_size: 2", "crop_samples: 65_536")
    text += "validation: {sources: [{tracks: music}], crop_samples: 262_144}\n"
    assert told(tmp_path, text) == [
        "r.yaml:12: stages.1.data.crop_samples: 65536 is not a whole number of latent frames of "
        "960 samples; use 65280 or 66240",
        "r.yaml:15: validation.crop_samples: 262144 is not a whole number of latent frames of "
        "960 samples; use 262080 or 263040",
    ]


def test_a_crop_size_that_is_a_default_is_told_of_the_block_it_belongs_to(tmp_path):
    layout = "model: {architecture: oobleck, strides: [2, 2, 4, 6, 10]}"
    lines = told(tmp_path, RECIPE.replace("model: {architecture: compact}", layout))
    assert [line.split(": ")[1] for line in lines] == ["data.crop_samples"]


def test_a_crop_shorter_than_a_frame_is_told_the_one_size_above(tmp_path):
    lines = told(tmp_path, RECIPE.replace("batch_size: 4", "crop_samples: 500"))
    assert lines[0].endswith("latent frames of 1024 samples; use 1024")


# --------------------------------------------------------------------------- extends


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base.yaml").write_text(RECIPE)
    return tmp_path


def extending(folder, text: str, name: str = "r.yaml"):
    (folder / name).write_text(text)
    return read(TrainConfig, folder / name)


def problem_of(folder, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        extending(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_mappings_are_merged_at_every_depth_and_all_else_replaces(folder):
    config = extending(
        folder,
        "extends: base.yaml\nmodel: {width: 16}\ndata: {batch_size: 3, augmentation: {mono: 0.5}}\n"
        "stages: [{name: only, steps: 7}]\n",
    )
    assert (config.model.architecture, config.model.width) == ("compact", 16)
    assert [(s.name, s.steps, s.data.batch_size) for s in config.stages] == [("only", 7, 3)]
    assert config.stages[0].data.sources[0].tracks == "music"
    assert config.stages[0].data.augmentation.mono == 0.5


def test_null_takes_a_block_away(folder):
    (folder / "base.yaml").write_text(RECIPE + "balance: {shares: {waveform: 1}}\n")
    assert extending(folder, "extends: base.yaml\nbalance: null\n").stages[0].balance is None


def test_a_chain_is_followed_and_paths_are_relative_to_the_file_that_says_them(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "middle.json").write_text('{"extends": "../base.yaml", "seed": 5}')
    config = extending(folder, "extends: sub/middle.json\nema_decay: 0.5\n")
    assert (config.seed, config.ema_decay, len(config.stages)) == (5, 0.5, 3)


def test_a_shipped_recipe_is_extended_by_its_name(folder):
    config = extending(folder, "extends: compact\nseed: 99\n")
    base = read(TrainConfig, recipes.path_of("compact"))
    assert config == base.model_copy(update={"seed": 99})


def test_what_is_wrong_is_told_of_the_file_that_said_it(folder):
    text = "extends: base.yaml\nseed: -1\ndata: {batch_sise: 2}\n"
    assert [line.split(": ")[0] for line in problem_of(folder, text)] == ["r.yaml:2", "r.yaml:3"]
    (folder / "base.yaml").write_text(RECIPE.replace("batch_size: 4", "batch_size: 0"))
    lines = problem_of(folder, "extends: base.yaml\nseed: -1\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["r.yaml:2", "seed"], ["base.yaml:5", "data.batch_size"]
    ]  # fmt: skip
    lines = problem_of(folder, "extends: base.yaml\nstages:\n  - name: a\n    stepps: 3\n")
    assert lines == [
        "r.yaml:3: stages.0.steps: is needed",
        "r.yaml:4: stages.0.stepps: no such key; did you mean steps?",
        "base.yaml:5: data.batch_size: Input should be greater than or equal to 1",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "seed: 1\nextends: r.yaml\n",
            "r.yaml:2: extends: goes in a circle: r.yaml extends r.yaml",
        ),
        ("extends: gone.yaml\n", "r.yaml:1: extends: gone.yaml: no such file"),
        ("extends: 3\n", "r.yaml:1: extends: is the name of a recipe or the path of a file"),
        ("extend: base.yaml\n", "r.yaml:1: extend: no such key; did you mean extends?"),
    ],
)
def test_what_cannot_be_extended_is_one_line(folder, text, line):
    (only,) = [told for told in problem_of(folder, text) if told.startswith(line)]
    (folder / "other.yaml").write_text("extends: r.yaml\n")
    (only,) = problem_of(folder, "extends: other.yaml\n")
    assert only.startswith("other.yaml:1: extends: goes in a circle: r.yaml extends other.yaml ext")


def test_a_recipe_that_is_not_there_lists_those_that_are(folder):
    (line,) = problem_of(folder, "extends: compat\n")
    assert line.startswith("r.yaml:1: extends: no recipe 'compat'; did you mean compact? there are")


def test_a_misspelt_key_of_a_block_at_the_top_is_told_with_its_block(tmp_path):
    lines = told(tmp_path, RECIPE + "lerning_rate: 1\n")
    assert lines == ["r.yaml:15: lerning_rate: no such key; did you mean optimiser.learning_rate?"]


def test_an_architecture_that_is_not_there_is_told_with_those_that_are(tmp_path):
    [line] = told(tmp_path, RECIPE.replace("compact", "compactt"))
    assert line.startswith(
        "r.yaml:2: model: no architecture 'compactt'; did you mean compact? there are oobleck, "
    )
