"""Under bfloat16 autocast: audio, latents and posterior stay float32, and gradients keep their
direction."""

import pytest
import torch
from torch import Tensor

from earvae.config import CompactConfig, ObjectiveConfig, OobleckConfig, SpectralConfig
from earvae.model.vae import EarVAE
from earvae.objective import PerceptualLoss
from tests.small import CLIPS, clip

MODELS = [
    OobleckConfig(channels=8),
    CompactConfig(width=32, encoder_blocks=1, decoder_blocks=1),
    SpectralConfig(width=32, encoder_blocks=1, decoder_blocks=1, linear_classes=4),
]


def music(samples: int) -> Tensor:
    """``[3, 2, samples]``."""
    names = sorted(path.stem for path in CLIPS.glob("*.flac"))
    return torch.stack([clip(name, samples, start=200_000) for name in names[:3]])


def bits_beyond_bfloat16(x: Tensor) -> float:
    """Share of values that bfloat16 cannot hold; of arbitrary float32 values, nearly all."""
    return float((x != x.bfloat16().float()).float().mean())


@pytest.mark.parametrize("config", MODELS, ids=lambda config: config.architecture)
@torch.no_grad()
def test_audio_and_posterior_are_float32_and_not_merely_called_so(config):
    torch.manual_seed(0)
    vae = EarVAE(config)
    audio = music(8192)
    with torch.autocast("cpu", torch.bfloat16):
        fake, posterior = vae(audio)
        kl = posterior.kl()
    for found in (fake, posterior.mean, posterior.std):
        assert found.dtype == torch.float32 and bits_beyond_bfloat16(found) > 0.9
    assert kl.dtype == torch.float32


@torch.no_grad()
def test_the_first_convolution_sees_audio_that_is_not_rounded():
    torch.manual_seed(0)
    encoder = EarVAE(OobleckConfig(channels=8)).encoder
    audio = music(8192)
    seen = []
    encoder.layers[0].register_forward_hook(lambda layer, given, out: seen.append(out))
    encoder(audio)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(audio)
    assert torch.equal(*seen)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_of_the_papers_model_keeps_its_direction(seed):
    """0.97 on these clips; 0.96 without float32 at both ends, 0.93 to 0.94 with a rounded residual
    path."""
    torch.manual_seed(seed)
    vae = EarVAE(OobleckConfig(channels=16, transformer=None))
    objective = PerceptualLoss(ObjectiveConfig.released(), 44_100)
    audio = music(16_384)
    found = []
    for rounded in (False, True):
        vae.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            fake, posterior = vae(audio)
        objective(fake, audio, posterior.kl()).total.backward()
        found.append(torch.cat([p.grad.flatten() for p in vae.parameters()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.965


def decibels(of: Tensor, found: Tensor) -> float:
    """Level of ``of`` over that of what ``found`` differs from it."""
    of, found = of.double(), found.double()
    return float(10 * (of.square().sum() / (of - found).square().sum()).log10())


@pytest.mark.parametrize(
    ("dtype", "least"),
    [(torch.float16, 45), (torch.bfloat16, 30), (torch.float64, 100)],
    ids=["half", "bfloat16", "double"],
)
@pytest.mark.parametrize("config", MODELS, ids=lambda config: config.architecture)
@torch.no_grad()
def test_a_model_that_was_cast_computes_the_same_in_its_own_precision(config, dtype, least):
    torch.manual_seed(0)
    vae, audio = EarVAE(config).eval(), music(8192)
    latents = vae.encode(audio).mean
    decoded = vae.decode(latents)
    vae.to(dtype)
    for given in (audio, audio.to(dtype)):
        found = vae.encode(given).mean
        assert found.dtype == dtype
        assert decibels(latents, found) > least
        found = vae.decode(latents.to(given.dtype))
        assert found.dtype == dtype
        assert decibels(decoded, found) > least


def test_constants_of_a_transform_keep_their_precision():
    vae = EarVAE(MODELS[1])
    exact = vae.encoder.transform.mdct.dct.clone()
    vae.half().float()
    assert torch.equal(vae.encoder.transform.mdct.dct, exact)
