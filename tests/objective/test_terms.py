"""The terms: closed forms, limits, and analytic gradients against automatic ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
import torch._dynamo.testing

from earvae.config import OF_THE_MODEL, ConfigError, ObjectiveConfig, ObjectiveWeights, parse
from earvae.objective import (
    CorrelationLoss,
    LossTerms,
    MultiScaleMagnitude,
    PerceptualLoss,
    PhaseLoss,
)
from earvae.objective import terms as listed
from earvae.objective.spectral import SpectralTerms
from earvae.objective.terms import AUDIO, BY_HAND, SPECTRAL
from tests.objective import plain_forms

CORRELATION, PHASE = CorrelationLoss.names, PhaseLoss.names
ALL = {name: 1.0 for name in SPECTRAL}
EVERY = {name: weight or 0.3 for name, weight in ObjectiveWeights().model_dump().items()}
SMALL = (256, 64)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=generator, dtype=dtype)


def music_like(seconds: float = 0.3) -> torch.Tensor:
    """Correlated stereo with a falling spectrum, [2, 2, samples]."""
    white = np.random.default_rng(5).standard_normal((2, 2, int(44_100 * seconds)))
    pink = scipy.signal.lfilter([0.1], [1, -0.95], white, axis=-1)
    left, right = pink[:, 0], pink[:, 1]
    return torch.from_numpy(np.stack((left, 0.7 * left + 0.3 * right), axis=1)).float() * 0.2


def full_loss() -> PerceptualLoss:
    return PerceptualLoss(ObjectiveConfig(weights=EVERY), 44_100)


def test_every_listed_term_has_a_weight_and_every_weight_a_term():
    assert {*SPECTRAL, *AUDIO, *OF_THE_MODEL} == set(ObjectiveWeights.model_fields)


def test_all_terms_are_zero_for_equal_signals():
    audio = music_like().requires_grad_()
    loss = full_loss()(reconstruction=audio, target=audio.detach())
    assert set(loss.terms) == {*SPECTRAL, *AUDIO}
    for name, value in loss.terms.items():
        assert value == pytest.approx(0, abs=1e-6), name
    loss.total.backward()
    assert audio.grad.abs().max() < 1e-6


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((0, 0), (0, 0)), ((1, 1), (0, 0)), ((0, 0), (1, 1)), ((1, 0), (1, 0)), ((1, 1), (1, 0)),
     ((1, 0), (0, 1))],
)  # fmt: skip
def test_silence_and_one_sided_stereo_give_finite_terms_and_gradients(ours, theirs, autocast):
    gain = torch.tensor([ours, theirs], dtype=torch.float32)[:, None, :, None]
    audio = (gain[0] * noise(2, 2, 9000)).requires_grad_()
    target = gain[1] * noise(2, 2, 9000, seed=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = full_loss()(reconstruction=audio, target=target, posterior_kl=torch.ones(2))
    loss.total.backward()
    assert all(value.isfinite() for value in loss.terms.values())
    assert loss.total.isfinite()
    assert audio.grad.isfinite().all()
    if ours == theirs == (0, 0):
        assert loss.total.item() == pytest.approx(1e-6)  # the KL alone
    if theirs == (0, 0):
        assert not any(loss.terms[name] for name in CORRELATION + PHASE)


def test_bf16_autocast_does_not_change_the_terms():
    audio, target = music_like(), music_like() + noise(2, 2, 13_230)
    plain = full_loss()(audio, target).terms
    with torch.autocast("cpu", torch.bfloat16):
        inside = full_loss()(audio, target).terms
    assert inside == plain


def test_polarity_flip_gives_correlation_loss_two():
    audio = music_like()
    assert CorrelationLoss()(reconstruction=-audio, target=audio) == pytest.approx(2, abs=1e-5)
    terms = CorrelationLoss().terms(reconstruction=-audio, target=audio)
    assert terms["correlation_intra"] == pytest.approx(2, abs=1e-5)
    assert terms["correlation_inter"] == pytest.approx(0, abs=1e-5)


def test_flipping_one_channel_gives_intra_one_and_inter_two():
    audio = music_like()
    flipped = audio * torch.tensor([1.0, -1.0])[:, None]
    terms = CorrelationLoss().terms(reconstruction=flipped, target=audio)
    assert terms["correlation_intra"] == pytest.approx(1, abs=1e-5)
    assert terms["correlation_inter"] == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("degrees", [30, 90, 135])
def test_common_rotation_of_left_and_right_leaves_inter_at_zero(degrees):
    """A rotation by the Hilbert transform of tones that lie far inside the band."""
    time = torch.arange(44_100, dtype=torch.float64) / 44_100
    turn = math.radians(degrees)

    def stereo(phase: float) -> torch.Tensor:
        tones = [torch.cos(2 * math.pi * f * time + 0.3 * f + phase) for f in (1500, 3700, 9100)]
        other = [torch.cos(2 * math.pi * f * time - 0.7 * f + phase) for f in (1500, 3700, 9100)]
        return torch.stack((sum(tones), sum(other)))[None]

    config = ObjectiveConfig(resolutions=(2048, 512))
    terms = CorrelationLoss(config).terms(reconstruction=stereo(turn), target=stereo(0.0))
    assert terms["correlation_inter"] == pytest.approx(0, abs=1e-5)
    assert terms["correlation_intra"] == pytest.approx(1 - math.cos(turn), abs=1e-4)


@pytest.mark.parametrize("delay", [1, 3, 8])
@pytest.mark.parametrize("length", [512, 1024])
def test_pure_delay_gives_group_delay_loss_its_closed_form(delay, length):
    """A click at a window's centre: broadband, and clear of the frame's edges."""
    target = torch.zeros(1, 2, length)
    target[..., length // 2] = 1.0
    delayed = target.roll(delay, dims=-1)
    config = ObjectiveConfig(resolutions=(length,))
    terms = PhaseLoss(config).terms(reconstruction=delayed, target=target)
    assert terms["group_delay"] == pytest.approx(2 * math.pi * delay / length, rel=1e-3)


def test_a_delay_of_more_than_half_a_window_wraps():
    length, delay = 256, 160
    target = torch.zeros(1, 2, length)
    target[..., 64] = 1.0
    config = ObjectiveConfig(resolutions=(length,))
    terms = PhaseLoss(config).terms(reconstruction=target.roll(delay, -1), target=target)
    assert terms["group_delay"] == pytest.approx(2 * math.pi * (length - delay) / length, rel=1e-3)


def test_a_shift_in_frequency_gives_instantaneous_frequency_loss_its_closed_form():
    """Two tones 2 Hz apart advance by 2 pi 2 hop / rate less or more per hop."""
    time = torch.arange(44_100, dtype=torch.float64) / 44_100
    tone = [torch.sin(2 * math.pi * f * time).expand(1, 2, -1) for f in (3000.0, 3002.0)]
    config = ObjectiveConfig(resolutions=(2048,))
    terms = PhaseLoss(config).terms(reconstruction=tone[1], target=tone[0])
    expected = 2 * math.pi * 2 * 512 / 44_100
    assert terms["instantaneous_frequency"] == pytest.approx(expected, rel=1e-3)
    assert terms["group_delay"] < 0.1 * expected


def test_gain_gives_magnitude_terms_their_closed_form_and_costs_no_phase():
    audio = music_like()
    config = ObjectiveConfig(log_floor=1e-9)
    half = MultiScaleMagnitude(config).terms(reconstruction=0.5 * audio, target=audio)
    assert half["magnitude_linear"] == pytest.approx(0.5, abs=1e-5)
    assert half["magnitude_log"] == pytest.approx(math.log(2), abs=1e-5)
    assert CorrelationLoss(config)(0.5 * audio, audio) == pytest.approx(0, abs=1e-6)
    assert PhaseLoss(config)(0.5 * audio, audio) == pytest.approx(0, abs=1e-5)


def test_terms_do_not_change_with_level_above_the_floors():
    audio, target = music_like() + 0.01 * noise(2, 2, 13_230), music_like()
    config = ObjectiveConfig(log_floor=1e-8, level_floor=1e-6, weights={"waveform": 1.0})
    loss = PerceptualLoss(config, 44_100)
    loud, quiet = loss(audio, target).terms, loss(0.1 * audio, 0.1 * target).terms
    assert {k: v.item() for k, v in quiet.items()} == pytest.approx(
        {k: v.item() for k, v in loud.items()}, rel=2e-3
    )


@pytest.mark.parametrize("sdr", [0, 10])
def test_waveform_term_is_three_bels_less_the_signal_to_distortion_ratio(sdr):
    target = music_like()
    error = noise(*target.shape)
    energy = (target.square().mean((1, 2)) / error.square().mean((1, 2)))[:, None, None]
    audio = target + error * (energy * 10 ** (-sdr / 10)).sqrt()
    config = ObjectiveConfig(weights={**dict.fromkeys(ALL, 0.0), "waveform": 1.0})
    loss = PerceptualLoss(config, 44_100)(audio, target)
    assert loss.total == pytest.approx(3 - sdr / 10, abs=0.005)
    assert list(loss.terms) == ["waveform"]


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("channels", ["mslr", "lr", "ms"])
def test_value_and_gradient_of_each_term_equal_those_of_its_plain_form(name, channels):
    config = ObjectiveConfig(
        resolutions=SMALL, log_floor=1e-9, magnitude_channels=channels,
        phase_channels=channels,
    )  # fmt: skip
    target = noise(2, 2, 1024, dtype=torch.float64)
    start = target + noise(2, 2, 1024, seed=1, dtype=torch.float64)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    total, values = SpectralTerms(config, [name])(
        ours, target, {name: torch.tensor(0.7, dtype=torch.float64)}
    )
    expected = plain_forms.terms(theirs, target, config)[name]
    total.backward()
    (0.7 * expected).backward()
    assert list(values) == [name]
    assert values[name].item() == pytest.approx(expected.item(), rel=1e-9)
    assert total.item() == pytest.approx(0.7 * expected.item(), rel=1e-9)
    scale = theirs.grad.abs().max().item()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7 * scale)


@pytest.mark.parametrize("others", [{}, {"magnitude_linear": 1.0, "group_delay": 1.0}])
def test_a_term_without_a_slope_is_differentiated_automatically(monkeypatch, others):
    """One with a slope, listed as a plain form: nothing changes, beside others or alone."""
    none = dict.fromkeys(ObjectiveWeights.model_fields, 0.0)
    config = ObjectiveConfig(
        resolutions=SMALL,
        magnitude_channels="lr",
        weights={**none, "magnitude_log": 0.7, **others},
    )
    target, audio = music_like(0.05).double(), noise(2, 2, 2205, dtype=torch.float64)

    def evaluated():
        leaf = audio.clone().requires_grad_()
        loss = PerceptualLoss(config, 44_100)
        result = loss(leaf, target)
        result.total.backward()
        alone = loss.term_gradients(audio, target)["magnitude_log"]
        return result.total.detach(), result.terms["magnitude_log"], leaf.grad, alone

    expected = evaluated()
    monkeypatch.delitem(listed.MAGNITUDE, "magnitude_log")
    monkeypatch.setitem(listed.SPECTRA, "magnitude_log", plain_forms.forms.magnitude_log)
    torch.testing.assert_close(evaluated(), expected)


@pytest.mark.parametrize("loss_class", [MultiScaleMagnitude, PhaseLoss])
def test_gradient_is_the_numerical_one_where_weights_depend_on_the_target_only(loss_class):
    loss = loss_class(ObjectiveConfig(resolutions=(64,), log_floor=1e-9))
    target = noise(1, 2, 96, dtype=torch.float64)
    audio = target + noise(1, 2, 96, seed=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), audio.requires_grad_(), eps=1e-8)


def test_the_sum_of_all_terms_is_the_sum_of_the_terms_alone():
    target, audio = music_like(), music_like() + noise(2, 2, 13_230)
    of_the_model = {"posterior_kl": torch.tensor([1.0, 3.0]), "nll": torch.tensor(-4.0)}
    loss = full_loss()(audio.requires_grad_(), target, **of_the_model)
    weights = full_loss().config.weights.model_dump()
    assert (loss.terms["kl"], loss.terms["nll"]) == (2.0, -4.0)
    assert set(loss.weighted) == set(loss.terms) == set(weights)
    for name, value in loss.terms.items():
        assert loss.weighted[name] == pytest.approx(weights[name] * value.item())
    assert loss.total.item() == pytest.approx(sum(v.item() for v in loss.weighted.values()))


def test_batch_is_the_mean_of_its_items():
    target, audio = music_like(), music_like() + noise(2, 2, 13_230)
    loss = full_loss()
    both = loss(audio, target).total
    each = [loss(audio[i : i + 1], target[i : i + 1]).total for i in range(2)]
    assert both.item() == pytest.approx(sum(x.item() for x in each) / 2, rel=1e-5)


def test_kl_reaches_its_source_and_target_gets_no_gradient():
    kl = torch.ones(2, requires_grad=True)
    target = music_like().requires_grad_()
    full_loss()(music_like().requires_grad_(), target, posterior_kl=kl).total.backward()
    assert kl.grad.tolist() == pytest.approx([5e-7, 5e-7])


def test_training_draws_some_resolutions_and_evaluation_takes_all():
    config = ObjectiveConfig(resolutions=(512, 256, 128, 64), resolutions_per_step=2)
    loss = MultiScaleMagnitude(config)
    target, audio = noise(1, 2, 4000), noise(1, 2, 4000, seed=1)

    def draw(seed: int) -> float:
        return loss(audio, target, torch.Generator().manual_seed(seed)).item()

    every = [
        MultiScaleMagnitude(ObjectiveConfig(resolutions=(n,)))(audio, target).item()
        for n in config.resolutions
    ]
    pairs = {(a + b) / 2 for a in every for b in every if a != b}
    drawn = [draw(seed) for seed in range(20)]
    assert draw(7) == drawn[7]
    assert all(min(abs(x - p) for p in pairs) < 1e-5 for x in drawn)
    assert len({round(x, 5) for x in drawn}) > 2
    loss.eval()
    assert draw(0) == draw(1) == pytest.approx(sum(every) / 4, rel=1e-5)


def test_a_term_that_joins_counts_by_its_weight_and_without_one_is_only_told():
    value = torch.tensor(2.0, requires_grad=True)
    before = LossTerms({"x": torch.tensor(1.0)}, {"x": torch.tensor(0.5)}, torch.tensor(0.5))
    terms = before.plus({"a": value, "b": 10 * value}, {"a": 3.0, "x": 9.0})
    assert terms.terms == {"x": 1.0, "a": 2.0, "b": 20.0}
    assert terms.weighted == {"x": 0.5, "a": 6.0}
    assert not any(t.requires_grad for t in (*terms.terms.values(), *terms.weighted.values()))
    terms.total.backward()
    assert terms.total == 6.5 and value.grad == 3.0


def test_misspelt_weight_is_refused_by_name():
    with pytest.raises(ConfigError, match="weights.magnitude_lin"):
        parse(ObjectiveConfig, {"weights": {"magnitude_lin": 1.0}}, "recipe.yaml")
    with pytest.raises(ValueError, match="group_dela"):
        SpectralTerms(ObjectiveConfig(), ["group_dela"])


def test_wrong_shapes_are_refused_with_the_shapes():
    with pytest.raises(ValueError, match=r"\[1, 1, 500\]"):
        full_loss()(torch.zeros(1, 1, 500), torch.zeros(1, 1, 500))
    with pytest.raises(ValueError, match=r"\[1, 2, 500\] and \[2, 2, 500\]"):
        full_loss()(torch.zeros(1, 2, 500), torch.zeros(2, 2, 500))


@pytest.mark.parametrize("samples", [1, 500, 4096, 5001])
def test_any_length_can_be_compared(samples):
    audio = noise(1, 2, samples).requires_grad_()
    loss = full_loss()(audio, noise(1, 2, samples, seed=1))
    loss.total.backward()
    assert loss.total > 0.1
    assert audio.grad.isfinite().all() and audio.grad.abs().sum() > 0


def test_threads_take_whole_items_and_change_no_number():
    ours = torch.randn(3, 2, 4000, generator=torch.Generator().manual_seed(1))
    theirs = torch.randn(3, 2, 4000, generator=torch.Generator().manual_seed(2))
    objective = PerceptualLoss(ObjectiveConfig(resolutions=(512, 128)), 44_100)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = ours.clone().requires_grad_()
            loss = objective(leaf, theirs)
            loss.total.backward()
            assert torch.get_num_threads() == threads
            results.append((loss.total.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for total, gradient in results[1:]:
        torch.testing.assert_close(total, results[0][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-4, atol=1e-7)


def test_weights_of_a_call_replace_those_of_the_config_by_name():
    target, audio = music_like(), music_like() + noise(2, 2, 13_230)
    loss = full_loss()
    own = loss(audio, target).terms
    given = {"group_delay": 3.0, "waveform": torch.tensor(0.25), "magnitude_log": torch.tensor(2.0)}
    called = loss(audio, target, weights=given)
    for name, weight in given.items():
        assert called.weighted[name].item() == pytest.approx(float(weight) * own[name].item())
    assert called.weighted["correlation_intra"] == own["correlation_intra"]  # its own weight, 1
    assert called.total.item() == pytest.approx(sum(x.item() for x in called.weighted.values()))


def test_unknown_weight_of_a_call_is_refused_and_a_term_turned_off_stays_off():
    loss = PerceptualLoss(ObjectiveConfig(), 44_100)
    audio = noise(1, 2, 4096)
    with pytest.raises(ValueError, match="group_dela;"):
        loss(audio, audio, weights={"group_dela": 1.0})
    assert "waveform" not in loss(audio, audio, weights={"waveform": 1.0}).terms


@pytest.mark.parametrize("weighting", ["k", "none"])
def test_gradients_by_term_add_up_to_the_gradient_of_the_weighted_sum(weighting):
    config = ObjectiveConfig(resolutions=SMALL, weighting=weighting, weights=EVERY)
    loss = PerceptualLoss(config, 44_100)
    target = music_like(0.05).double()
    audio = (target + noise(*target.shape, dtype=torch.float64)).requires_grad_()
    found = loss.term_gradients(audio, target)
    assert set(found) == {*SPECTRAL, *AUDIO}
    assert audio.grad is None and not any(x.requires_grad for x in found.values())
    loss(audio, target, posterior_kl=torch.tensor(3.0)).total.backward()
    total = sum(config.weights.model_dump()[name] * slope for name, slope in found.items())
    torch.testing.assert_close(total, audio.grad, rtol=1e-9, atol=1e-15)


def test_gradients_by_term_see_the_same_drawn_resolutions():
    config = ObjectiveConfig(resolutions=(512, 256, 128, 64), resolutions_per_step=1)
    loss = PerceptualLoss(config, 44_100)
    target, audio = noise(1, 2, 4000), noise(1, 2, 4000, seed=1).requires_grad_()
    for seed in range(3):
        audio.grad = None
        loss(audio, target, generator=torch.Generator().manual_seed(seed)).total.backward()
        found = loss.term_gradients(audio, target, torch.Generator().manual_seed(seed))
        total = sum(config.weights.model_dump()[name] * slope for name, slope in found.items())
        torch.testing.assert_close(total, audio.grad, rtol=1e-4, atol=1e-7)


def test_compiled_terms_equal_the_others_with_one_graph_for_each_resolution():
    """Traced, not generated: that would take a minute."""
    torch._dynamo.reset()
    config = ObjectiveConfig(
        resolutions=SMALL, resolutions_per_step=1, magnitude_channels="lr",
        phase_weighting="amplitude", phase_wrap=False,
    )  # fmt: skip
    plain, fused = PerceptualLoss(config, 44_100), PerceptualLoss(config, 44_100)
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    fused.compile_terms(backend=counter, fullgraph=True)
    target = noise(1, 2, 1024)
    for seed in range(6):
        weights = {"group_delay": 0.1 * seed, "magnitude_log": torch.tensor(0.2 * seed)}
        results = []
        for loss in (plain, fused):
            audio = noise(1, 2, 1024, seed=1).requires_grad_()
            random = torch.Generator().manual_seed(seed)
            total = loss(audio, target, generator=random, weights=weights).total
            total.backward()
            results.append((total.detach(), audio.grad))
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)
    assert counter.frame_count == len(SMALL)
