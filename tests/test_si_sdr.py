"""SI-SDR against its definition, whole and in blocks."""

from __future__ import annotations

import math

import pytest
import torch

from earvae.si_sdr import StreamingSiSdr, si_sdr


def signals(noise: float, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = 0.3 * torch.randn(channels, 20_000, generator=generator, dtype=torch.float64) + 0.1
    drawn = torch.randn(channels, 20_000, generator=generator, dtype=torch.float64)
    return (0.7 * target + noise * drawn).float(), target.float()


def by_projection(reconstruction: torch.Tensor, target: torch.Tensor) -> float:
    """The definition in double precision: energy of the projection over that of the rest, dB."""
    ratios = []
    for ours, theirs in zip(reconstruction.double(), target.double(), strict=True):
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
        projected = (ours @ theirs / (theirs @ theirs)) * theirs
        rest = ours - projected
        ratios.append(10 * math.log10(projected @ projected / (rest @ rest)))
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-4])
def test_si_sdr_is_projection_over_residue(noise):
    ours, target = signals(noise)
    assert float(si_sdr(ours, target)) == pytest.approx(by_projection(ours, target), abs=1e-3)


@pytest.mark.parametrize("block", [100, 7_777])
def test_blocks_add_up_to_the_whole(block):
    ours, target = signals(0.02)
    meter = StreamingSiSdr()
    for pair in zip(ours.split(block, -1), target.split(block, -1), strict=True):
        meter.add(*pair)
    assert meter.value() == pytest.approx(float(si_sdr(ours, target)), abs=1e-5)


def test_batches_have_a_value_each():
    ours, target = (torch.stack(pair) for pair in zip(signals(0.1), signals(0.01), strict=True))
    expected = [by_projection(*pair) for pair in zip(ours, target, strict=True)]
    assert si_sdr(ours, target).tolist() == pytest.approx(expected, abs=1e-3)


def test_gain_and_offset_do_not_matter():
    ours, target = signals(0.1)
    assert torch.allclose(si_sdr(-3 * ours + 0.2, target), si_sdr(ours, target), atol=1e-3)


def test_channels_that_are_silent_in_the_target_are_left_out_of_the_value():
    ours, target = signals(0.1)
    target[1] = 0
    meter = StreamingSiSdr()
    meter.add(ours, target)
    assert meter.value() == pytest.approx(by_projection(ours[:1], target[:1]), abs=1e-3)


def test_silence_has_no_value_but_a_finite_loss():
    ours, _ = signals(0.1)
    meter = StreamingSiSdr()
    assert meter.value() is None
    meter.add(ours, torch.zeros_like(ours))
    assert meter.value() is None and si_sdr(ours, torch.zeros_like(ours)) == pytest.approx(-80)
