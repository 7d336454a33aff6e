"""εar-VAE2: its two stages on the shipped clips, the refiner's start, fine-tuning of a published
file."""

import pytest
import torch
from safetensors.torch import load_file

from earvae import EarVAE, recipes
from earvae.config import EarVAE2Config, TrainConfig, load, merged
from earvae.training import train as training
from earvae.training.set_up import set_recompute
from tests.small import CLIPS, GOLDEN
from tests.training.recipes import state_of
from tests.training.test_stages import changed, snapshots

PUBLISHED = GOLDEN / "tiny_earvae2_state_dict.safetensors"
TINY = {
    "channels": 2, "decoder_channels": 2, "latent_channels": 8,
    "refiner": {"width": 8, "hidden": 16, "blocks": 1},
}  # fmt: skip
SMALL = {
    "discriminator": {"resolutions": [256], "channels": 2},
    "objective": {"resolutions": [256, 128], "resolutions_per_step": 1},
    "data": {
        "sources": [{"tracks": str(CLIPS)}], "crop_samples": 4 * 1920, "batch_size": 1,
        "workers": 0, "filters": {"true_peak_db": None, "bandwidth_hz": None},
    },
    "optimiser": {"warmup_steps": 0, "weight_decay": 0},
    "validation": None,
    "shares_every": 0,
}  # fmt: skip


def recipe(name: str, steps: list[int], **changes) -> TrainConfig:
    """A recipe of the package in small, with so many steps a stage."""
    values, _ = load(recipes.path_of(name))
    values = merged(values, SMALL)
    for stage, number in zip(values["stages"], steps, strict=True):
        stage["steps"] = number
        stage.get("data", {}).pop("sources", None)
        if stage.get("adversarial"):
            stage["adversarial"].pop("discriminator_only_steps", None)
    return TrainConfig(**merged(values, changes))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_refiner_learns_when_the_rest_is_done_and_the_rest_stays(
    precision, tmp_path, monkeypatch
):
    """Bit for bit, of both copies; in its first step the last layer alone moves, for it is zero."""
    taken = snapshots(monkeypatch)
    config = recipe("earvae2", [2, 2, 3], model=TINY)
    assert training.train(config, tmp_path, precision, accelerator="cpu") == 0
    names = taken[0]["vae"].keys()
    refiner = {name for name in names if name.startswith("decoder.refiner.")}
    for before, after in zip(taken[:3], taken[1:4], strict=True):
        assert changed(before["vae"], after["vae"]) == names - refiner
    base = taken[3]["ema"]
    assert changed(taken[3]["vae"], base)
    for number, step in enumerate(taken[4:]):
        if number == 0:
            last = {"decoder.refiner.out.weight", "decoder.refiner.out.bias"}
            assert changed(base, step["vae"]) == last
        assert changed(base, step["vae"]) <= refiner and changed(base, step["ema"]) <= refiner
    assert changed(base, taken[-1]["vae"]) == refiner == changed(base, taken[-1]["ema"])
    assert state_of(tmp_path)["step"] == 7


def test_a_new_refiner_changes_neither_the_sound_nor_the_gradient():
    torch.manual_seed(0)
    base = EarVAE(EarVAE2Config(**TINY | {"refiner": None}))
    whole = EarVAE(EarVAE2Config(**TINY))
    whole.load_state_dict(base.state_dict(), strict=False)
    audio, probe = 0.1 * torch.randn(1, 2, 8 * 1920), torch.randn(1, 2, 8 * 1920)
    for vae in (base, whole):
        reconstruction, _ = vae(audio)
        (reconstruction * probe).sum().backward()
        vae.output = reconstruction.detach()
    torch.testing.assert_close(whole.output, base.output, rtol=0, atol=1e-6)
    for name, parameter in base.named_parameters():
        other = whole.get_parameter(name).grad
        torch.testing.assert_close(
            other, parameter.grad, rtol=0, atol=1e-4 * parameter.grad.abs().max().item()
        )


def test_recomputed_activations_give_the_same_gradients():
    torch.manual_seed(0)
    vae, audio = EarVAE(EarVAE2Config(**TINY)), 0.1 * torch.randn(1, 2, 2 * 1920)
    gradients = []
    for recompute in (False, True):
        set_recompute(vae, recompute)
        assert vae.encoder.encoder_stream.recompute == recompute
        vae.zero_grad()
        vae(audio)[0].square().sum().backward()
        gradients.append({n: p.grad for n, p in vae.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_the_silence_at_the_end_of_a_crop_is_not_compared(tmp_path, monkeypatch):
    """The decoder gives 480 samples less than it got."""
    lengths = []
    original = training.PerceptualLoss.forward

    def watched(self, reconstruction, target, **options):
        lengths.append((reconstruction.shape[2], target.shape[2]))
        assert reconstruction[..., -1].abs().min() > 0
        return original(self, reconstruction, target, **options)

    monkeypatch.setattr(training.PerceptualLoss, "forward", watched)
    changes = {"model": TINY, "validation": SMALL["data"], "validation_items": 1}
    training.train(recipe("earvae2", [1, 1, 1], **changes), tmp_path, accelerator="cpu")
    assert set(lengths) == {(4 * 1920 - 480, 4 * 1920 - 480)} and len(lengths) == 6


def test_a_published_file_is_fine_tuned_with_its_latents_as_they_were(tmp_path):
    config = recipe("finetune_published", [2], initial_weights=str(PUBLISHED))
    assert training.train(config, tmp_path, accelerator="cpu") == 0
    before, after = (EarVAE.from_pretrained(source) for source in (PUBLISHED, tmp_path / "ema"))
    audio = load_file(GOLDEN / "tiny_earvae2_io.safetensors")["audio"]
    with torch.no_grad():
        assert torch.equal(before.encode(audio).parameters, after.encode(audio).parameters)
    moved = changed(dict(before.named_parameters()), dict(after.named_parameters()))
    names = {name for name, _ in before.named_parameters()}
    assert moved == {name for name in names if name.startswith("decoder.")}
