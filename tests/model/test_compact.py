"""The compact architecture: its start, its reach, its levels by channel, its files."""

import math

import numpy as np
import pytest
import torch

from earvae.config import CompactConfig
from earvae.model.compact import (
    CompactDecoder,
    CompactEncoder,
    fit_linear_start,
    latents_by_kind,
    transform,
)
from earvae.model.envelope import QUIET, EarBands, band_weights
from earvae.model.likelihood import Expected
from earvae.model.transform import mid_side
from earvae.model.vae import EarVAE
from tests.small import build, compact_config

SMALL = compact_config(width=16)
TRANSFORM = transform(SMALL)
LONG = TRANSFORM.long.bins


@pytest.fixture
def vae() -> EarVAE:
    return build(SMALL)


def music_of_rank(rank: int, frames: int = 400) -> torch.Tensor:
    """Two signals whose frames lie in ``rank`` dimensions of falling strength, two of Mid and one
    of Side in turn, ``[2, 2, frames·hop]``."""
    random = torch.Generator().manual_seed(rank)
    strengths = 0.8 ** torch.arange(rank)
    of_mid = (torch.arange(rank) % 3 < 2)[:, None]
    mid, side = torch.randn(rank, 2 * LONG, generator=random).chunk(2, dim=1)
    shapes = TRANSFORM.frames_of_long(torch.cat([mid * of_mid, side * ~of_mid], dim=1))
    values = strengths * torch.randn(2, frames, rank, generator=random)
    return 0.1 * TRANSFORM.inverse(values @ shapes)


def beyond_rank(values: np.ndarray, rank: int) -> np.ndarray:
    left, strengths, right = np.linalg.svd(values, full_matrices=False)
    strengths[:rank] = 0
    return (left * strengths) @ right


def linear_alone(vae: EarVAE) -> EarVAE:
    """Without what the blocks of either side add."""
    with torch.no_grad():
        for layer in (vae.encoder.output, vae.decoder.shape):
            layer.weight.zero_()
            layer.bias.zero_()
        vae.decoder.level.weight.zero_()
        vae.decoder.linear_level.weight.zero_()
        vae.decoder.linear_level.bias.fill_(-1e4)  # nothing of the noise
    return vae


# --------------------------------------------------------------------------- lengths, reach


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 1000])
@torch.no_grad()
def test_a_frame_is_a_hop_and_audio_is_padded_to_whole_ones(vae, samples):
    frames = math.ceil(samples / 64)
    posterior = vae.encode(torch.randn(3, 2, samples))
    assert posterior.mean.shape == posterior.std.shape == (3, 8, frames)
    assert vae.decode(posterior.mode()).shape == (3, 2, 64 * frames)


@pytest.mark.parametrize("blocks, kernel", [(0, 7), (1, 7), (3, 3), (2, 1)])
@pytest.mark.parametrize("short_length", [8, 64])
@torch.no_grad()
def test_context_frames_is_exactly_how_far_one_frame_reaches(blocks, kernel, short_length):
    """A NaN spreads to every output that depends on it, however weakly."""
    changes = {"kernel": kernel, "short_length": short_length}
    changes |= {"encoder_blocks": blocks, "decoder_blocks": blocks}
    config = compact_config(width=16, **changes)
    encoder, decoder = CompactEncoder(config), CompactDecoder(config)
    hop, frames, middle = config.hop_length, 41, 20
    audio = torch.zeros(1, 2, frames * hop)
    audio[..., middle * hop : (middle + 1) * hop] = torch.nan
    latents = torch.zeros(1, config.latent_channels, frames)
    latents[..., middle] = torch.nan
    reached = [
        (encoder(audio).isnan().any(1)[0], encoder.context_frames),
        (decoder(latents).isnan().any(1)[0].view(frames, hop).any(1), decoder.context_frames),
    ]
    for frames_with_nan, context in reached:
        found = frames_with_nan.nonzero()[:, 0] - middle
        assert (found.min(), found.max()) == (-context, context)


# --------------------------------------------------------------------------- the linear start


OF_MID, OF_SIDE, OF_LEVELS = latents_by_kind(SMALL)


@pytest.mark.parametrize("rank", [3, 6])
@torch.no_grad()
def test_after_the_start_the_linear_path_alone_keeps_music_of_few_dimensions(vae, rank):
    audio = music_of_rank(rank)
    fit_linear_start(vae.encoder, vae.decoder, audio.split(1))
    found = linear_alone(vae).decode(vae.encode(audio).mode())
    assert (found - audio).abs().max() < 1e-3 * audio.abs().max()  # the split: -60 dB


@torch.no_grad()
def test_after_the_start_the_latents_have_unit_variance_and_do_not_go_together(vae):
    """Those of Mid, of Side and of levels, each among themselves; the latter without a mean."""
    audio = music_of_rank(20)
    fit_linear_start(vae.encoder, vae.decoder, audio.split(1))
    latents = linear_alone(vae).encode(audio).mode().transpose(1, 2).flatten(0, 1)
    for part in latents.split([OF_MID, OF_SIDE, OF_LEVELS], dim=1):
        torch.testing.assert_close(
            part.T @ part / len(part), torch.eye(part.shape[1]), atol=1e-3, rtol=0
        )
    assert latents[:, -OF_LEVELS:].mean(dim=0).abs().max() < 1e-3


@torch.no_grad()
def test_the_first_levels_are_those_of_what_the_linear_path_leaves(vae):
    """On average over all frames, against the best approximations of Mid and of Side of so many
    dimensions as each has latents, by singular value decompositions."""
    audio = music_of_rank(20)
    fit_linear_start(vae.encoder, vae.decoder, audio.split(1))
    long = TRANSFORM.long_of(TRANSFORM(audio).flatten(0, 1)).double().numpy()
    mid, side = (
        beyond_rank(part, kept)
        for part, kept in zip(np.split(long, 2, axis=1), (OF_MID, OF_SIDE), strict=True)
    )
    ears = np.stack([mid + side, mid - side], axis=1) / np.sqrt(2)
    weights = band_weights(64, 44_100).double().numpy()[:, :LONG]
    weights = weights[weights.any(axis=1)]
    by_band = ears**2 @ weights.T / weights.sum(axis=1)  # [frames, 2, bands]
    assert by_band.min() > QUIET**2
    found = vae.decoder.linear_level.bias.view(2, -1)[
        :, : len(weights)
    ]  # a mean that no latent moves
    expected = torch.from_numpy(np.log(by_band).mean(axis=0) / 2).float()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_after_the_start_the_latents_tell_how_loud_the_treble_is(vae):
    """Noise above the split that swells: its levels are known with no block at work."""
    torch.manual_seed(0)
    swell = torch.linspace(-6, -2, 400).exp().repeat_interleave(64)
    treble = TRANSFORM(torch.randn(2, 2, 400 * 64))
    treble = TRANSFORM.inverse(treble - TRANSFORM.frames_of_long(TRANSFORM.long_of(treble))) * swell
    fit_linear_start(vae.encoder, vae.decoder, treble.split(1))
    alone = linear_alone(build(SMALL))
    for name in ("linear_mid", "linear_side", "linear_level"):
        for side in ("encoder", "decoder"):
            ours, fitted = (getattr(getattr(of, side), name) for of in (alone, vae))
            ours.load_state_dict(fitted.state_dict())
    latents = alone.encode(treble).mode().transpose(1, 2)
    levels = (
        alone.decoder.linear_level(latents[..., -OF_LEVELS:])
        .view(2, 400, 2, -1)[..., -4:]
        .mean(dim=(0, 2, 3))
    )
    assert (levels - torch.linspace(-6, -2, 400))[20:-20].std() < 0.3


def test_levels_where_nothing_is_left_start_at_the_quiet_one(vae):
    """The treble of music that has none, but for what leaks over the split."""
    fit_linear_start(vae.encoder, vae.decoder, [0 * music_of_rank(3) + 1e-9, music_of_rank(3)])
    top = vae.decoder.linear_level.bias.view(2, -1)[:, -1]
    torch.testing.assert_close(top.detach(), torch.full((2,), math.log(QUIET)), atol=0.1, rtol=0)


@torch.no_grad()
def test_a_start_from_mono_music_holds_it_and_stereo_stays_finite(vae):
    audio = music_of_rank(3).mean(dim=1, keepdim=True).expand(-1, 2, -1)
    fit_linear_start(vae.encoder, vae.decoder, audio.split(1))
    alone = linear_alone(vae)
    assert (alone.decode(alone.encode(audio).mode()) - audio).abs().max() < 1e-3 * audio.abs().max()
    latents = alone.encode(music_of_rank(3)).mode()
    assert latents.isfinite().all()


def test_a_start_from_silence_is_refused(vae):
    with pytest.raises(ValueError, match="no audible frame"):
        fit_linear_start(vae.encoder, vae.decoder, [torch.zeros(2, 2, 640)])


@torch.no_grad()
def test_without_a_start_the_linear_path_keeps_the_lowest_frequencies(vae):
    """As many of Mid and of Side as each has latents."""
    audio = torch.randn(1, 2, 64 * 10)
    frames = vae.encoder.transform(audio)
    found = vae.encoder.transform(linear_alone(vae).decode(vae.encode(audio).mode()))
    kept = torch.zeros(2, LONG)
    kept[0, :OF_MID] = kept[1, :OF_SIDE] = 1
    kept = TRANSFORM.frames_of_long(kept.flatten())
    torch.testing.assert_close(found, frames * kept, atol=1e-4, rtol=0)


# --------------------------------------------------------------------------- levels, channels


def test_mid_and_side_are_left_and_right_turned_and_turned_back():
    frames = torch.randn(2, 5, 128)
    turned = mid_side(frames, -1)
    torch.testing.assert_close(turned.norm(dim=-1), frames.norm(dim=-1))
    torch.testing.assert_close(mid_side(turned, -1), frames)
    audio = torch.randn(1, 2, 640)
    left = TRANSFORM.long(audio[:, 0])  # [batch, frames, bins]
    found = mid_side(TRANSFORM(audio), -1)[..., :LONG]
    torch.testing.assert_close(found, left, atol=1e-5, rtol=0)


@pytest.mark.parametrize("loud", [0, 1])
def test_levels_tell_the_silent_ear_of_a_sound_at_one_side(loud):
    bands = EarBands(TRANSFORM, SMALL.sample_rate)
    audio = torch.zeros(1, 2, 640)
    audio[:, loud] = 0.1 * torch.randn(1, 640)
    measured = bands.measure(TRANSFORM(audio)).chunk(2, dim=-1)
    assert measured[loud].min() > -0.7
    torch.testing.assert_close(measured[1 - loud], torch.full_like(measured[0], -1.0))


def test_levels_change_places_with_the_channels():
    bands = EarBands(TRANSFORM, SMALL.sample_rate)
    audio = torch.randn(1, 2, 640) * torch.tensor([[1.0], [0.01]])
    left, right = bands.measure(TRANSFORM(audio)).chunk(2, dim=-1)
    swapped = bands.measure(TRANSFORM(audio.flip(1)))
    assert (left - right).min() > 0.3
    torch.testing.assert_close(swapped, torch.cat([right, left], dim=-1), atol=1e-4, rtol=0)


def test_a_level_is_read_as_a_logarithm_down_to_quiet():
    """−1 for silence, +1 for e¹⁰ times QUIET, which is beyond full scale."""
    bands = EarBands(TRANSFORM, SMALL.sample_rate)
    for value, expected in ((0.0, -1.0), (QUIET, math.log(2) / 10 - 1), (QUIET * math.e**10, 1.0)):
        frames = mid_side(torch.full((1, TRANSFORM.features), value), -1)  # all of Left and Right
        measured = bands.measure(frames)
        torch.testing.assert_close(measured, torch.full_like(measured, expected), atol=1e-4, rtol=0)


@torch.no_grad()
def test_one_shape_in_the_middle_sounds_in_both_ears_each_at_its_level(vae):
    """The blocks' shape has no Side, its noise none either; Right's level is
    6 natural units (52 dB) below Left's."""
    decoder = vae.decoder
    half = TRANSFORM.long.bins
    for parameter in (decoder.linear_mid.weight, decoder.linear_side.weight, decoder.level.weight,
                      decoder.linear_level.weight, decoder.shape.weight[half:],
                      decoder.shape.bias[half:], decoder.texture.weight):  # fmt: skip
        parameter.zero_()
    decoder.texture.bias.chunk(2)[1].fill_(-1e4)
    left, right = decoder.linear_level.bias.chunk(2)
    left.zero_()
    right.fill_(-6)
    audio = decoder(torch.randn(2, 8, 10))
    assert audio[:, 0].std() > 1e-3
    torch.testing.assert_close(audio[:, 1], math.exp(-6) * audio[:, 0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_is_expected_below_any_recording_is_not_drawn_and_what_is_above_is():
    """Noise alone, at levels of -60, -90 and -100 dB of full scale: the lower ones lie 10 and 20
    dB below what the likelihood takes to be there, and are drawn quieter by twice that."""
    vae = linear_alone(build(SMALL))
    decoder, drawn = vae.decoder, []
    decoder.texture.weight.zero_()
    decoder.pitch.weight.zero_()
    decoder.pitch_high.weight.zero_()
    for power in (1e-6, 1e-9, 1e-10):
        level = math.log(power) / 2
        beyond = 3 * math.atanh(min(0.0, level + 9) / 3)  # past three quarters of the range of 12
        decoder.linear_level.bias.fill_(max(level, -9) + beyond)
        drawn.append(decoder(torch.zeros(1, 8, 400)).square().mean().item())
    expected = [1e-6, 1e-9 * 1e-2, 1e-10 * 1e-4]
    assert drawn == pytest.approx(expected, rel=0.2)


@torch.no_grad()
@pytest.mark.parametrize("loudness_db, drawn_db", [(-20, -20), (-10, -10), (0, -1.5), (40, 0)])
def test_nothing_is_drawn_louder_than_full_scale(vae, loudness_db, drawn_db):
    """Noise at up to 40 dB above it in each frame, whether all of it is in one band or not."""
    decoder = vae.decoder
    told = decoder.tell(torch.zeros(1, 8, 400))
    expected = decoder.expect(told)._replace(mean=torch.zeros_like(told.mean))
    power = torch.cat(decoder.surprise.variances(expected), dim=-1).unflatten(-1, (2, -1)).mean(2)
    level = -power.sum(dim=-1, keepdim=True).log() / 2 + math.log(SMALL.hop_length) / 2
    level = level + loudness_db / 20 * math.log(10)
    expected = expected._replace(level=level.expand_as(told.level))
    loud = decoder.draw(expected).square().mean().item()
    assert 10 * math.log10(loud) == pytest.approx(drawn_db, abs=0.3)


@torch.no_grad()
def test_a_decision_keeps_the_power_of_every_bin_and_gives_it_to_the_likeliest(vae):
    """By the fourth power of the shares. In the short bins it is the sum over a frame's blocks
    that stays."""
    decoder = vae.decoder
    for layer in (decoder.pitch, decoder.pitch_high):
        layer.weight.normal_(0, 3)
    told = decoder.tell(torch.randn(2, 8, 12))

    def powers(decided):
        expected = decoder.expect(told, decided)
        noise = (2 * expected.texture).exp().unflatten(-1, (2, -1))
        long, short = noise.split(TRANSFORM.sections, dim=-1)
        low = (2 * expected.pitch).exp().unflatten(-1, (TRANSFORM.long.bins, -1))
        parts = torch.cat([long.unsqueeze(-1), low], dim=-1)
        high, tones = decoder.high_tones, (2 * expected.high_pitch).exp()
        own = short.unflatten(-1, (TRANSFORM.blocks, -1)).sum(dim=-2)
        return parts, own.index_add(-1, high.owner, tones), tones

    (parts, whole, tones), (chosen, same, likeliest) = powers(1.0), powers(4.0)
    torch.testing.assert_close(chosen.sum(dim=-1), parts.sum(dim=-1))
    torch.testing.assert_close(same, whole)
    assert (likeliest - tones).abs().max() > 0.01 * tones.max()
    share = parts / parts.sum(dim=-1, keepdim=True)
    expected = share**4 / (share**4).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(chosen / chosen.sum(dim=-1, keepdim=True), expected)


@torch.no_grad()
@pytest.mark.parametrize("known", [0.0, 0.1, 1.0, 10.0])
def test_what_is_known_of_mid_masks_what_is_drawn_of_mid_and_not_of_side(vae, known):
    """Noise of the same power in every coefficient, beside a mean of ``known`` times as much in
    Mid, where it is drawn with 1 / (1 + known) of its amplitude, and of none in Side: the width
    of what is drawn stays."""
    frames, power = 400, 0.01
    expected = vae.decoder.expect(vae.decoder.tell(torch.zeros(1, 8, frames)))
    mid = torch.randn(1, frames, TRANSFORM.features // 2).sign() * math.sqrt(known * power)
    mean = torch.cat([mid, torch.zeros_like(mid)], dim=2)
    texture = torch.full_like(expected.texture, math.log(power) / 2)
    pitch = torch.full_like(expected.pitch, -1e4)
    high_pitch = torch.full_like(expected.high_pitch, -1e4)
    expected = Expected(mean, texture, pitch, high_pitch, torch.zeros_like(expected.level))
    drawn = mid_side(vae.decoder.draw(expected) - TRANSFORM.inverse(mean))
    found, whole = drawn.square().mean(dim=(0, 2)).tolist()
    assert found / whole == pytest.approx(1 / (1 + known) ** 2, rel=0.05)


@pytest.mark.parametrize("level", [0.0, 1e-38, 1e-20, 1e-7])
def test_quiet_input_and_its_gradient_stay_finite(vae, level):
    audio = (level * torch.randn(1, 2, 640)).requires_grad_()
    fake, posterior = vae(audio, torch.zeros(1, 8, 10))
    (fake.square().sum() + posterior.kl()).backward()
    assert fake.isfinite().all() and posterior.parameters.isfinite().all()
    assert audio.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in vae.parameters())


@pytest.mark.parametrize("split_hz", [0.0, 700.0, 1e6])  # one long bin, two, all
def test_a_split_at_either_end_leaves_a_model_that_learns(split_hz):
    vae = build(compact_config(split_hz=split_hz))
    audio = 0.1 * torch.randn(1, 2, 1280)
    drawn, posterior, nll = vae(audio, torch.zeros(1, 8, 20), 0, True)
    (drawn.square().sum() + posterior.kl() + nll).backward()
    assert nll.isfinite()
    assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)


def test_one_backward_reaches_every_parameter(vae):
    fake, posterior = vae(0.1 * torch.randn(2, 2, 1280), torch.randn(2, 8, 20))
    (fake.square().sum() + posterior.kl()).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


# --------------------------------------------------------------------------- files, size


@torch.no_grad()
def test_saving_and_loading_keeps_every_number(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    again = EarVAE.from_pretrained(tmp_path)
    assert again.config == SMALL and again.identity == vae.identity
    audio = torch.randn(1, 2, 640)
    assert torch.equal(again(audio)[0], vae(audio)[0])


@torch.no_grad()
def test_half_precision_rounds_the_weights_and_nothing_else(vae, tmp_path):
    vae.save_pretrained(tmp_path, dtype=torch.float16)
    again = EarVAE.from_pretrained(tmp_path)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, vae.state_dict()[name].half().float()), name
    audio = 0.1 * torch.randn(1, 2, 640)
    ours, theirs = again(audio)[0], vae(audio)[0]
    assert 0 < (ours - theirs).abs().max() < 1e-2 * theirs.abs().max()


def test_the_default_has_less_than_16_million_parameters_and_half_a_file_below_32_mb(tmp_path):
    vae = EarVAE(CompactConfig())
    assert (vae.latent_channels, vae.hop_length, vae.sample_rate) == (64, 1024, 44_100)
    assert sum(parameter.numel() for parameter in vae.parameters()) < 16_000_000
    vae.save_pretrained(tmp_path, dtype=torch.float16)
    assert (tmp_path / "model.safetensors").stat().st_size < 32_000_000


@pytest.mark.parametrize("changes, complaint", [
    ({"short_length": 48}, "divide hop_length"),
    ({"hop_length": 66, "short_length": 33}, "hop_length and be even"),
    ({"latent_channels": 129}, "2·hop_length"),
    ({"kernel": 6}, "odd"),
])  # fmt: skip
def test_a_configuration_that_cannot_be_built_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        compact_config(width=16, **changes)
