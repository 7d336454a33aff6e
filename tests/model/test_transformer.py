"""The rotary transformer ahead of the decoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from earvae.config import OobleckConfig, TransformerConfig
from earvae.model.transformer import LatentTransformer, RotaryEmbedding, rotate

CONFIG = OobleckConfig()


def trained_like(transformer: LatentTransformer) -> LatentTransformer:
    """Random weights in the branch outputs, which start at zero."""
    torch.manual_seed(0)
    for layer in transformer.layers:
        nn.init.normal_(layer.self_attn.to_out.weight, std=0.1)
        nn.init.normal_(layer.ff.ff[2].weight, std=0.1)
    return transformer


def test_has_the_papers_parameter_count():
    count = sum(p.numel() for p in LatentTransformer(CONFIG).parameters())
    assert count / 1e6 == pytest.approx(0.13, abs=0.005)


def test_starts_as_the_identity():
    latents = torch.randn(2, 64, 9)
    assert torch.equal(LatentTransformer(CONFIG)(latents), latents)


def test_rotation_is_multiplication_by_a_unit_complex_number():
    x = torch.randn(1, 2, 100, 32, dtype=torch.float32)
    turned = rotate(x, RotaryEmbedding(32)(100))
    frequencies = 10_000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    angles = torch.arange(100, dtype=torch.float64)[:, None] * frequencies
    expected = torch.complex(*x.double().chunk(2, dim=-1)) * torch.exp(1j * angles)
    expected = torch.cat((expected.real, expected.imag), dim=-1)
    torch.testing.assert_close(turned.double(), expected, rtol=0, atol=1e-4)


def test_attention_follows_the_textbook_formula():
    """softmax(q·kᵀ/√d)·v per head, with relative rotary angles, written out in float64."""
    config = OobleckConfig(transformer=TransformerConfig(depth=1))
    transformer = trained_like(LatentTransformer(config)).double()
    layer = transformer.layers[0]
    nn.init.zeros_(layer.ff.ff[2].weight)
    latents = torch.randn(1, 64, 12, dtype=torch.float64)
    normed = nn.functional.layer_norm(latents[0].T, (64,), eps=1e-5)
    query, key, value = (normed @ layer.self_attn.to_qkv.weight.T).split(64, dim=1)
    frequencies = 10_000.0 ** (-torch.arange(16, dtype=torch.float64) / 16)
    heads = []
    for head in (slice(0, 32), slice(32, 64)):
        q = torch.complex(query[:, head][:, :16], query[:, head][:, 16:])
        k = torch.complex(key[:, head][:, :16], key[:, head][:, 16:])
        lag = torch.arange(12.0)[:, None] - torch.arange(12.0)  # query frame − key frame
        turn = torch.exp(1j * lag[..., None] * frequencies)
        scores = (q[:, None] * k.conj()[None] * turn).real.sum(-1) / 32**0.5
        heads.append(scores.softmax(-1) @ value[:, head])
    expected = latents[0].T + torch.cat(heads, dim=1) @ layer.self_attn.to_out.weight.T
    found = transformer(latents)[0].T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_every_frame_sees_every_other():
    transformer = trained_like(LatentTransformer(CONFIG))
    latents = torch.randn(1, 64, 50, requires_grad=True)
    transformer(latents)[..., 0].sum().backward()
    assert (latents.grad.abs().sum(dim=1) > 0).all()


def test_batch_of_three_equals_three_singles():
    transformer = trained_like(LatentTransformer(CONFIG))
    latents = torch.randn(3, 64, 21)
    singles = torch.cat([transformer(one[None]) for one in latents])
    torch.testing.assert_close(transformer(latents), singles, rtol=1e-5, atol=1e-5)


def test_half_precision_copy_rotates_far_frames_exactly():
    """Rounding inv_freq to 16 bits would turn frame 10 000 by a wrong angle of a radian."""
    rotary = RotaryEmbedding(32)
    expected = rotary(10_001)
    found = rotary.half()(10_001)
    assert rotary.inv_freq.dtype == torch.float16
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_positions_are_not_rounded_under_bfloat16_autocast():
    transformer = trained_like(LatentTransformer(CONFIG))
    latents = torch.randn(1, 64, 600)
    expected = transformer(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tables = transformer.rotary_pos_emb(600)
        found = transformer(latents)
    assert tables[0].dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.02
