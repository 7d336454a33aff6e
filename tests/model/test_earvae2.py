"""εar-VAE2: golden parity, exact chunks, every form of its published weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from earvae import EarVAE, StreamingDecoder, StreamingEncoder, codec
from earvae.config import EarVAE2Config, RefinerConfig
from earvae.errors import WeightsError
from earvae.model.earvae2 import BandedRefiner
from earvae.model.published_earvae2 import DIRECTION, NORM
from earvae.model.spec_layers import SpectrumTransform
from tests.small import GOLDEN, clip, deviation, earvae2, earvae2_config, noise

NAMES = ("tiny_earvae2_base", "tiny_earvae2")  # without and with a refiner
NOT_GIVEN = 480  # samples at the end, where the published inverse divides by next to nothing


def weights_of(name: str) -> Path:
    return GOLDEN / f"{name}_state_dict.safetensors"


@pytest.fixture(scope="module")
def models() -> dict[str, EarVAE]:
    return {name: EarVAE.from_pretrained(weights_of(name)) for name in NAMES}


@pytest.fixture(scope="module")
def loudest(models) -> dict[str, float]:
    """The peak of decoded noise, away from the end of a signal."""
    audio = noise(40 * 1920)
    return {
        name: codec.reconstruct(vae, audio)[..., :-1920].abs().max().item()
        for name, vae in models.items()
    }


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_everything_is_what_the_published_code_computes(models, name):
    vae, golden = models[name], load_file(GOLDEN / f"{name}_io.safetensors")

    def near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()

    posterior = vae.encode(golden["audio"])
    near(vae.encoder(golden["audio"]), golden["posterior"])
    near(posterior.mode(), golden["latents"])
    near(posterior.kl().reshape(-1), golden["kl"])
    decoded = vae.decode(golden["latents"])
    near(decoded[..., :-NOT_GIVEN], golden["decoded"][..., :-NOT_GIVEN])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [1, 1919, 1920, 1921, 100_001])
def test_chunks_give_what_the_whole_gives_and_the_end_is_whole(models, loudest, name, samples):
    vae = models[name]
    audio = 0.1 * torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(samples))
    whole = codec.reconstruct(vae, audio, chunk_frames=10**6)
    assert whole.shape == audio.shape
    chunked = codec.reconstruct(vae, audio, chunk_frames=7)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)
    assert whole.abs().max() <= 1.5 * loudest[name]  # no click, nothing that explodes


@pytest.mark.parametrize(
    "seconds", [7.77, pytest.param(61, marks=pytest.mark.long)], ids="{} s".format
)
@torch.no_grad()
def test_chunks_of_long_audio_give_what_the_whole_gives(seconds):
    vae, audio = earvae2(), noise(round(seconds * 48_000))
    padded = pad(audio, (0, codec.frames_for(vae, audio.shape[2]) * 1920 - audio.shape[2]))
    whole = vae.decode(vae.encode(padded).mode())[..., : audio.shape[2]]
    assert deviation(codec.reconstruct(vae, audio, chunk_frames=103), whole) < 1e-5


@torch.no_grad()
def test_a_padded_batch_and_streams_give_what_the_codec_gives_of_each_signal():
    vae = earvae2()
    lengths = [1, 1921, 7 * 1920, 14 * 1920 + 5, 40_001]
    audio = noise(max(lengths), len(lengths))
    together = codec.reconstruct(vae, audio, 11, lengths=lengths)
    for row, length in enumerate(lengths):
        alone = codec.reconstruct(vae, audio[row : row + 1, :, :length])
        assert deviation(together[row : row + 1, :, :length], alone) < 1e-5
        assert not together[row, :, length:].any()
        encoder, decoder = StreamingEncoder(vae, 2), StreamingDecoder(vae, 3)
        latents = [encoder.push(p).mode() for p in audio[row, None, :, :length].split(1_313, 2)]
        streamed = [decoder.push(z) for z in [*latents, encoder.flush().mode()]]
        streamed.append(decoder.flush(length))
        assert deviation(torch.cat(streamed, 2), alone) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)]
)
@torch.no_grad()
def test_in_other_precisions_it_is_the_same_model(models, dtype, tolerance):
    vae, audio = models["tiny_earvae2"], noise(12_345)
    other = copy.deepcopy(vae).to(dtype)
    expected = codec.encode(vae, audio).mode()
    found = codec.encode(other, audio.to(dtype)).mode()
    assert found.dtype == dtype and deviation(found.float(), expected) < tolerance
    decoded = codec.decode(other, expected.to(dtype), 12_345)
    assert decoded.dtype == dtype
    assert deviation(decoded.float(), codec.decode(vae, expected, 12_345)) < tolerance


def test_a_chunk_is_no_longer_than_ten_seconds(models):
    assert codec.chunk_of(models["tiny_earvae2"]) == 250  # 430 would be 17 s


def published_inverse(spectra: Tensor, samples: int) -> Tensor:
    """Audio ``[n, samples]`` of ``[n, 2, frames, 480]`` spectra, by the published recipe."""
    complex_spectra = torch.complex(*pad(spectra, (0, 1)).unbind(1)).transpose(1, 2)
    window = torch.hann_window(960)
    return torch.istft(complex_spectra, 960, 480, window=window, length=samples)


@pytest.mark.parametrize("samples", [48_000, 47_999, 48_001, 47_525])  # 25 frames, and not
@torch.no_grad()
def test_music_ends_as_it_should_where_the_published_inverse_clicks(samples):
    """The whole way of a file, with a decoder that puts out the spectra of the music itself, with
    an error of -40 dB as any network makes; their places travel as latents."""
    audio = clip("automat", samples)
    beyond = pad(audio, (0, 4 * 1920 - samples % 1920))
    spectra = SpectrumTransform(480)(beyond)
    spectra += 0.01 * spectra.std() * torch.randn_like(spectra)
    vae, first = EarVAE(earvae2_config(latent_channels=1)).eval(), []
    vae.decoder.register_forward_pre_hook(lambda _, given: first.append(int(given[0][0, 0, 0])))

    def exact(_, __, made):
        return spectra[:, :, 4 * first[-1] :][:, :, : made.shape[2]]

    vae.decoder.output_conv.register_forward_hook(exact)
    frames = codec.frames_for(vae, samples)
    decoded = codec.decode(vae, torch.arange(float(frames))[None, None], samples, chunk_frames=9)
    assert len(first) > 1 and (decoded[0] - audio).abs().max() < 0.1 * audio.abs().max()
    for end in (slice(None, 960), slice(-960, None)):
        assert decoded[0, :, end].abs().max() <= 1.5 * audio.abs().max()
    if samples % 1920 == 0:
        theirs = published_inverse(spectra[:, :, : samples // 480], samples)
        assert theirs[:, -960:].abs().max() > 1.5 * audio.abs().max()  # so this test can fail


@torch.no_grad()
def test_of_a_whole_number_of_frames_the_last_samples_are_decoded_ones(models):
    """They need a frame more than the file has: without it they would be the zeros of a pad."""
    vae = models["tiny_earvae2"]
    audio = clip("automat", 25 * 1920)[None]
    assert codec.frames_for(vae, audio.shape[2]) == 26
    assert codec.reconstruct(vae, audio)[..., -NOT_GIVEN:].abs().min() > 0
    assert not vae.decode(vae.encode(audio).mode())[..., -NOT_GIVEN:].any()


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@torch.no_grad()
def test_a_frame_sees_as_far_as_its_context_says(models, part):
    """A change beyond the context changes nothing; one at its edge, or next to that, does."""
    network = getattr(models["tiny_earvae2"], part)
    context, step, channels = network.context_frames, *((1920, 2), (1, 16))[part == "decoder"]
    frames, own = 2 * context + 3, context + 1
    signal = 0.1 * torch.randn(1, channels, frames * step)
    size = -(-network(signal).shape[2] // frames)

    def changes(distance: int) -> bool:
        other = signal.clone()
        other[..., (own + distance) * step : (own + distance + 1) * step] += 1
        one, two = network(signal), network(other)
        return not torch.equal(
            one[..., own * size :][..., :size], two[..., own * size :][..., :size]
        )

    assert not changes(-context - 1) and not changes(context + 1)
    assert any(changes(side * (context - less)) for side in (-1, 1) for less in (0, 1))


def test_the_full_model_has_the_published_names_and_shapes():
    published = json.loads((GOLDEN / "published_earvae2_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        own = EarVAE(EarVAE2Config()).state_dict()
    windows = {"window": [960], "refiner_window": [960]}  # follow from the architecture
    shapes = {
        name.removeprefix("decoder.") if ".refiner." in name else name: list(tensor.shape)
        for name, tensor in own.items()
    }
    assert shapes | windows == published
    assert sum(tensor.numel() for tensor in own.values()) + 2 * 960 == 178_356_162


def test_the_spectrum_is_that_of_torch_and_comes_back():
    audio = torch.randn(3, 480 * 20, dtype=torch.float64)
    transform = SpectrumTransform(480).double()
    transform.load_state_dict({}, strict=True)
    spectra = transform(audio)
    expected = torch.stft(
        torch.nn.functional.pad(audio, (480, 0)), 960, 480, window=torch.hann_window(960).double(),
        center=False, return_complex=True,
    ).transpose(1, 2)  # fmt: skip
    torch.testing.assert_close(spectra[:, 0], expected[..., :480].real, rtol=0, atol=1e-4)
    torch.testing.assert_close(spectra[:, 1], expected[..., :480].imag, rtol=0, atol=1e-4)
    nyquist = torch.stack([expected[..., 480:].real, expected[..., 480:].imag], 1)
    again = transform.inverse(torch.cat([spectra, nyquist], 3))
    torch.testing.assert_close(again, audio[:, :-480], rtol=0, atol=1e-5)


def test_a_new_refiner_changes_nothing_and_has_a_gradient_at_silence():
    refiner = BandedRefiner(RefinerConfig(width=8, hidden=16, blocks=2))
    spectra = torch.randn(2, 2, 9, 480)
    torch.testing.assert_close(refiner(spectra)[..., :480], spectra)
    silence = torch.zeros(1, 2, 9, 480, requires_grad=True)
    refiner(silence).square().sum().backward()
    assert silence.grad.isfinite().all()


def state() -> dict[str, torch.Tensor]:
    return load_file(weights_of("tiny_earvae2"))


def folded(tensors):
    """Weight norms folded into plain weights, as for export."""
    for name in [name for name in tensors if name.endswith(NORM)]:
        norm, direction = tensors.pop(name), tensors.pop(name.replace(NORM, DIRECTION))
        length = direction.flatten(1).norm(dim=1).view_as(norm)
        tensors[name.replace(NORM, ".weight")] = direction * norm / length
    return tensors


FORMS = {
    "bare": lambda own: own,
    "gen": lambda own: {"gen": own, "step": 7},
    "averaged": lambda own: {
        "gen": {name: torch.zeros_like(tensor) for name, tensor in own.items()},
        "gen_ema": {f"ema_model.{name}": tensor for name, tensor in own.items()}
        | {"initted": torch.tensor(True), "step": torch.tensor(3)},
    },
    "old_names": lambda own: {
        name.replace(NORM, ".weight_g").replace(DIRECTION, ".weight_v"): tensor
        for name, tensor in own.items()
    },
    "folded": folded,
    "no_windows": lambda own: {name: t for name, t in own.items() if "window" not in name},
}


CONFIG = GOLDEN / "tiny_earvae2_config.json"


@pytest.mark.parametrize(
    ("form", "config"), [*((form, None) for form in FORMS), ("averaged", CONFIG), ("bare", CONFIG)]
)
def test_every_form_of_the_weights_is_the_same_model(models, tmp_path, form, config):
    torch.save(FORMS[form](state()), tmp_path / "weights.pt")
    vae = EarVAE.from_pretrained(tmp_path / "weights.pt", config=config)
    assert vae.config == models["tiny_earvae2"].config
    for name, tensor in models["tiny_earvae2"].state_dict().items():
        if form != "folded" or not name.endswith((NORM, DIRECTION)):
            assert torch.equal(vae.state_dict()[name], tensor)
    latents = torch.randn(1, 16, 4)
    torch.testing.assert_close(vae.decode(latents), models["tiny_earvae2"].decode(latents))


def test_a_saved_model_comes_back(models, tmp_path):
    models["tiny_earvae2"].save_pretrained(tmp_path)
    assert EarVAE.from_pretrained(tmp_path).identity == models["tiny_earvae2"].identity


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda own: own.pop(f"decoder.output_conv{DIRECTION}"), "decoder.output_conv.* missing"),
        (lambda own: own.update(window=torch.ones(960)), "window is no periodic Hann window"),
        (lambda own: own.pop("encoder.encoder_stream.3.act.alpha"), "1 of .* names missing"),
        (lambda own: own.update({"decoder.more": torch.ones(3)}), "unexpected .decoder.more"),
    ],
)
def test_what_is_no_whole_model_is_refused_by_name(tmp_path, edit, message):
    tensors = state()
    edit(tensors)
    torch.save(tensors, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=message):
        EarVAE.from_pretrained(tmp_path / "weights.pt")


def test_a_config_of_another_model_is_refused():
    with pytest.raises(WeightsError, match="says refiner = none, but"):
        EarVAE.from_pretrained(
            weights_of("tiny_earvae2"), config=GOLDEN / "tiny_earvae2_base_config.json"
        )


def test_a_new_model_learns_a_stretch_of_music_by_heart():
    """Its waveform, through encoder and decoder: what the smoke recipe is too short for."""
    torch.manual_seed(0)
    vae = EarVAE(EarVAE2Config(channels=4, latent_channels=128, refiner=None))
    audio = clip("tutorial", 2 * 1920, 44_100)[None]
    optimiser = torch.optim.AdamW(vae.parameters(), lr=3e-3, betas=(0.9, 0.99))
    for _ in range(40):
        decoded, _ = vae(audio)
        error = (decoded - audio)[..., :-NOT_GIVEN].square().mean() / audio.square().mean()
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
    assert error < 0.3
