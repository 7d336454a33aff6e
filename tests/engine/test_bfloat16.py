"""The trap of bfloat16: SnakeBeta computed in it. Models and engines never do, whatever is around.

bfloat16 has eight binary digits. The sine of α·x needs the *absolute* error of α·x to be small,
which it cannot be where α·x is large; and α and β are stored as logarithms, which a cast would
round before they are exponentiated.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from earvae import EarVAE, engine
from earvae.engine import passes as torch_passes
from earvae.engine.oobleck import Snake
from earvae.evaluation.metrics import si_sdr
from earvae.model.layers import SnakeBeta
from tests.small import clip, golden

CHANNELS, ROWS = 128, 4096


def decibels(ours: Tensor, theirs: Tensor) -> float:
    """SI-SDR of everything as one signal."""
    return float(si_sdr(ours.double().reshape(1, -1), theirs.double().reshape(1, -1)))


@pytest.fixture
def snake() -> SnakeBeta:
    """α and 1/β between 1/400 and 400, independent of each other."""
    random = torch.Generator().manual_seed(0)
    layer = SnakeBeta(CHANNELS).requires_grad_(False)
    layer.alpha.uniform_(-6, 6, generator=random)
    layer.beta.uniform_(-6, 6, generator=random)
    return layer


@pytest.fixture
def activations() -> Tensor:
    """``[1, channels, rows]``, standard deviation 20: α·x reaches tens of thousands."""
    return 20 * torch.randn((1, CHANNELS, ROWS), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["torch", "compiled"])
def passes(request):
    """The engines' ways of computing it."""
    if request.param == "torch":
        return torch_passes
    pytest.importorskip("numba")
    from earvae.engine import compiled

    return compiled


def test_the_engines_round_the_result_of_snake_and_nothing_before_it(snake, activations, passes):
    """bfloat16's own rounding is 55 dB down; a naive cast of layer and input gives noise, 5 dB."""
    expected = copy.deepcopy(snake).double()(activations.double())
    rows, vectors = activations[0].t().contiguous(), Snake(snake)
    for dtype, least in ((torch.float32, 70), (torch.bfloat16, 50)):
        out = torch.empty_like(rows, dtype=dtype)
        passes.snake(rows, 0, vectors.alpha, vectors.amplitude, out)
        assert decibels(out.t()[None], expected) > least
    alpha, beta, x = snake.alpha.bfloat16(), snake.beta.bfloat16(), activations.bfloat16()
    naive = x + torch.sin(alpha.exp()[:, None] * x).square() / beta.exp()[:, None]
    assert decibels(naive, expected) < 10
    ours = copy.deepcopy(snake).bfloat16()(activations)
    assert decibels(ours, expected) > 70


def test_snake_computes_in_float32_under_autocast(snake, activations):
    """What ``plain`` with bfloat16 products relies on."""
    with torch.autocast("cpu", torch.bfloat16):
        found = snake(activations)
    assert found.dtype == torch.float32 and torch.equal(found, snake(activations))


# ------------------------------------------------------------------------------ whole models


@pytest.fixture(params=["tiny44k", "tiny48k"])
def vae(request) -> EarVAE:
    """Small weights of the paper's architecture with wide activations: α between 1/400 and 400,
    β that goes with it (e-fold scatter ½).

    With β independent of α, slopes reach 160 000 and a change in float32's last digit changes
    everything: no such network could have been trained, and no precision computes it.
    """
    vae = golden(request.param)
    random = torch.Generator().manual_seed(0)
    for layer in vae.modules():
        if isinstance(layer, SnakeBeta):
            layer.requires_grad_(False)
            layer.alpha.uniform_(-6, 6, generator=random)
            layer.beta.copy_(layer.alpha + 0.5 * torch.randn(layer.beta.shape, generator=random))
    return vae


@pytest.fixture
def music(vae) -> Tensor:
    """``[1, 2, samples]``, ten times too loud."""
    samples = 40 * vae.hop_length
    return 10 * clip("automat", samples)[None]


@pytest.mark.parametrize("name", ["fast", "autocast", "cast"])
@torch.no_grad()
def test_bfloat16_products_give_neither_silence_nor_noise(vae, music, name, monkeypatch):
    """α·x reaches thousands: rounded to bfloat16 it would give 3 to 7 dB less here, and elsewhere
    noise or silence; a single layer shows that (above)."""
    monkeypatch.setattr(engine, "has_bfloat16", lambda device: True)  # emulated, if need be
    if name == "cast":
        found = copy.deepcopy(vae).bfloat16()
    else:
        found = engine.accelerate(vae, "fast" if name == "fast" else "plain")
    if name == "autocast":  # what fast is on a GPU
        found.encoder, found.decoder = map(engine.Autocast, (found.encoder, found.decoder))
    latents = vae.encode(music).mode()
    for expected, ours in (
        (latents, found.encode(music).mode()),
        (vae.decode(latents), found.decode(latents)),
    ):
        assert decibels(ours, expected) > 30
        assert 0.97 < float(ours.double().std() / expected.double().std()) < 1.03
