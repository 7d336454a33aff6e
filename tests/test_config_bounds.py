"""A configuration cannot ask for loops, arrays or text without end, however few bytes it has."""

import json

import pytest

from earvae.config import (
    CompactConfig,
    ConfigError,
    ModelConfig,
    OobleckConfig,
    TrainConfig,
    TransformerConfig,
    parse,
    read,
)
from earvae.config_files import LONGEST_YAML, read_yaml
from earvae.model.card import essentials
from tests.small import build, compact_config, oobleck_config, two_snakes


@pytest.mark.parametrize("value", [10**5 + 1, 10**9, 10**400, -1])
@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("compact", key)
        for key in CompactConfig.model_fields
        if CompactConfig.model_fields[key].annotation is int and key != "sample_rate"
    ]
    + [("oobleck", key) for key in ("channels", "latent_channels", "audio_channels")],
)
def test_every_number_of_a_model_has_bounds(architecture, key, value):
    with pytest.raises(ConfigError, match=rf"^m\.json: {key}: "):
        parse(ModelConfig, {"architecture": architecture, key: value}, "m.json")


@pytest.mark.parametrize(
    "values",
    [
        {"sample_rate": 1},
        {"sample_rate": 10**9},
        {"strides": [2] * 100_000, "multiples": [1] * 100_000},
        {"strides": [4000, 4000], "multiples": [1, 1]},
        {"strides": [], "multiples": []},
        {"strides": [-2], "multiples": [1]},
        {"transformer": {"depth": 10**9}},
        {"transformer": {"head_channels": 3}},
        {"channels": 65_536},
        {"architecture": "compact", "width": 65_535},
        {"architecture": "compact", "hop_length": 32_768, "short_length": 32_768},
        {"architecture": "compact", "hop_length": 32_768},
        {"architecture": "compact", "width": 7},
    ],
)
def test_what_no_machine_holds_is_refused_in_short(values):
    with pytest.raises(ConfigError) as caught:
        parse(ModelConfig, {"architecture": "oobleck"} | values, "m.json")
    assert all(line.startswith("m.json: ") for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    "config",
    [
        oobleck_config(),
        oobleck_config(channels=16, transformer=TransformerConfig(depth=3, head_channels=4)),
        compact_config(),
        compact_config(width=64, hop_length=512, short_length=8, decoder_blocks=0),
        two_snakes().config,
    ],
)
def test_the_size_of_a_model_is_known_before_it_is_built(config):
    state = build(config).state_dict(keep_vars=True)
    saved = sum({id(tensor): tensor.numel() for tensor in state.values()}.values())
    assert saved <= config.numbers <= 3 * saved


def test_the_papers_size_is_known_to_a_hundredth():
    assert abs(OobleckConfig().numbers / 147.83e6 - 1) < 0.01


# --------------------------------------------------------------------------- texts


def doubled(first: str, link: str, last: str) -> str:
    """A YAML text of forty lines, each of which says the one before twice."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {link.replace('@', f'*a{n - 1}')}" for n in range(1, 41)]
    return "\n".join([*lines, last])


@pytest.mark.parametrize(
    "text",
    [
        doubled("[x, x]", "[@, @]", "stages: *a40"),
        doubled("{a: 1}", "{a: @, b: @}", "data: *a40\nstages: [{name: x, data: *a40}]"),
        doubled("{a: 1}", "{<<: [@, @]}", "stages: *a40"),
        "stages: &s [*s]",
        "data: &d {sources: *d}\nstages: [{name: a, steps: 1, data: *d}]",
    ],
    ids=["lists", "mappings", "merges", "itself", "itself, in a mapping"],
)
def test_aliases_are_counted_before_they_are_followed(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match="r.yaml: its aliases stand for more than"):
        read(TrainConfig, tmp_path / "r.yaml")


@pytest.mark.parametrize(
    "text",
    ["[" * 1_500, "a: " + "- " * 5_000, "{a: " * 5_000, "? " * 5_000],
    ids=["lists", "items", "mappings", "keys"],
)
@pytest.mark.parametrize("name", ["r.yaml", "r.json"])
def test_depth_is_one_line(tmp_path, text, name):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name) as caught:
        read(TrainConfig, tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int ''",
        "a: !!float ''",
        "a: !!timestamp x",
        "a: 2001-99-99",
        "a: 1" + ":1" * 3_000 + ".0",
        "a: " + "9" * 5_000,
        "a: !!python/object/apply:os.system ['false']",
        "a: \x01",
        "a: 1\n---\nb: 2",
    ],
)
def test_odd_values_are_one_line(text):
    with pytest.raises(ConfigError, match=r"^r\.yaml(:\d+)?: not valid YAML: .+") as caught:
        read_yaml(text, "r.yaml")
    assert "\n" not in str(caught.value)


def test_a_text_that_is_too_long_is_not_looked_at(tmp_path):
    (tmp_path / "r.yaml").write_text("# " + "x" * LONGEST_YAML)
    with pytest.raises(ConfigError, match="too many for YAML"):
        read(TrainConfig, tmp_path / "r.yaml")


def test_a_recipe_may_use_aliases(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "data: {sources: [{tracks: m}]}\nx: &x {name: a, steps: 1}\nstages: [*x]\n"
    )
    with pytest.raises(ConfigError, match=r"r.yaml:2: x: no such key") as caught:
        read(TrainConfig, tmp_path / "r.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_a_mark_of_byte_order_is_no_part_of_a_text(tmp_path):
    text = "\ufeffdata: {sources: [{tracks: m}]}\nstages: [{name: a, steps: 1}]\n"
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    assert len(read(TrainConfig, tmp_path / "r.yaml").stages) == 1


@pytest.mark.parametrize("name", ["x" * 300, "loop", "folder", "a\x00b"])
def test_what_cannot_be_extended_is_told_where_it_is_said(tmp_path, name):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "r.json").write_text(json.dumps({"extends": f"{name}.yaml"}))
    with pytest.raises(ConfigError, match=r"r\.json:1: extends: .+\.yaml: "):
        read(TrainConfig, tmp_path / "r.json")


def test_of_very_many_problems_the_first_are_told():
    values = {"stages": [{"name": f"{n}", "steps": 0} for n in range(90)]}
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, values, "r")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[-1].startswith("r: and ")


def test_a_model_card_that_multiplies_has_nothing_to_say(tmp_path):
    text = doubled("{a: 1}", "{<<: [@, @]}", "title: x")
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    assert essentials(tmp_path) == {}
