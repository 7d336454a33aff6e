"""The released correlation and phase losses, and what the options of the phase terms do."""

from __future__ import annotations

import json
import math

import pytest
import safetensors.torch
import torch

from earvae.config import ObjectiveConfig
from earvae.objective import CorrelationLoss, PhaseLoss
from earvae.objective.spectral import SpectralTerms
from earvae.objective.terms import BY_HAND, SPECTRAL
from tests.objective import plain_forms
from tests.small import GOLDEN

CORRELATION, PHASE = CorrelationLoss.names, PhaseLoss.names
EXPECTED = json.loads((GOLDEN / "released_losses_expected.json").read_text())
NAMES = {
    "correlation": "correlation_intra",
    "instantaneous_frequency": "instantaneous_frequency",
    "group_delay": "group_delay",
}

ONES = dict.fromkeys(SPECTRAL, torch.tensor(1.0))


def options(**changed) -> ObjectiveConfig:
    return ObjectiveConfig(**{**ObjectiveConfig.released().model_dump(), **changed})


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("pair", EXPECTED)
@pytest.mark.parametrize("length", [2048, 1024, 512])
def test_released_preset_gives_the_authors_own_values(pair, length):
    pairs = safetensors.torch.load_file(GOLDEN / "metrics_pairs.safetensors")
    hop = length // 4
    samples = pairs["reference"].shape[-1] // hop * hop  # the released frames are whole ones
    audio, target = (pairs[key][None, :, :samples].double() for key in (pair, "reference"))
    terms = SpectralTerms(options(resolutions=(length,)), NAMES.values())
    measured = terms(audio, target, ONES)[1]
    for name, expected in EXPECTED[pair][str(length)].items():
        close = {"abs": 5e-5} if pair == "identical" else {"rel": 1e-6}
        assert measured[NAMES[name]].item() == pytest.approx(expected, **close), name


def test_released_preset_has_the_three_terms_of_the_authors_and_no_other_of_phase():
    weights = ObjectiveConfig.released().weights.model_dump()
    assert {name for name in CORRELATION + PHASE if weights[name]} == set(NAMES.values())


def cases():
    """Every term with every value of the options that it heeds."""
    for name in BY_HAND:
        phase, inter = name in CORRELATION + PHASE, name == "correlation_inter"
        for weighting in ("none", "amplitude", "energy") if phase else ("none",):
            for wrap in (True, False) if name in PHASE else (True,):
                for channels in ("lr", "ms", "mslr") if phase and not inter else ("lr",):
                    yield name, weighting, wrap, channels


@pytest.mark.parametrize(("name", "weighting", "wrap", "channels"), list(cases()))
def test_gradient_of_each_term_is_that_of_finite_differences(name, weighting, wrap, channels):
    config = options(
        resolutions=(64, 32), log_floor=1e-9, phase_weighting=weighting, phase_wrap=wrap,
        phase_channels=channels,
    )  # fmt: skip
    target = noise(2, 2, 128)
    leaf = (target + noise(2, 2, 128, seed=1)).requires_grad_()
    total, values = SpectralTerms(config, [name])(
        leaf, target, {name: torch.tensor(0.7, dtype=torch.float64)}
    )
    total.backward()
    audio = leaf.detach()

    def value(at: torch.Tensor) -> float:  # weights stay, as they carry no gradient
        return plain_forms.terms(at, target, config, audio, [name])[name].item()

    assert values[name].item() == pytest.approx(value(audio), rel=1e-9)
    assert total.item() == pytest.approx(0.7 * values[name].item(), rel=1e-12)
    step = 1e-8
    for seed in range(2, 6):
        direction = noise(2, 2, 128, seed=seed)
        slope = (value(audio + step * direction) - value(audio - step * direction)) / (2 * step)
        analytic = (leaf.grad * direction).sum().item()
        assert analytic == pytest.approx(0.7 * slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("weighting", ["none", "amplitude", "energy"])
@pytest.mark.parametrize("wrap", [True, False])
def test_silence_costs_nothing_and_pulls_at_nothing(weighting, wrap):
    config = options(phase_weighting=weighting, phase_wrap=wrap)
    terms = SpectralTerms(config, CORRELATION + PHASE)
    audio = torch.zeros(1, 2, 4096, requires_grad=True)
    total, values = terms(audio, torch.zeros(1, 2, 4096), ONES)
    total.backward()
    assert not any(values.values())
    assert not audio.grad.any()


@pytest.mark.parametrize("level_db", [-100, -120, -200])
def test_gradient_of_unweighted_phase_stays_bounded_as_a_signal_fades(level_db):
    """One bin gives at most 1 / (2 log_floor) of its share, however small it gets."""
    config = options(resolutions=(512,))
    gain = 10 ** (level_db / 20)
    target = gain * noise(1, 2, 4096).float()
    audio = (gain * noise(1, 2, 4096, seed=1).float()).requires_grad_()
    total, _ = SpectralTerms(config, NAMES.values())(audio, target, ONES)
    total.backward()
    bins = 2 * 29 * 257
    # per bin: correlation 1, two derivatives of two steps each
    most = bins**0.5 * (1 + 2 + 2) / bins / (2 * config.log_floor)
    assert audio.grad.isfinite().all()
    # overlapping windows of unit energy, hop 1/4: the adjoint's norm is at most sqrt(4 N)
    assert audio.grad.norm() <= most * math.sqrt(4 * 512)
    assert audio.grad.norm() > 0


def test_unweighted_terms_count_a_quiet_treble_as_much_as_a_loud_bass():
    """Noise that is 60 dB lower, and flipped in polarity, in the upper half of the band.

    Cosines are 1 below and -1 above: the plain mean loses half of 2, energies a millionth.
    """
    spectrum = torch.fft.rfft(noise(1, 2, 16_384))
    treble = torch.arange(spectrum.shape[-1]) >= spectrum.shape[-1] // 2
    shape, flip = 1 - 0.999 * treble, 1 - 2.0 * treble
    target = torch.fft.irfft(spectrum * shape)
    audio = torch.fft.irfft(spectrum * shape * flip)
    found = {}
    for weighting in ("none", "amplitude", "energy"):
        config = options(resolutions=(512,), phase_weighting=weighting)
        found[weighting] = SpectralTerms(config, ["correlation_intra"])(audio, target, ONES)[1]
    found = {weighting: terms["correlation_intra"].item() for weighting, terms in found.items()}
    assert found["none"] == pytest.approx(1, abs=0.1)  # the window leaks
    assert found["amplitude"] == pytest.approx(2 * 0.001 / 1.001, rel=0.3)
    assert found["energy"] < 1e-4


def test_only_the_wrapped_step_is_blind_to_a_whole_turn():
    """A tone whose phase passes the branch cut in one signal and not in the other."""
    time = torch.arange(4096, dtype=torch.float64)
    tone = [torch.sin(2 * math.pi * 0.125 * time + p).expand(1, 2, -1) for p in (0.0, 1e-3)]
    found = {}
    for wrap in (True, False):
        config = options(resolutions=(512,), phase_weighting="energy", phase_wrap=wrap)
        found[wrap] = SpectralTerms(config, PHASE)(tone[1], tone[0], ONES)[1]
    assert found[True]["group_delay"] < 1e-5
    for name in PHASE:
        assert found[False][name] > found[True][name] - 1e-9  # where both are rounding
