"""The discriminator sees what it should, and learns what separates music from damaged copies."""

import numpy as np
import pytest
import soundfile
import torch
from scipy import signal

from earvae.config import DiscriminatorConfig
from earvae.discriminator import Discriminator, ScaleDiscriminator
from earvae.objective.adversarial import discriminator_terms
from tests.small import CLIPS

RATE = 44_100
CROP = 4_096


def all_crops():
    """About fifty crops of the shipped clips, [crops, 2, samples]."""
    found = []
    for path in sorted(CLIPS.glob("*.flac")):
        audio = soundfile.read(path, dtype="float32")[0].T
        found += [audio[:, i : i + CROP] for i in range(0, audio.shape[1] - CROP, 8 * CROP)]
    return torch.from_numpy(np.stack(found))


@pytest.fixture(scope="module")
def crops():
    return all_crops()


def low_passed(audio):
    """Nothing above 8 kHz."""
    sos = signal.butter(8, 8000, fs=RATE, output="sos")
    return torch.from_numpy(signal.sosfiltfilt(sos, audio.numpy()).astype(np.float32))


def mono(audio):
    return audio.mean(1, keepdim=True).expand(-1, 2, -1).contiguous()


def phase_scrambled(audio):
    """The same short-time magnitudes (as far as they can be) with random phases."""
    random = np.random.default_rng(0)
    _, _, spectrum = signal.stft(audio.numpy(), nperseg=1024, noverlap=768)
    turned = spectrum * np.exp(2j * np.pi * random.random(spectrum.shape))
    _, scrambled = signal.istft(turned, nperseg=1024, noverlap=768)
    return torch.from_numpy(scrambled[..., : audio.shape[-1]].astype(np.float32))


@pytest.mark.parametrize("damage", [low_passed, mono, phase_scrambled])
def test_trained_alone_it_tells_music_from_damaged_copies(crops, damage):
    """Over 95 % of the crops and of their copies, after a hundred small batches at most."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(channels=4, resolutions=(1024, 256), compression=0.3)
    discriminator = Discriminator(config)
    optimiser = torch.optim.AdamW(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    copies = damage(crops)
    random = torch.Generator().manual_seed(0)
    for step in range(1, 161):
        chosen = torch.randperm(len(crops), generator=random)[:4]
        terms = discriminator_terms(discriminator(crops[chosen]), discriminator(copies[chosen]))
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        if step % 40 == 0:
            with torch.no_grad():
                terms = discriminator_terms(discriminator(crops), discriminator(copies))
            if terms.accuracy > 0.95:
                break
    assert terms.accuracy > 0.95
    assert terms.real_score > 0.5 > terms.fake_score


@pytest.mark.parametrize("signals", ["lr", "ms", "mslr"])
def test_it_sees_both_channels_of_the_signals_it_is_given(signals):
    """A tone in one channel: its plane holds the tone's power, at its bin, and others none."""
    scale = ScaleDiscriminator(DiscriminatorConfig(signals=signals), 256)
    time = torch.arange(4096)
    tone = torch.cos(2 * torch.pi * 32 / 256 * time)
    audio = torch.stack([tone, torch.zeros_like(tone)])[None]
    planes = scale.spectra(audio)
    count = {"lr": 4, "ms": 4, "mslr": 8}[signals]
    assert planes.shape[1] == count and planes.shape[3] == 129
    real, imag = planes.chunk(2, dim=1)
    power = (real.square() + imag.square())[0, :, 5]  # of a middle frame, [channels, bins]
    assert (power.argmax(dim=1)[power.sum(1) > 1e-6] == 32).all()
    whole = power[0, 32] if signals != "ms" else 2 * power[0, 32]
    expected = {"lr": [1.0, 0], "ms": [0.5, 0.5], "mslr": [1.0, 0, 0.5, 0.5]}[signals]
    torch.testing.assert_close(
        power[:, 32] / whole, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0
    )


def test_compression_takes_magnitudes_to_its_power_and_keeps_phases():
    audio = 0.1 * torch.randn(1, 2, 2048, generator=torch.Generator().manual_seed(0))
    plain = ScaleDiscriminator(DiscriminatorConfig(), 128).spectra(audio)
    compressed = ScaleDiscriminator(DiscriminatorConfig(compression=0.3), 128).spectra(audio)
    before, after = (torch.complex(*planes.chunk(2, dim=1)) for planes in (plain, compressed))
    loud = before.abs() > 1e-2
    torch.testing.assert_close(after.abs()[loud], before.abs()[loud] ** 0.3, rtol=1e-3, atol=0)
    torch.testing.assert_close(after.angle()[loud], before.angle()[loud], rtol=0, atol=1e-5)


def test_silence_has_finite_scores_and_gradients():
    discriminator = Discriminator(DiscriminatorConfig(channels=4, compression=0.3))
    audio = torch.zeros(1, 2, 4096, requires_grad=True)
    sum(j.score.sum() for j in discriminator(audio)).backward()
    assert torch.isfinite(audio.grad).all()


def test_the_default_is_as_large_as_encodecs_at_two_channels():
    """Kernels of 3 × 9 and 3 × 3 at width 32, counted by hand; weight norm adds a gain each."""
    width, planes = 32, 4
    first = planes * width * 27
    dilated = 3 * width * width * 27
    last = width * width * 9 + width * 9
    biases_and_gains = 2 * (5 * width + 1)
    count = sum(p.numel() for p in Discriminator(DiscriminatorConfig()).parameters())
    assert count == 5 * (first + dilated + last + biases_and_gains)


def test_drawn_scales_and_stretches_are_the_only_ones_judged():
    config = DiscriminatorConfig(channels=2, resolutions_per_step=2, crop_samples=1500)
    discriminator = Discriminator(config)
    views = [discriminator.draw(4096, torch.Generator().manual_seed(i)) for i in range(50)]
    view = views[0]
    assert len(set(view.scales)) == 2 and view.stretch.stop - view.stretch.start == 1500
    audio = torch.randn(1, 2, 4096)
    some = discriminator(audio, view)
    everything = discriminator(audio[..., view.stretch])
    assert len(some) == 2 and len(everything) == 5
    for index, judgement in zip(view.scales, some, strict=True):
        assert torch.equal(judgement.score, everything[index].score)
    assert {index for view in views for index in view.scales} == set(range(5))
    assert 0 <= min(v.stretch.start for v in views) < 200
    assert 3900 < max(v.stretch.stop for v in views) <= 4096
    assert discriminator.draw(1000, torch.Generator()).stretch == slice(0, 1000)


def test_crops_shorter_than_a_window_are_judged():
    discriminator = Discriminator(DiscriminatorConfig(channels=2))
    assert all(torch.isfinite(j.score).all() for j in discriminator(torch.randn(1, 2, 500)))
