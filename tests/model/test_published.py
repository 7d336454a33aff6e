"""Published checkpoints: every form they come in loads, everything else is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from earvae.config import OobleckConfig
from earvae.errors import WeightsError
from earvae.model.vae import EarVAE
from tests.small import GOLDEN


def load(
    path: Path, config: Path | None = None, sample_rate: int | None = None
) -> tuple[OobleckConfig, dict[str, Tensor]]:
    vae = EarVAE.from_pretrained(path, sample_rate, config)
    return vae.config, vae.state_dict()


def weights_of(name: str) -> Path:
    return GOLDEN / f"{name}_state_dict.safetensors"


def config_of(name: str) -> Path:
    return GOLDEN / f"{name}_config.json"


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def edited_config(folder: Path, name: str, edit) -> Path:
    values = json.loads(config_of(name).read_text())
    edit(values)
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def state() -> dict[str, Tensor]:
    return load_file(weights_of("tiny44k"))


def assert_loads_as_golden(path: Path, name: str = "tiny44k", **arguments) -> None:
    config, state = load(path, **arguments)
    golden_config, golden = load(weights_of(name))
    assert config == golden_config
    assert state.keys() == golden.keys()
    for key, tensor in golden.items():
        torch.testing.assert_close(state[key], tensor, rtol=1e-6, atol=1e-7)


# --------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("name", "rate", "strides", "depth"),
    [
        ("tiny44k", 44_100, (2, 4, 4, 4, 8), 2),
        ("tiny44k_no_transformer", 44_100, (2, 4, 4, 4, 8), None),
        ("tiny48k", 48_000, (2, 4, 4, 5, 6), 2),
        ("tiny48k_v2", 48_000, (2, 2, 4, 6, 10), None),  # the layout that was published
    ],
)
def test_architecture_is_read_off_the_shapes(name, rate, strides, depth):
    config, _ = load(weights_of(name))
    assert (config.sample_rate, config.strides, config.channels) == (rate, strides, 4)
    assert (config.multiples, config.latent_channels) == ((1, 2, 4, 8, 16), 64)
    assert (config.transformer.depth if config.transformer else None) == depth
    assert load(weights_of(name), config_of(name))[0] == config


# --------------------------------------------------------------------------- forms of one file


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "step": 7},
        lambda s: {"gen": s, "disc": {"x": torch.zeros(1)}, "optimizer": {"lr": 1e-4}},
        lambda s: {"state_dict": {"generator": s}},
        lambda s: {f"module.{name}": tensor for name, tensor in s.items()},
        lambda s: {"gen": {f"module.generator.{name}": tensor for name, tensor in s.items()}},
        lambda s: {name: tensor.double() for name, tensor in s.items()},
    ],
    ids=["bare", "state_dict", "gen", "nested", "prefix", "wrapped prefix", "float64"],
)
def test_wrapped_and_prefixed_checkpoints_load(tmp_path, state, wrap):
    assert_loads_as_golden(saved(tmp_path / "ear_vae_44k.pyt", wrap(state)))


def test_newer_weight_norm_names_load(tmp_path, state):
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in state.items()
    }
    assert renamed.keys() != state.keys()
    assert_loads_as_golden(saved(tmp_path / "model.pt", renamed))


def test_folded_weight_norm_loads_and_computes_the_same(tmp_path, state):
    folded = dict(state)
    for name in [name for name in state if name.endswith("weight_v")]:
        stem = name.removesuffix("_v")
        direction, gain = folded.pop(name), folded.pop(f"{stem}_g")
        folded[stem] = torch._weight_norm(direction, gain, 0)
    folded["decoder.layers.7.weight"][0] = 0  # a channel that is off must not become NaN
    vae = EarVAE.from_pretrained(saved(tmp_path / "folded.pt", folded))
    golden = load_file(GOLDEN / "tiny44k_io.safetensors")
    with torch.inference_mode():
        posterior = vae.encode(golden["audio"])
        decoded = vae.decode(golden["latents"])
    torch.testing.assert_close(posterior.parameters, golden["posterior"], rtol=0, atol=1e-5)
    assert (decoded[:, 0] == 0).all()
    torch.testing.assert_close(decoded[:, 1], golden["decoded"][:, 1], rtol=0, atol=1e-5)


def test_constant_buffers_and_second_names_of_shared_activations_may_be_absent(tmp_path, state):
    lean = {
        name: tensor
        for name, tensor in state.items()
        if "inv_freq" not in name
        and not name.endswith("norm.beta")
        and not name.endswith((".layers.2.alpha", ".layers.2.beta"))
    }
    assert len(lean) == len(state) - 1 - 4 - 2 * 30  # 30 residual units
    path = saved(tmp_path / "lean.pt", lean)
    assert_loads_as_golden(path)
    assert_loads_as_golden(path, config=config_of("tiny44k"))


def test_half_precision_file_loads_as_float32(tmp_path, state):
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in state.items()}, path)
    config, loaded = load(path)
    assert config == load(weights_of("tiny44k"))[0]
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


# --------------------------------------------------------------------------- sample rate


def with_strides(folder: Path, strides: tuple[int, ...]) -> Path:
    config = OobleckConfig(channels=2, multiples=(1,) * len(strides), strides=strides)
    state = EarVAE(config).state_dict()
    return saved(folder / "unusual.pt", state)


def test_unknown_total_stride_asks_for_the_sample_rate(tmp_path):
    path = with_strides(tmp_path, (4, 8))
    with pytest.raises(WeightsError, match=r"unusual\.pt.*stride is 32.*sample_rate"):
        load(path)
    config, _ = load(path, sample_rate=32_000)
    assert (config.sample_rate, config.hop_length) == (32_000, 32)


def test_sample_rate_of_the_config_counts_and_must_not_contradict(tmp_path):
    path = edited_config(tmp_path, "tiny44k", lambda c: c.update(sample_rate=32_000))
    assert load(weights_of("tiny44k"), path)[0].sample_rate == 32_000
    with pytest.raises(WeightsError, match="says 32000 Hz, but 48000 Hz was asked for"):
        load(weights_of("tiny44k"), path, sample_rate=48_000)


# --------------------------------------------------------------------------- refusals


class Payload:
    """Unpickling this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickle_that_carries_code_is_refused_and_does_not_run(tmp_path, state):
    trace = tmp_path / "executed"
    bad = saved(tmp_path / "bad.pyt", {**state, "extra": Payload(f"touch '{trace}'")})
    with pytest.raises(WeightsError, match=r"bad\.pyt.*nothing in it was executed.*system"):
        load(bad)
    assert not trace.exists()
    torch.load(bad, weights_only=False)
    assert trace.exists()  # the payload was live: only the refusal kept it from running


@pytest.mark.parametrize("name", ["notes.pyt", "notes.safetensors"])
@pytest.mark.parametrize("content", [b"", b"just some text\n", b"PK\x03\x04 cut short"])
def test_file_that_holds_no_weights_is_refused_in_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=name) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3)])
def test_pytorch_file_without_a_state_dict_is_refused(tmp_path, content):
    with pytest.raises(WeightsError, match="state dict"):
        load(saved(tmp_path / "x.pt", content))


def test_truncated_file_is_refused(tmp_path, state):
    path = saved(tmp_path / "cut.pt", state)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match=r"cut\.pt"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.pt: no such file or folder"):
        load(tmp_path / "absent.pt")


def test_another_network_is_refused_with_its_names(tmp_path):
    other = {f"conv{i}.weight": torch.zeros(2, 2, 3) for i in range(6)}
    with pytest.raises(WeightsError) as caught:
        load(saved(tmp_path / "other.pt", other))
    message = str(caught.value)
    assert "other.pt" in message
    assert "no whole encoder among its 6 names (conv0.weight, conv1.weight" in message


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    "part", ["encoder.layers.1.layers.0.", "decoder.", "transformers.layers.0."]
)
def test_partial_file_is_refused_with_the_missing_names(tmp_path, state, part, with_config):
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(part)}
    gone = len(state) - len(kept)
    kept["stranger"] = torch.zeros(1)
    path = saved(tmp_path / "part.pt", kept)
    with pytest.raises(WeightsError) as caught:
        load(path, config_of("tiny44k") if with_config else None)
    message = str(caught.value)
    assert f"part.pt: not a whole εar-VAE: {gone} of 386 names missing ({part}" in message
    assert "1 unexpected (stranger)" in message


@pytest.mark.parametrize("part", ["encoder.", "encoder.layers.3.", "encoder.layers.7."])
def test_a_file_without_a_whole_encoder_is_refused(tmp_path, state, part):
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(part)}
    with pytest.raises(WeightsError, match=rf"part\.pt: .* no whole encoder among its {len(kept)}"):
        load(saved(tmp_path / "part.pt", kept))


def test_tensor_of_another_shape_is_named(tmp_path, state):
    state["encoder.layers.2.layers.1.layers.1.bias"] = torch.zeros(5)
    with pytest.raises(
        WeightsError,
        match=r"encoder\.layers\.2\.layers\.1\.layers\.1\.bias is \[5\] instead of \[4\]",
    ):
        load(saved(tmp_path / "shape.pt", state))


def test_tensor_with_nan_is_named(tmp_path, state):
    state["decoder.layers.0.bias"][3] = torch.nan
    with pytest.raises(WeightsError, match=r"decoder\.layers\.0\.bias holds NaN"):
        load(saved(tmp_path / "nan.pt", state))


def test_two_activations_where_the_architecture_shares_one_are_refused(tmp_path, state):
    state["decoder.layers.1.layers.3.layers.2.alpha"] += 0.1
    with pytest.raises(WeightsError, match="differ, but are one tensor in two places"):
        load(saved(tmp_path / "two.pt", state))


def test_another_rotary_base_is_refused(tmp_path, state):
    state["transformers.rotary_pos_emb.inv_freq"] **= 1.1
    with pytest.raises(WeightsError, match="inv_freq is not of base"):
        load(saved(tmp_path / "rotary.pt", state))


@pytest.mark.parametrize(
    ("name", "config_name", "field"),
    [
        ("tiny44k", "tiny48k", "strides"),
        ("tiny44k", "tiny44k_no_transformer", "transformer"),
        ("tiny44k_no_transformer", "tiny44k", "transformer"),
    ],
)
def test_config_of_another_model_is_refused_naming_both_files(name, config_name, field):
    with pytest.raises(WeightsError) as caught:
        load(weights_of(name), config_of(config_name))
    message = str(caught.value)
    assert f"{config_name}_config.json says {field} = " in message
    assert f"{name}_state_dict.safetensors holds" in message


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda c: c["decoder"]["config"].update(final_tanh=True), "final_tanh"),
        (lambda c: c["encoder"]["config"].update(use_snake=False), "use_snake"),
        (lambda c: c["encoder"]["config"].update(antialias=True), "antialias"),
        (lambda c: c["encoder"]["config"].pop("strides"), "strides"),
        (lambda c: c["decoder"]["config"].update(channels=8), "says channels = 8, but .* holds 4"),
        (
            lambda c: c.update(downsampling_ratio=960),
            "ratio = 960, but .* holds 1024",
        ),
        (lambda c: c["transformer"]["config"].update(dim_heads=48), "head_channels"),
        (lambda c: c.pop("encoder"), "encoder"),
    ],
)
def test_unusable_config_is_refused_naming_the_key(tmp_path, edit, complaint):
    path = edited_config(tmp_path, "tiny44k", edit)
    with pytest.raises(WeightsError, match=complaint) as caught:
        load(weights_of("tiny44k"), path)
    assert str(path) in str(caught.value)


def test_config_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(WeightsError, match=r"config\.json: is not UTF-8"):
        load(weights_of("tiny44k"), path)


# --------------------------------------------------------------------------- saving


def test_what_we_save_holds_a_shared_activation_once_and_restores_the_whole(tmp_path):
    EarVAE.from_pretrained(weights_of("tiny44k")).save_pretrained(tmp_path)
    assert len(load_file(tmp_path / "model.safetensors")) == 386 - 60
    assert_loads_as_golden(tmp_path)
