"""Measures of what distances do not hear, on signals whose faults are known."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from earvae.evaluation.figures import measure
from earvae.evaluation.metrics import Signal
from earvae.evaluation.metrics.evenness import evenness_figures, flatness
from earvae.evaluation.metrics.lines import line_figures
from earvae.evaluation.metrics.octaves import BANDS_HZ, octave_figures
from earvae.evaluation.metrics.panning import panning_figures
from earvae.evaluation.metrics.repetition import repetition_figures

RATE = 44_100
SAMPLES = 4 * RATE
HOP = 1024
MEASURES = (evenness_figures, line_figures, octave_figures, panning_figures, repetition_figures)


def pair(reconstruction: torch.Tensor, target: torch.Tensor, hop: int = HOP) -> tuple:
    return Signal(reconstruction, RATE, hop), Signal(target, RATE)


def hearing_metrics(reconstruction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    ours, theirs = pair(reconstruction, target)
    return {key: value for metric in MEASURES for key, value in metric(ours, theirs).items()}


def line_metrics(reconstruction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    return line_figures(*pair(reconstruction, target))


def panning_metrics(reconstruction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    return panning_figures(*pair(reconstruction, target))


def repetition_metrics(
    reconstruction: torch.Tensor, target: torch.Tensor, hop: int
) -> dict[str, float]:
    return repetition_figures(*pair(reconstruction, target, hop))


def noise(seed: int, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(channels, SAMPLES, generator=generator)


def tones(*hertz: float) -> torch.Tensor:
    """Sines alike in both channels, at -20 dB."""
    time = torch.arange(SAMPLES, dtype=torch.float64) / RATE
    mono = sum(0.1 * torch.sin(2 * math.pi * hz * time) for hz in hertz)
    return mono.float().repeat(2, 1)


def band_scaled(audio: torch.Tensor, low: float, high: float, gain: float) -> torch.Tensor:
    spectrum = torch.fft.rfft(audio)
    hz = torch.linspace(0, RATE / 2, spectrum.shape[-1])
    inside = (hz >= low) & (hz < high)
    return torch.fft.irfft(torch.where(inside, gain * spectrum, spectrum), n=audio.shape[-1])


def repeated_frame() -> torch.Tensor:
    return noise(7)[:, :HOP].repeat(1, SAMPLES // HOP + 1)[:, :SAMPLES]


def leaking(audio: torch.Tensor, share: float) -> torch.Tensor:
    """Left leaks into Right."""
    return torch.stack([audio[0], audio[1] + share * audio[0]])


@pytest.fixture(scope="module")
def panned() -> torch.Tensor:
    """Right is another noise, 30 dB below Left."""
    return noise(0) * torch.tensor([[1.0], [10 ** (-30 / 20)]])


def test_identical_signals_are_perfect(panned):
    audio = panned + tones(440, 1500, 3000, 6000)
    figures = hearing_metrics(audio, audio)
    for band in BANDS_HZ:
        if band != "8-16":
            assert figures[f"lines_f1_{band}"] == figures[f"kept_{band}"] == 1
            assert figures[f"invented_{band}"] == 0
        assert figures[f"sdr_{band}"] == math.inf
        assert figures[f"level_{band}"] == 0
        assert figures[f"repetition_{band}"] == figures[f"evenness_{band}"] == 0
    assert {f"panning_{band}": 0.0 for band in BANDS_HZ}.items() <= hearing_metrics(
        panned, panned
    ).items()


def test_shifted_partial_is_a_line_lost_and_a_line_invented_in_its_band_alone():
    figures = line_metrics(reconstruction=tones(500, 1500, 3050), target=tones(500, 1500, 3000))
    for band in ("0.2-1", "1-2"):
        assert figures[f"lines_f1_{band}"] == 1
    assert (figures["kept_2-4"], figures["invented_2-4"], figures["lines_f1_2-4"]) == (0, 1, 0)
    assert math.isnan(figures["kept_4-8"])  # nothing to keep


def test_partial_within_a_bin_and_6_db_is_kept_and_beyond_either_is_not():
    target = tones(1500)
    bin_hz = RATE / 8192
    for ours, kept in (
        (tones(1500 + 0.8 * bin_hz), 1),
        (tones(1500 + 2.5 * bin_hz), 0),
        (target * 10 ** (-5 / 20), 1),
        (target * 10 ** (-7 / 20), 0),
    ):
        figures = line_metrics(reconstruction=ours, target=target)
        assert (figures["kept_1-2"], figures["invented_1-2"]) == (kept, 1 - kept)


def test_one_new_partial_beside_two_kept_halves_what_is_invented_and_gives_f1_of_4_fifths():
    """Recall 1 and precision 2/3."""
    figures = line_metrics(reconstruction=tones(1200, 1400, 1700), target=tones(1200, 1700))
    assert figures["kept_1-2"] == 1
    assert figures["invented_1-2"] == pytest.approx(0.5)
    assert figures["lines_f1_1-2"] == pytest.approx(0.8)


def test_octave_lowered_by_6_db_is_quieter_in_that_band_only_and_sdr_is_that_of_half():
    target = noise(1)
    figures = hearing_metrics(band_scaled(target, 2000, 4000, 0.5), target)
    for band in BANDS_HZ:
        expected = 20 * math.log10(0.5) if band == "2-4" else 0.0
        assert figures[f"level_{band}"] == pytest.approx(expected, abs=0.1)
        assert figures[f"repetition_{band}"] == pytest.approx(0, abs=0.01)
    assert figures["sdr_2-4"] == pytest.approx(20 * math.log10(2), abs=0.1)  # half is missing
    assert min(figures["sdr_0.2-1"], figures["sdr_8-16"]) > 30


def test_other_noise_of_equal_level_has_minus_3_db_of_sdr_and_no_level_error():
    figures = hearing_metrics(noise(2), noise(3))
    for band in BANDS_HZ:
        assert figures[f"sdr_{band}"] == pytest.approx(-10 * math.log10(2), abs=0.25)
        assert figures[f"level_{band}"] == pytest.approx(0, abs=0.25)


def test_leak_raises_the_quieter_channel_by_what_leaks_and_nothing_else(panned):
    """Left at a tenth, -20 dB, beside what is at -30 dB: 10 log10(1 + 10) dB louder."""
    figures = hearing_metrics(leaking(panned, 0.1), panned)
    for band in BANDS_HZ:
        assert figures[f"panning_{band}"] == pytest.approx(10 * math.log10(11), abs=0.4)
        assert figures[f"repetition_{band}"] == pytest.approx(0, abs=0.01)
        assert figures[f"level_{band}"] == pytest.approx(20 * math.log10(1.1), abs=0.1)


def test_panning_is_that_of_whichever_channel_is_quieter(panned):
    swapped = panned.flip(0)
    assert panning_metrics(leaking(panned, 0.1).flip(0), swapped) == pytest.approx(
        panning_metrics(leaking(panned, 0.1), panned)
    )


def test_without_panned_frames_panning_has_no_meaning():
    for target in (noise(4), noise(4)[:1].repeat(2, 1), torch.zeros(2, SAMPLES)):
        assert all(math.isnan(v) for v in panning_metrics(noise(5), target).values())


def test_panned_band_that_is_too_quiet_in_both_channels_is_no_error_of_panning(panned):
    figures = panning_metrics(band_scaled(panned, 1000, 4000, 0.5), panned)
    assert all(abs(figures[f"panning_{band}"]) < 0.05 for band in ("1-2", "2-4"))


def test_noise_is_as_flat_as_theory_says_and_a_click_or_a_tone_in_a_tile_is_not():
    """The logarithm of an exponential variable has the mean of that of its mean, less Euler's
    constant."""
    euler = 10 / math.log(10) * 0.5772
    click = torch.zeros(2, SAMPLES)
    click[:, SAMPLES // 2] = 1.0
    for band, (value, sounds) in flatness(noise(1), RATE).items():
        assert value.mean() == pytest.approx(-euler, abs=0.15) and sounds.all(), band
    for audio in (click, tones(3000)):
        value, sounds = flatness(audio, RATE)["2-4"]
        assert 0 < sounds.sum() < sounds.numel() and value[sounds].mean() < -6


def test_texture_too_smooth_is_above_0_and_one_with_holes_below():
    target = noise(1)
    spectrum = torch.stft(target, 512, 128, window=torch.hann_window(512), return_complex=True)
    for power, low, high in ((0.0, 1.0, 2.5), (2.0, -6.0, -1.0)):
        changed = torch.polar(spectrum.abs() ** power, spectrum.angle())
        audio = torch.istft(changed, 512, 128, window=torch.hann_window(512), length=SAMPLES)
        audio = audio * (target.square().mean() / audio.square().mean()).sqrt()
        figures = evenness_figures(*pair(audio, target))
        assert all(low < value < high for value in figures.values()), figures


def test_another_noise_is_as_even_and_so_is_the_target_at_another_level():
    for audio in (noise(2), 0.1 * noise(1)):
        figures = evenness_figures(*pair(audio, noise(1)))
        assert max(map(abs, figures.values())) < 0.2


def test_texture_of_a_channel_far_below_the_other_does_not_count(panned):
    """There a leak is what matters, which panning says."""
    figures = evenness_figures(*pair(panned * torch.tensor([[1.0], [0.0]]), panned))
    assert all(abs(value) < 1e-4 for value in figures.values())


def test_line_at_the_edge_of_the_range_is_not_lost_by_5_db():
    """50 dB below the strongest; a line 48 dB below may be 53 dB below in the reconstruction."""
    loud, faint = tones(500), 10 ** (-48 / 20) * tones(3000)
    figures = line_metrics(loud + 10 ** (-5 / 20) * faint, loud + faint)
    assert (figures["kept_2-4"], figures["invented_2-4"]) == (1, 0)


def test_to_be_less_unlike_itself_than_the_target_is_no_repetition():
    """Noise in the place of a tone whose phase differs from hop to hop."""
    unlike = tones(2_500.0 + RATE / HOP / 6)
    values = repetition_metrics(noise(8), unlike + 0.01 * noise(6), HOP)
    assert abs(values["repetition_2-4"]) < 0.05


def test_repeated_frame_has_repetition_near_one_and_noise_has_none():
    target = noise(6)
    for values, expected, slack in (
        (repetition_metrics(repeated_frame(), target, HOP), 1.0, 0.08),
        (repetition_metrics(noise(8), target, HOP), 0.0, 0.05),
    ):
        assert list(values.values()) == [pytest.approx(expected, abs=slack)] * len(BANDS_HZ)


def test_treble_of_one_repeated_frame_repeats_above_4_khz_only_at_any_level_of_noise():
    """Pattern and noise of equal power correlate by a half."""
    target = noise(6)
    pattern = band_scaled(repeated_frame(), 0, 4000, 0)
    values = repetition_metrics(band_scaled(target, 4000, RATE, 0) + pattern, target, HOP)
    assert max(values[f"repetition_{band}"] for band in ("0.2-1", "1-2", "2-4")) < 0.05
    assert values["repetition_4-8"] > 0.9 < values["repetition_8-16"]
    power = [band_scaled(x, 4000, 8000, 0).square().mean() for x in (pattern, noise(9))]
    mixed = pattern + noise(9) * (power[0] / power[1]).sqrt()
    assert repetition_metrics(mixed, target, HOP)["repetition_8-16"] == pytest.approx(0.5, abs=0.06)


def test_pattern_over_two_hops_is_found_and_one_of_another_period_is_not():
    pattern = noise(7)[:, : 2 * HOP].repeat(1, SAMPLES // HOP)[:, :SAMPLES]
    for hop, low, high in ((HOP, 0.9, 1.0), (900, -0.1, 0.1)):
        values = repetition_metrics(pattern, noise(6), hop)
        assert low < values["repetition_4-8"] < high


@pytest.mark.parametrize("period", [HOP, 2 * HOP])
def test_pattern_that_changes_its_sign_with_every_period_is_found(period):
    pattern = noise(7)[:, :period]
    pattern = torch.cat([pattern, -pattern], dim=1).repeat(1, SAMPLES // (2 * period) + 1)
    values = repetition_metrics(pattern[:, :SAMPLES], noise(6), HOP)
    assert values["repetition_4-8"] > 0.9


def test_rhythm_of_the_target_itself_is_no_repetition():
    """What the original repeats, the reconstruction may."""
    figures = repetition_metrics(repeated_frame() + 0.01 * noise(9), repeated_frame(), HOP)
    assert max(map(abs, figures.values())) < 0.01


def test_silent_bands_of_the_target_have_no_figures_and_a_silent_reconstruction_is_worst():
    for name, value in hearing_metrics(noise(1), torch.zeros(2, SAMPLES)).items():
        assert math.isnan(value), name
    figures = hearing_metrics(torch.zeros(2, SAMPLES), tones(500, 1500, 3000, 6000) + noise(1))
    for band in ("0.2-1", "1-2", "2-4", "4-8"):
        assert (figures[f"kept_{band}"], figures[f"invented_{band}"]) == (0, 0)
        assert (figures[f"sdr_{band}"], figures[f"level_{band}"]) == (0, -math.inf)
        assert figures[f"evenness_{band}"] > 2  # silence is even


def test_one_target_compares_many_and_each_as_if_alone(panned):
    target = Signal(panned, RATE)
    for ours in (leaking(panned, 0.1), repeated_frame()):
        for metric in MEASURES:
            alone = metric(*pair(ours, panned))
            assert metric(Signal(ours, RATE), target) == pytest.approx(alone, nan_ok=True)


def test_long_signals_are_measured_as_short_ones_are():
    """Spectra come some six seconds at a time; frames at the seams count once."""
    target = noise(3).repeat(1, 4)[:, : 15 * RATE]
    ours = target + 0.3 * noise(2).repeat(1, 4)[:, : 15 * RATE]
    for metric in (line_figures, octave_figures, evenness_figures):
        found = metric(*pair(ours, target))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("earvae.evaluation.metrics.octaves.BLOCK", 1 << 24)
            patch.setattr("earvae.evaluation.metrics.evenness.BLOCK", 1 << 14)
            assert metric(*pair(ours, target)) == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize(
    ("ours", "target", "message"),
    [
        (torch.zeros(2, 9000), torch.zeros(2, 10_000), "differ in shape"),
        (torch.full((2, 9000), math.nan), torch.zeros(2, 9000), "not finite"),
        (torch.zeros(2, 5000), torch.zeros(2, 5000), "too short"),
        (torch.zeros(1, 9000), torch.zeros(1, 9000), r"\[2, samples\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, target, message):
    with pytest.raises(ValueError, match=message):
        measure(Signal(ours), Signal(target))


def test_measures_do_not_import_the_model():
    code = (
        "import sys, earvae.evaluation.figures; "
        "print([m for m in sys.modules if m.startswith('earvae.model')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
