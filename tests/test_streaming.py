"""Streaming equals offline for any pushes, and its delay is what it says."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earvae import codec
from earvae.config import SpectralConfig
from earvae.engine import accelerate
from earvae.model.vae import EarVAE
from earvae.streaming import StreamingDecoder, StreamingEncoder, StreamingError

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5  # of the peak


def spectral() -> EarVAE:
    torch.manual_seed(0)
    config = SpectralConfig(
        width=24, expansion=2, encoder_blocks=2, decoder_blocks=2, level_frames=5
    )
    vae = EarVAE(config).eval()
    vae.encoder.code.residual_std.fill_(0.3)
    return vae


def published(name: str) -> EarVAE:
    return EarVAE.from_pretrained(GOLDEN / f"{name}_state_dict.safetensors")


def without_transformer(name: str) -> EarVAE:
    vae = published(name)
    vae.transformers = None
    return vae


MODELS = {
    "spectral": spectral(),
    "shipped": EarVAE.from_pretrained(),
    "tiny44k": published("tiny44k_no_transformer"),
    "tiny48k": without_transformer("tiny48k"),
    "tiny44k exact": accelerate(published("tiny44k_no_transformer"), "exact"),
}


def noise(*shape: int) -> torch.Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


def streamed(stream, pieces, *end) -> torch.Tensor:
    """Everything that a stream gives for the pieces, joined."""
    given_back = [stream.push(piece) for piece in pieces] + [stream.flush(*end)]
    return torch.cat([piece for piece in given_back if piece is not None], dim=-1)


def pieces(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """``x`` in pieces of the sizes, over and over; the last may be shorter."""
    cut, start, turn = [], 0, 0
    while start < x.shape[-1]:
        cut.append(x[..., start : start + sizes[turn % len(sizes)]])
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    return cut


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8)
@given(
    samples=st.integers(1, 70_000),
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
    frames=st.integers(1, 9),
)
def test_streaming_equals_offline(name, samples, sizes, frames):
    vae = MODELS[name]
    audio = noise(2, samples)
    latents = streamed(StreamingEncoder(vae, frames), pieces(audio, [max(s, 300) for s in sizes]))
    offline = codec.encode(vae, audio[None]).mode()
    assert_same(latents, offline[0])
    sizes = [1 + size // 1000 for size in sizes]
    decoded = streamed(StreamingDecoder(vae, frames), pieces(latents, sizes), samples)
    assert_same(decoded, codec.decode(vae, offline, samples)[0])


def test_pushes_of_one_sample():
    vae = MODELS["spectral"]
    audio = noise(2, 12 * vae.hop_length + 5)
    latents = streamed(StreamingEncoder(vae, 1), pieces(audio, [1]))
    assert_same(latents, codec.encode(vae, audio[None]).mode()[0])


def test_batches_and_a_second_signal():
    vae = MODELS["spectral"]
    encoder, decoder = StreamingEncoder(vae, 3), StreamingDecoder(vae, 3)
    for seconds in (30_000, 41_234):  # flush begins anew
        audio = noise(2, 2, seconds)
        latents = streamed(encoder, pieces(audio, [5_000]))
        assert_same(latents, codec.encode(vae, audio).mode())
        decoded = streamed(decoder, pieces(latents, [2]), seconds)
        assert_same(decoded, codec.decode(vae, latents, seconds))


@pytest.mark.parametrize("name", ["spectral", "tiny44k", "tiny48k"])
@pytest.mark.parametrize("frames", [1, 4])
def test_the_latency_is_kept_and_reached(name, frames):
    """Frame f is there when its first sample plus the latency has been pushed, and some frame
    is not there one sample earlier."""
    vae = MODELS[name]
    hop = vae.hop_length
    encoder = StreamingEncoder(vae, frames)
    audio = noise(2, encoder.latency + 3 * frames * hop)
    assert encoder.push(audio[:, : encoder.latency - 1]) is None
    given_back = encoder.push(audio[:, encoder.latency - 1 : encoder.latency]).shape[1]
    for position in range(encoder.latency, audio.shape[1], hop):
        piece = encoder.push(audio[:, position : position + hop])
        given_back += 0 if piece is None else piece.shape[1]
        frame = (position + hop - encoder.latency) // hop  # the latest one that is due
        assert given_back > frame

    decoder = StreamingDecoder(vae, frames)
    due = decoder.latency // hop  # latents after a frame until its audio
    latents = torch.randn(vae.latent_channels, due + 3 * frames)
    assert due == 0 or decoder.push(latents[:, :due]) is None
    heard = 0
    for frame in range(due, latents.shape[1]):
        piece = decoder.push(latents[:, frame : frame + 1])
        heard += 0 if piece is None else piece.shape[1]
        assert heard >= (frame - due + 1) * hop


def test_a_transformer_is_refused():
    vae = published("tiny44k")
    with pytest.raises(StreamingError, match="transformer"):
        StreamingDecoder(vae)
    audio = noise(2, 30_000)  # its encoder has none
    assert_same(
        streamed(StreamingEncoder(vae, 2), [audio]), codec.encode(vae, audio[None]).mode()[0]
    )


def test_nothing_in_nothing_out():
    vae = MODELS["spectral"]
    assert StreamingEncoder(vae).flush() is None
    assert StreamingDecoder(vae).flush() is None
    encoder = StreamingEncoder(vae)
    assert encoder.push(torch.zeros(2, 0)) is None and encoder.flush() is None


def test_bad_input_is_refused():
    vae = MODELS["spectral"]
    with pytest.raises(ValueError, match="samples must be"):
        StreamingEncoder(vae).push(torch.zeros(1, 100))
    with pytest.raises(ValueError, match="latents must be"):
        StreamingDecoder(vae).push(torch.zeros(2, 100))
    with pytest.raises(ValueError, match="frames must be"):
        StreamingEncoder(vae, 0)
    encoder = StreamingEncoder(vae)
    encoder.push(torch.zeros(2, 100))
    with pytest.raises(ValueError, match="cannot follow"):
        encoder.push(torch.zeros(1, 2, 100))
    decoder = StreamingDecoder(vae)
    decoder.push(torch.zeros(vae.latent_channels, 3))
    with pytest.raises(ValueError, match="hold"):
        decoder.flush(4 * vae.hop_length)
