"""The metrics against the published evaluation's values and what each is known to do."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from earvae.evaluation.metrics import (
    ccpc,
    icpc,
    mel_distance,
    si_sdr,
    stft_distance,
    track_metrics,
)
from earvae.evaluation.metrics.blocks import BLOCK, blocks
from tests.small import GOLDEN

EXPECTED = json.loads((GOLDEN / "metrics_expected.json").read_text())
DEGRADED = [name for name in EXPECTED if name != "identical"]


@pytest.fixture(scope="module")
def pairs() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "metrics_pairs.safetensors")


@pytest.mark.parametrize("name", DEGRADED)
def test_the_published_evaluations_values_come_out(pairs, name):
    figures = track_metrics(reconstruction=pairs[name], target=pairs["reference"])
    expected = dict(EXPECTED[name])
    assert figures["si_sdr"] == pytest.approx(expected.pop("sisdr"), abs=0.01)
    for metric, value in expected.items():
        # the expected values have four decimals, hence the half of the last one
        assert figures[metric] == pytest.approx(value, rel=1e-3, abs=0.5e-4), metric


def test_identical_signals_have_no_distance(pairs):
    figures = track_metrics(reconstruction=pairs["identical"], target=pairs["reference"])
    assert figures["si_sdr"] == pytest.approx(EXPECTED["identical"]["sisdr"], abs=0.01)
    assert figures["mel"] < 1e-6 and figures["stft"] < 1e-6
    assert figures["icpc"] == pytest.approx(1, abs=1e-6)
    assert figures["ccpc"] == pytest.approx(1, abs=1e-6)


# ------------------------------------------------------------------ against auraloss itself


def random_stereo(seed: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A correlated pair of channels, and a coloured, noisy copy of it."""
    draw = torch.Generator().manual_seed(seed)
    target = 0.2 * torch.randn(2, samples, generator=draw)
    target[1] = 0.7 * target[0] - 0.3 * target[1]
    smooth = 0.6 * target + 0.4 * target.roll(1, dims=-1)
    return smooth + 0.02 * torch.randn(2, samples, generator=draw), target


@pytest.mark.parametrize("rate", [44_100, 48_000])
@pytest.mark.parametrize("samples", [2 * 32_768 + 5, 32_767, 2049])
def test_distances_and_si_sdr_equal_auraloss_on_random_stereo(samples, rate):
    auraloss = pytest.importorskip("auraloss")
    pytest.importorskip("librosa")
    ours, target = random_stereo(samples, samples)

    def distance(lengths, **more):
        loss = auraloss.freq.MultiResolutionSTFTLoss(
            fft_sizes=lengths,
            hop_sizes=[n // 4 for n in lengths],
            win_lengths=lengths,
            sample_rate=rate,
            perceptual_weighting=True,
            **more,
        )
        return float(loss(ours[None], target[None]))

    figures = track_metrics(reconstruction=ours, target=target, sample_rate=rate)
    mel = distance([4096, 2048, 1024, 512], scale="mel", n_bins=64)
    assert figures["mel"] == pytest.approx(mel, rel=1e-5)
    assert figures["stft"] == pytest.approx(distance([4096, 2048, 1024, 512, 256, 128]), rel=2e-5)
    sisdr = -float(auraloss.time.SISDRLoss()(ours[None], target[None]))
    assert figures["si_sdr"] == pytest.approx(sisdr, abs=1e-3)


def whole_coherence(shift: torch.Tensor, weight: torch.Tensor) -> float:
    """SPEC 4 word for word; ``[bins, frames]`` each."""
    weight = torch.where(weight > 1e-6, weight, 0)
    per_frame = (weight * torch.exp(1j * shift)).sum(0).abs() / weight.sum(0)
    return float((per_frame * weight.sum(0)).sum() / weight.sum())


@pytest.mark.parametrize("samples", [3 * 32_768 - 1, 32_768, 2049])
def test_coherences_in_blocks_equal_those_of_the_whole_signal(samples):
    ours, target = random_stereo(1, samples)
    within, across = [], []
    for length in (4096, 2048, 1024, 512):
        window = torch.hann_window(length, dtype=torch.float64)
        x, y = (
            torch.stft(a.double(), length, length // 4, window=window, return_complex=True)
            for a in (ours, target)
        )
        for c in range(2):
            within.append(whole_coherence(x[c].angle() - y[c].angle(), x[c].abs() * y[c].abs()))
        shift = (x[0] * x[1].conj()).angle() - (y[0] * y[1].conj()).angle()
        across.append(whole_coherence(shift, x[0].abs() * x[1].abs()))
    figures = track_metrics(reconstruction=ours, target=target)
    assert figures["icpc"] == pytest.approx(sum(within) / len(within), rel=1e-5)
    assert figures["ccpc"] == pytest.approx(sum(across) / len(across), rel=1e-5)


def test_the_single_metrics_give_the_items_of_a_batch_their_track_values(pairs):
    names = ["noise_20db", "mono_collapse"]
    ours = torch.stack([pairs[name] for name in names])
    target = pairs["reference"].expand_as(ours)
    alone = [track_metrics(pairs[name], pairs["reference"]) for name in names]
    for metric in (si_sdr, mel_distance, stft_distance, icpc, ccpc):
        name = metric.__name__.removesuffix("_distance")
        values = metric(reconstruction=ours, target=target)
        assert values.tolist() == pytest.approx([item[name] for item in alone], rel=1e-5)


# ------------------------------------------------------------------ physical truths


def test_gain_moves_neither_si_sdr_nor_phase(pairs):
    ours, target = pairs["noise_20db"], pairs["reference"]
    plain, loud = track_metrics(ours, target), track_metrics(2 * ours, target)
    assert loud["si_sdr"] == pytest.approx(plain["si_sdr"], abs=1e-3)
    pure = track_metrics(2 * target, target)
    assert pure["si_sdr"] > 100
    assert pure["icpc"] == pytest.approx(1, abs=1e-6)
    assert pure["ccpc"] == pytest.approx(1, abs=1e-6)


def test_gain_of_two_reads_as_one_plus_ln_2_in_the_distances():
    """Spectral convergence of 2x against x is 1, and every log magnitude is off by ln 2."""
    target = 0.2 * torch.randn(2, 44_100, generator=torch.Generator().manual_seed(0))
    figures = track_metrics(reconstruction=2 * target, target=target)
    assert figures["mel"] == pytest.approx(1 + math.log(2), rel=1e-5)
    assert figures["stft"] == pytest.approx(1 + math.log(2), rel=1e-4)  # some bins at the floor


def test_polarity_flip_leaves_every_metric_perfect_since_none_sees_a_constant_phase(pairs):
    figures = track_metrics(reconstruction=-pairs["reference"], target=pairs["reference"])
    assert figures["si_sdr"] > 100
    assert figures["mel"] < 1e-6 and figures["stft"] < 1e-6
    assert figures["icpc"] == pytest.approx(1, abs=1e-6)


def test_flip_of_one_channel_alone_is_seen_by_neither_coherence(pairs):
    """|sum w e^(j pi)| = sum w: both coherences measure spread of phase error, not its mean."""
    flipped = pairs["reference"] * torch.tensor([[1.0], [-1.0]])
    figures = track_metrics(reconstruction=flipped, target=pairs["reference"])
    assert figures["icpc"] == pytest.approx(1, abs=1e-6)
    assert figures["ccpc"] == pytest.approx(1, abs=1e-6)


def test_delay_of_ten_samples_leaves_the_image_but_not_the_waveform(pairs):
    delayed = pairs["reference"].roll(10, dims=-1)
    figures = track_metrics(reconstruction=delayed, target=pairs["reference"])
    assert figures["ccpc"] > 0.95
    assert figures["icpc"] < figures["ccpc"]
    assert figures["si_sdr"] < 10


def test_channel_swap_destroys_the_image(pairs):
    target = pairs["reference"]
    figures = track_metrics(reconstruction=target.flip(0), target=target)
    assert figures["ccpc"] < 0.5
    assert figures["si_sdr"] < 0


def test_mono_fold_down_drives_the_image_down(pairs):
    target = pairs["reference"]
    mono = target.mean(0, keepdim=True).expand_as(target)
    assert track_metrics(reconstruction=mono, target=target)["ccpc"] < 0.8


# ------------------------------------------------------------------ silence


def test_silent_target_has_no_figures():
    noise = 0.1 * torch.randn(2, 44_100, generator=torch.Generator().manual_seed(0))
    silence = torch.zeros_like(noise)
    for reconstruction in (silence, noise):
        figures = track_metrics(reconstruction=reconstruction, target=silence)
        assert all(math.isnan(value) for value in figures.values())


def test_silent_reconstruction_scores_the_worst(pairs):
    target = pairs["reference"]
    figures = track_metrics(reconstruction=torch.zeros_like(target), target=target)
    assert figures["si_sdr"] == pytest.approx(-80)  # the published floor
    assert figures["icpc"] == 0 and figures["ccpc"] == 0
    assert 1 < figures["mel"] < 20


def test_one_sided_target_is_measured_on_its_side_and_has_no_image(pairs):
    target = pairs["reference"] * torch.tensor([[1.0], [0.0]])
    ours = pairs["noise_20db"]
    figures = track_metrics(reconstruction=ours, target=target)
    alone = track_metrics(reconstruction=ours[:1], target=target[:1])
    assert math.isnan(figures["ccpc"])
    assert figures["si_sdr"] == pytest.approx(alone["si_sdr"], abs=1e-6)
    assert figures["icpc"] == pytest.approx(alone["icpc"], abs=1e-6)


def test_reconstruction_that_loses_one_side_scores_no_image(pairs):
    target = pairs["reference"]
    one_sided = target * torch.tensor([[1.0], [0.0]])
    assert track_metrics(reconstruction=one_sided, target=target)["ccpc"] == 0


def test_what_cannot_be_compared_is_refused(pairs):
    target = pairs["reference"]
    with pytest.raises(ValueError, match="differ in shape"):
        track_metrics(reconstruction=target[:, 1:], target=target)
    with pytest.raises(ValueError, match="reconstruction holds values that are not finite"):
        track_metrics(reconstruction=target / 0, target=target)
    with pytest.raises(ValueError, match="too short"):
        track_metrics(reconstruction=target[:, :2048], target=target[:, :2048])


def test_autocast_and_gradients_change_no_value(pairs):
    ours, target = pairs["mono_collapse"].clone().requires_grad_(), pairs["reference"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        figures = track_metrics(reconstruction=ours, target=target)
    assert figures == track_metrics(reconstruction=ours.detach(), target=target)


@pytest.mark.parametrize("seconds", [2, 60])
def test_no_block_is_longer_for_a_longer_signal(seconds):
    signal = torch.zeros(1, 1).expand(2, seconds * 44_100)
    lengths = {block.audio.shape[-1] for block in blocks((signal, signal), longest=4096)}
    assert max(lengths) == BLOCK + 4096
