"""A compact model may start from codes that were not fitted."""

import torch

from earvae.config import TrainConfig
from earvae.training import set_up as starting
from earvae.training import train as training
from earvae.training.set_up import initial_model


def test_without_crops_to_fit_on_the_codes_keep_neighbouring_values_of_a_frame(recipe):
    vae = initial_model(TrainConfig(**recipe | {"linear_code_crops": 0}))
    frames = torch.randn(1, 3, vae.encoder.transform.features)
    kept = vae.config.linear_channels
    values, chosen = vae.encoder.code.encode(frames)
    for frame, value, first in zip(frames[0], values[0], chosen[0].argmax(dim=1), strict=True):
        assert torch.equal(value, frame[first : first + kept])
    assert torch.equal(vae.encoder.code.std, torch.ones(vae.config.linear_classes, kept))


def test_the_network_starts_alike_with_and_without_fitted_codes(recipe):
    fitted, unfitted = (
        initial_model(TrainConfig(**recipe | {"linear_code_crops": crops})) for crops in (8, 0)
    )
    assert not torch.equal(fitted.encoder.code.basis, unfitted.encoder.code.basis)
    ours, theirs = fitted.state_dict(), unfitted.state_dict()
    shared = [name for name in ours if "code." not in name and "envelope." not in name]
    shared.remove("decoder.shape.weight")  # scaled by what the fitted code explains
    for name in shared:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_run_without_fitted_codes_trains(recipe, tmp_path):
    config = TrainConfig(**recipe | {"linear_code_crops": 0, "validation": None})
    assert training.train(config, tmp_path, accelerator="cpu") == 0


def test_a_code_is_fitted_on_no_more_crops_than_the_music_holds(recipe, monkeypatch):
    crops = []
    original = starting.fit_codes

    def counted(encoder, decoder, audio, top_hz):
        batches = list(audio)
        crops.append(sum(len(batch) for batch in batches))
        original(encoder, decoder, batches, top_hz)

    monkeypatch.setattr(starting, "fit_codes", counted)
    initial_model(TrainConfig(**recipe | {"linear_code_crops": 6000}))
    assert crops == [2 * 2 * 44_100 // (128 * 24)]  # two pieces of two seconds
