"""Fine-tuning: from published weights, from a run, from the shipped model; frozen parts."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from earvae import EarVAE
from earvae.cli.main import app
from earvae.config import ConfigError, TrainConfig
from earvae.training.set_up import initial_discriminator, initial_model
from tests.small import GOLDEN
from tests.training.recipes import start, state_of


@pytest.fixture
def published(tmp_path):
    """The tiny golden model in the published layout: weights beside their JSON."""
    folder = tmp_path / "published"
    folder.mkdir()
    state = load_file(GOLDEN / "tiny44k_state_dict.safetensors")
    torch.save(state, folder / "tiny.pyt")
    shutil.copy(GOLDEN / "tiny44k_config.json", folder / "tiny.json")
    return folder / "tiny.pyt"


@pytest.fixture
def fine(recipe, published):
    """Fifty adversarial steps from the golden model, its encoder frozen."""
    model = EarVAE.from_pretrained(published).config
    return recipe | {
        "model": json.loads(model.model_dump_json()),
        "initial_weights": str(published),
        "validation": None,
        "data": recipe["data"] | {"crop_samples": model.hop_length * 8, "batch_size": 1},
        "stages": [
            {"name": "fine", "steps": 50, "freeze": ["encoder"], "adversarial": {}},
        ],
        "log_every": 50,
        "checkpoint_every": 50,
    }


def test_the_first_forward_equals_the_golden_output(fine):
    vae = initial_model(TrainConfig(**fine))
    golden = load_file(GOLDEN / "tiny44k_io.safetensors")
    with torch.no_grad():
        reconstruction, posterior = vae(golden["audio"])
    samples = golden["decoded"].shape[-1]
    for ours, theirs in (
        (posterior.parameters, golden["posterior"]),
        (posterior.mode(), golden["latents"]),
        (reconstruction[..., :samples], golden["decoded"][..., : reconstruction.shape[-1]]),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_a_frozen_encoder_gives_bit_identical_latents_after_fifty_adversarial_steps(
    fine, tmp_path, published
):
    assert start(fine, tmp_path / "run") == 0
    before = EarVAE.from_pretrained(published)
    after = EarVAE.from_pretrained(tmp_path / "run" / "ema")
    audio = load_file(GOLDEN / "tiny44k_io.safetensors")["audio"]
    with torch.no_grad():
        assert torch.equal(before.encode(audio).parameters, after.encode(audio).parameters)
    raw, old = state_of(tmp_path / "run")["vae"], before.state_dict()
    moved = {name for name in raw if not torch.equal(raw[name], old[name])}
    assert moved and not any(name.startswith("encoder.") for name in moved)
    names = (name for name, _ in before.named_parameters(remove_duplicate=False))
    assert moved == {name for name in names if not name.startswith("encoder.")}


def test_a_run_starts_from_the_generator_and_the_discriminator_of_another(staged, tmp_path):
    start(staged, tmp_path / "first")
    second = TrainConfig(**staged | {"initial_weights": str(tmp_path / "first")})
    first = state_of(tmp_path / "first")
    for name, weight in initial_model(second).state_dict().items():
        assert torch.equal(weight, first["ema"][name])
    for name, weight in initial_discriminator(second).state_dict().items():
        assert torch.equal(weight, first["discriminator"][name])
    wider = second.discriminator.model_copy(update={"channels": 3})
    with pytest.raises(ConfigError, match="its discriminator is not the one under"):
        initial_discriminator(second.model_copy(update={"discriminator": wider}))


def test_the_shipped_model_can_be_a_start():
    data = {"sources": [{"tracks": "unused"}]}
    config = {"stages": [{"name": "a", "steps": 1, "data": data}], "initial_weights": "shipped"}
    vae = initial_model(TrainConfig(**config))
    assert vae.identity == EarVAE.from_pretrained().identity


@pytest.mark.parametrize(("options", "key"), [([], "ema"), (["--raw"], "vae")])
def test_export_weights_gives_the_generator_alone(staged, tmp_path, options, key):
    start(staged, tmp_path / "run")
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["export-weights", str(tmp_path / "run"), "-o", str(out), *options]
    )
    assert result.exit_code == 0, result.output
    exported = load_file(out / "model.safetensors")
    saved = state_of(tmp_path / "run")[key]
    assert exported.keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in exported.items())
    assert EarVAE.from_pretrained(out).identity in result.output


def test_export_weights_in_half_precision_is_half_as_large(staged, tmp_path):
    start(staged, tmp_path / "run")
    for name, options in (("whole", []), ("half", ["--half"])):
        CliRunner().invoke(
            app, ["export-weights", str(tmp_path / "run"), "-o", str(tmp_path / name), *options]
        )
    whole, half = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "half"))
    for name, _ in EarVAE.from_pretrained(tmp_path / "whole").named_parameters():
        assert half[name].dtype == torch.float16
        torch.testing.assert_close(half[name].float(), whole[name], rtol=1e-3, atol=1e-6)
    run = str(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    result = CliRunner().invoke(app, ["export-weights", run, "-o", run])  # into the run itself
    assert result.exit_code == 1 and "config.json: is there already" in result.output
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_export_weights_of_no_run_is_one_line(tmp_path):
    result = CliRunner().invoke(app, ["export-weights", str(tmp_path), "-o", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert "no checkpoint.pt there" in result.output and "Traceback" not in result.output
