"""The paper's convolutional stacks: published names, golden values, lengths, receptive fields."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from earvae.config import OobleckConfig, TrainConfig
from earvae.model.layers import (
    SnakeBeta,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    fold_weight_norm,
)
from earvae.model.oobleck import OobleckDecoder, OobleckEncoder
from earvae.model.vae import EarVAE
from tests.small import golden

EVEN, ODD = (2, 4, 4, 4, 8), (2, 4, 4, 5, 6)


def small_config(strides: tuple[int, ...]) -> OobleckConfig:
    multiples = tuple(2**i for i in range(len(strides)))
    return OobleckConfig(
        channels=2, latent_channels=4, multiples=multiples, strides=strides, transformer=None
    )


def golden_parts(name: str) -> tuple[OobleckEncoder, OobleckDecoder]:
    vae = golden(name)
    return vae.encoder, vae.decoder


def test_snake_beta_is_its_formula_with_logarithmic_parameters():
    snake = SnakeBeta(2)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.0, 2.0]).log())  # α = 0, 2
        snake.beta.copy_(torch.tensor([1.0, 4.0]).log())
    x = torch.linspace(-3, 3, 50).expand(1, 2, 50)
    out = snake(x)
    torch.testing.assert_close(out[:, 0], x[:, 0])
    torch.testing.assert_close(out[:, 1], x[:, 1] + torch.sin(2 * x[:, 1]) ** 2 / 4)


def test_snake_beta_computes_in_float32_under_bfloat16_autocast():
    x = torch.randn(1, 3, 100).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = SnakeBeta(3)(x)
    torch.testing.assert_close(out, x.float() + torch.sin(x.float()) ** 2)


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_equal_torchs_own_weight_normalisation(transposed: bool):
    arguments = {"kernel_size": 6, "stride": 3, "padding": 2}
    if transposed:
        ours: nn.Module = WeightNormConvTranspose1d(3, 5, **arguments)
        plain: nn.Module = nn.ConvTranspose1d(3, 5, **arguments)
    else:
        ours, plain = WeightNormConv1d(3, 5, **arguments), nn.Conv1d(3, 5, **arguments)
    theirs = nn.utils.parametrizations.weight_norm(plain, dim=0)
    with torch.no_grad():
        ours.weight_g.mul_(1.7)
        theirs.parametrizations.weight.original0.copy_(ours.weight_g)
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
        theirs.bias.copy_(ours.bias)
    x = torch.randn(2, 3, 40)
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours(x).shape[2] == ours.output_length(40)


def test_full_configuration_has_the_papers_parameter_counts():
    with torch.device("meta"):
        encoder, decoder = OobleckEncoder(OobleckConfig()), OobleckDecoder(OobleckConfig())
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(73.78, abs=0.005)
    both = sum(p.numel() for p in (*encoder.parameters(), *decoder.parameters()))
    assert both / 1e6 == pytest.approx(147.83 - 0.13, abs=0.01)


@pytest.mark.parametrize("name", ["tiny44k_no_transformer", "tiny44k", "tiny48k"])
def test_folded_weight_norm_computes_the_same(name: str):
    encoder, decoder = golden_parts(name)
    latents, audio = torch.randn(1, 64, 3), torch.randn(1, 2, 3 * 3840)
    with torch.inference_mode():
        before = encoder(audio), decoder(latents)
        after = fold_weight_norm(encoder)(audio), fold_weight_norm(decoder)(latents)
    assert not any("weight_v" in name for name in encoder.state_dict())
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("strides", "deficit"), [(EVEN, 0), (ODD, 2 * 4 * 4), ((3, 5), 3 + 1), ((7, 2), 1)]
)
def test_lengths_are_whole_frames_but_for_the_deficit_of_odd_strides(strides, deficit):
    config = small_config(strides)
    encoder, decoder = OobleckEncoder(config), OobleckDecoder(config)
    assert decoder.tail_deficit == deficit
    for frames in (1, 2, 5):
        with torch.inference_mode():
            latents = encoder(torch.zeros(1, 2, frames * config.hop_length))
            audio = decoder(torch.zeros(1, config.latent_channels, frames))
        assert latents.shape == (1, 2 * config.latent_channels, frames)
        assert audio.shape == (1, 2, frames * config.hop_length - deficit)


@pytest.mark.parametrize("strides", [EVEN, ODD, (2,), (3, 5), (8, 7, 2)])
def test_context_frames_is_exactly_how_far_one_frame_reaches(strides):
    """A NaN spreads to every output that depends on it, however weakly."""
    config = small_config(strides)
    encoder, decoder = OobleckEncoder(config), OobleckDecoder(config)
    hop, frames, middle = config.hop_length, 81, 40
    audio = torch.zeros(1, 2, frames * hop)
    audio[..., middle * hop : (middle + 1) * hop] = torch.nan
    latents = torch.zeros(1, config.latent_channels, frames)
    latents[..., middle] = torch.nan
    with torch.inference_mode():
        posterior = encoder(audio)
        decoded = nn.functional.pad(decoder(latents), (0, decoder.tail_deficit))
    reached = [
        (posterior.isnan().any(1)[0], encoder.context_frames),
        (decoded.isnan().any(1)[0].view(frames, hop).any(1), decoder.context_frames),
    ]
    for frames_with_nan, context in reached:
        distances = (frames_with_nan.nonzero()[:, 0] - middle).abs()
        assert distances.max() == context


@pytest.mark.parametrize("name", ["tiny44k_no_transformer", "tiny48k"])
@pytest.mark.parametrize("short_of_context", [0, 3])
def test_chunk_with_context_equals_the_whole_and_with_less_does_not(name, short_of_context):
    encoder, decoder = golden_parts(name)
    hop = decoder.output_length(2) - decoder.output_length(1)
    frames, start, stop = 50, 20, 30
    torch.manual_seed(0)
    audio, latents = torch.randn(1, 2, frames * hop), 3 * torch.randn(1, 64, frames)
    with torch.inference_mode():
        context = encoder.context_frames - short_of_context
        whole = encoder(audio)
        chunk = encoder(audio[..., (start - context) * hop : (stop + context) * hop])
        encoder_error = difference(chunk[..., context:-context], whole[..., start:stop])

        context = decoder.context_frames - short_of_context
        whole = decoder(latents)
        chunk = decoder(latents[..., start - context : stop + context])
        inner = chunk[..., context * hop : (context + stop - start) * hop]
        decoder_error = difference(inner, whole[..., start * hop : stop * hop])
    if short_of_context:
        assert encoder_error > 1e-5
        assert decoder_error > 1e-5
    else:
        assert encoder_error < 1e-5
        assert decoder_error < 1e-5


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the expected peak."""
    return float((found - expected).abs().max() / expected.abs().max())


# --------------------------------------------------------------------------- recomputation


@pytest.fixture
def twins() -> tuple[EarVAE, EarVAE]:
    """One model of the paper's architecture twice; the second computes activations again."""
    torch.manual_seed(0)
    plain = EarVAE(small_config((2, 4)))
    again = copy.deepcopy(plain)
    again.encoder.recompute = again.decoder.recompute = True
    return plain, again


def test_activations_are_kept_unless_asked_otherwise(twins):
    assert not (twins[0].encoder.recompute or twins[0].decoder.recompute)
    assert TrainConfig.model_fields["recompute"].default is False


def test_recomputed_activations_give_the_same_output_and_gradients(twins):
    audio, noise = torch.randn(2, 2, 8 * 20), torch.randn(2, 4, 20)
    found = []
    for vae in twins:
        own = audio.clone().requires_grad_()
        fake, posterior = vae(own, noise)
        (fake.square().sum() + posterior.kl()).backward()
        found.append([fake.detach(), own.grad, *(p.grad for p in vae.parameters())])
    assert len(found[0]) > 50
    for plain, again in zip(*found, strict=True):
        assert again.abs().sum() > 0
        torch.testing.assert_close(again, plain, rtol=0, atol=1e-6 * float(plain.abs().max()))


@pytest.mark.parametrize("training, runs", [(True, 2), (False, 1)])
def test_a_block_runs_once_more_for_the_gradient_and_only_then(twins, training, runs):
    calls = []
    for part in (twins[1].encoder, twins[1].decoder):
        part.layers[1].register_forward_pre_hook(lambda layer, given: calls.append(layer))
    with torch.set_grad_enabled(training):
        fake, _ = twins[1](torch.randn(1, 2, 80))
    if training:
        fake.sum().backward()
    assert len(calls) == 2 * runs


def test_recomputation_is_no_part_of_the_weights_and_copies_keep_it(twins):
    plain, again = twins
    assert again.state_dict().keys() == plain.state_dict().keys()
    assert again.identity == plain.identity
    copied = copy.deepcopy(again)
    assert copied.decoder.recompute and not copy.deepcopy(plain).decoder.recompute
    audio = torch.randn(1, 2, 80)
    assert torch.equal(copied(audio)[0], plain(audio)[0])
    copied.decoder.recompute = False
    assert again.decoder.recompute  # a copy's setting is its own
