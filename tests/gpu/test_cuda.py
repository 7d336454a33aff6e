"""What a GPU must do as a CPU does, and what it must not do: wait for the host."""

import json

import numpy as np
import pytest
import soundfile
import torch
from lightning_fabric import Fabric

from earvae.config import ObjectiveConfig, TrainConfig
from earvae.discriminator import Discriminator
from earvae.model.vae import EarVAE
from earvae.objective import PerceptualLoss
from earvae.training import step as stepping
from earvae.training import train as training
from earvae.training.checkpoint import CHECKPOINT
from earvae.training.loader import make_batches, open_crops
from earvae.training.set_up import set_up
from earvae.training.stages import locate
from tests.small import CLIPS

COMPACT = {"architecture": "compact", "width": 64, "encoder_blocks": 1, "decoder_blocks": 1}
PAPER = {"architecture": "oobleck", "channels": 16}


def recipe(model: dict, **changes) -> dict:
    """Warm-up, then against a discriminator, on the clips of this repository."""
    return {
        "model": model,
        "discriminator": {"resolutions": [1024, 512, 256, 128, 64], "channels": 8},
        "objective": {"resolutions": [2048, 512]},
        "data": {
            "sources": [{"tracks": str(CLIPS)}], "crop_samples": 16_384, "batch_size": 4,
            "workers": 0, "cache": "device",
            "augmentation": {
                "mix": 0.5, "resample": 0.2, "bass_db": [0, 6], "treble_db": [0, 6],
                "equaliser_db": 2, "width_db": [-3, 3], "compress": 0.5, "saturate": 0.5,
                "limit": 0.5, "mono": 0.2, "gain_db": [-6, 3], "swap_channels": 0.5,
            },
        },
        "balance": {
            "shares": {"magnitude_log": 2, "correlation_intra": 1, "feature_matching": 1},
            "every": 5,
        },
        "linear_code_crops": 8,
        "stages": [{"name": "alone", "steps": 6}, {"name": "both", "steps": 12, "adversarial": {}}],
        "log_every": 3,
    } | changes  # fmt: skip


def clips(samples: int = 32_768) -> torch.Tensor:
    """``[3, 2, samples]`` of music."""
    found = [
        soundfile.read(path, frames=samples, start=200_000, dtype="float32")[0].T
        for path in sorted(CLIPS.glob("*.flac"))[:3]
    ]
    return torch.from_numpy(np.stack(found))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weighting", ["energy", "none"])
def test_the_objective_gives_the_values_and_gradients_of_the_cpu(cuda, compiled, weighting):
    config = ObjectiveConfig(
        phase_weighting=weighting, weights={"waveform": 0.5, "magnitude_mel": 1.0}
    )
    target = clips()
    ours = target + 0.02 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for device, precise in (("cpu", torch.float64), (cuda, torch.float32)):
        objective = PerceptualLoss(config, 44_100).to(device).train()
        if compiled and device is cuda:
            objective.compile_terms()
        audio = ours.to(device, precise).requires_grad_()
        terms = objective(audio, target.to(device, precise))
        terms.total.backward()
        found.append((terms.terms, audio.grad.cpu()))
    (expected, slope), (values, own_slope) = found
    for name, value in expected.items():
        assert float(values[name]) == pytest.approx(float(value), rel=1e-3), name
    # Unweighted, bins at the noise of the FFT's own rounding count as much as any: 0.9885 measured.
    assert cosine(own_slope.flatten(), slope.flatten()) > {"energy": 0.999, "none": 0.98}[weighting]


@pytest.mark.parametrize("model", [COMPACT, PAPER])
def test_bf16_keeps_the_direction_of_the_gradient(cuda, model):
    torch.manual_seed(0)
    config = TrainConfig(**recipe(model))
    vae = EarVAE(config.model).to(cuda)
    objective = PerceptualLoss(ObjectiveConfig(phase_weighting="none"), 44_100).to(cuda)
    audio = clips().to(cuda)
    found = []
    for enabled in (False, True):
        vae.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            fake, _ = vae(audio)
        objective(fake, audio).total.backward()
        found.append(torch.cat([p.grad.flatten() for p in vae.parameters() if p.grad is not None]))
    assert cosine(*found) > 0.95


def steps_of(cuda, tmp_path, precision: str, **changes):
    """A run's parts on the device, and a function that does one step."""
    config = TrainConfig(**recipe(COMPACT, **changes))
    fabric = Fabric(accelerator="cuda", devices=1, precision=precision)
    fabric.launch()
    state = set_up(fabric, config, tmp_path)
    place = locate(config.stages, config.stages[0].steps)
    crops = open_crops(place.stage.data, 44_100, cuda)
    batches = make_batches(crops, 0, 400, cuda)
    objective = PerceptualLoss(place.stage.balanced_objective(), 44_100).to(cuda).train()
    if config.compile:
        objective.compile_terms()
    state.balance = training.Balance(place.stage, cuda)

    def step():
        here = place._replace(done=state.step)
        return stepping.train_step(fabric, config, here, state, objective, batches)

    return state, step


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_never_waits_for_the_host(cuda, tmp_path, precision):
    state, step = steps_of(cuda, tmp_path, precision)
    for _ in range(3):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(7):  # measures the balance as well
            figures = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(list(stepping.read_figures(figures).values())).all()
    assert int(state.row) == 0


def test_a_gradient_that_is_not_finite_changes_nothing(cuda, tmp_path):
    state, step = steps_of(cuda, tmp_path, "32-true")
    for _ in range(2):
        step()
    before = [p.clone() for p in [*state.vae.parameters(), *state.ema.parameters()]]
    parameter = next(state.vae.parameters())
    hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
    step()
    hook.remove()
    after = [*state.vae.parameters(), *state.ema.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert state.non_finite_in_a_row == 1
    step()
    assert state.non_finite_in_a_row == 0 and not torch.equal(before[0], parameter)


def test_nothing_is_compiled_again_after_the_third_step(cuda, tmp_path):
    discriminator = {
        "resolutions": [1024, 512, 256], "channels": 8, "resolutions_per_step": 2,
        "crop_samples": 8192,
    }  # fmt: skip
    _, step = steps_of(cuda, tmp_path, "bf16-mixed", compile=True, discriminator=discriminator)
    for _ in range(8):  # until every scale has been drawn
        step()
    with torch._dynamo.config.patch(error_on_recompile=True, fail_on_recompile_limit_hit=True):
        for _ in range(8):
            step()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_goes_through_its_stages_and_on_after_a_stop(cuda, tmp_path, compiled, monkeypatch):
    config = TrainConfig(**recipe(COMPACT, compile=compiled))
    real = training.train_step
    calls = []

    def fail(*arguments):
        calls.append(None)
        if len(calls) == 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")
        return real(*arguments)

    monkeypatch.setattr(training, "train_step", fail)
    options = {"accelerator": "cuda", "precision": "bf16-mixed"}
    with pytest.raises(training.TrainingError, match="out of memory"):
        training.train(config, tmp_path, **options)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 6
    assert training.train(config, tmp_path, **options) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 18 and "share/feature_matching" in str(lines)
    assert np.isfinite(EarVAE.from_pretrained(tmp_path / "ema")(clips())[0].detach()).all()


def test_all_scales_of_the_discriminator_agree_with_the_cpu_when_compiled(cuda):
    torch.manual_seed(0)
    config = TrainConfig(**recipe(COMPACT)).discriminator
    plain = Discriminator(config)
    ours = Discriminator(config).to(cuda)
    ours.load_state_dict(plain.state_dict())
    ours.compile_scales()
    audio = clips()
    with torch.no_grad():
        for expected, found in zip(plain(audio), ours(audio.to(cuda)), strict=True):
            assert torch.allclose(found.score.cpu(), expected.score, atol=2e-3)
