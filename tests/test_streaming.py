"""Streaming equals the whole signal for any pushes, in bounded memory, as late as it says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from earvae import StreamingDecoder, StreamingEncoder, codec
from earvae.engine import accelerate
from earvae.model.vae import EarVAE
from earvae.streaming import BLOCK_FRAMES, StreamingError
from tests import small
from tests.small import golden

TOLERANCE = 1e-5  # of the peak


# a hop of 16; the compact one sees 8 and 4 frames around its own
SIZES = {"hop_length": 16, "latent_channels": 16, "width": 16}
COMPACT = small.compact(encoder_blocks=2, short_length=8, **SIZES)
MODELS = {
    "compact": COMPACT,
    "compact accelerated": accelerate(COMPACT),
    "convolutional": small.oobleck(strides=(2, 4), std_floor=0.1),
    "convolutional accelerated": accelerate(small.oobleck(strides=(2, 4)), "exact"),
    "odd strides": small.oobleck(strides=(3, 5)),
}


def noise(*shape: int) -> torch.Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


def pieces(signal: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """``signal`` in pieces of the sizes, in turn; the last may be shorter. Sizes may be 0."""
    cut, start, turn = [], 0, 0
    sizes = sizes if any(sizes) else [*sizes, signal.shape[2]]
    while start < signal.shape[2]:
        size = sizes[turn % len(sizes)]
        cut.append(signal[..., start : start + size])
        start, turn = start + size, turn + 1
    return cut


def encoded(encoder: StreamingEncoder, signal: list[torch.Tensor]) -> torch.Tensor:
    """Mean and std that a streaming encoder gives, joined: ``[batch, 2·latent, frames]``."""
    given_back = [encoder.push(piece) for piece in signal] + [encoder.flush()]
    return torch.cat([torch.cat([p.mean, p.std], dim=1) for p in given_back], dim=2)


def decoded(
    decoder: StreamingDecoder, latents: list[torch.Tensor], samples: int | None = None
) -> torch.Tensor:
    return torch.cat([*map(decoder.push, latents), decoder.flush(samples)], dim=2)


@torch.no_grad()
def whole_encoding(vae: EarVAE, audio: torch.Tensor) -> torch.Tensor:
    """Mean and std without any streaming or chunks."""
    missing = codec.frames_for(vae, audio.shape[2]) * vae.hop_length - audio.shape[2]
    posterior = vae.encode(pad(audio, (0, missing)))
    return torch.cat([posterior.mean, posterior.std], dim=1)


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()


def samples_and_sizes(longest: int):
    """Lengths from one sample to beyond the contexts, and push sizes from 0 to beyond those."""
    sizes = st.one_of(st.sampled_from([0, 1, 2, 13, 16, 127, 4 * longest]), st.integers(0, longest))
    return st.tuples(st.integers(1, longest), st.lists(sizes, min_size=1, max_size=5))


# --------------------------------------------------------------------------- equality


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20)
@given(
    lengths=samples_and_sizes(800), block_frames=st.integers(1, 12), batch=st.sampled_from([1, 3])
)
def test_encoding_of_any_pushes_equals_the_whole(name, lengths, block_frames, batch):
    vae, (samples, sizes) = MODELS[name], lengths
    audio = noise(batch, 2, samples)
    ours = encoded(StreamingEncoder(vae, block_frames), pieces(audio, sizes))
    assert_same(ours, whole_encoding(vae, audio))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20)
@given(
    lengths=samples_and_sizes(60), block_frames=st.integers(1, 12), batch=st.sampled_from([1, 3])
)
@torch.no_grad()
def test_decoding_of_any_pushes_equals_the_whole(name, lengths, block_frames, batch):
    vae, (frames, sizes) = MODELS[name], lengths
    latents = noise(batch, vae.latent_channels, frames)
    ours = decoded(StreamingDecoder(vae, block_frames), pieces(latents, sizes))
    real = frames * vae.hop_length - vae.decoder.tail_deficit
    assert_same(ours, vae.decode(latents)[..., :real])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("frames", [1, 2, "context", "twice the context"])
def test_the_ends_of_signals_of_awkward_lengths(name, frames, extra):
    vae = MODELS[name]
    context = vae.encoder.context_frames
    frames = {"context": context, "twice the context": 2 * context}.get(frames, frames)
    audio = noise(1, 2, frames * vae.hop_length + extra)
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae, 1)
    pushed = [encoder.push(piece) for piece in pieces(audio, [31])] + [encoder.flush()]
    ours = decoded(decoder, [posterior.mode() for posterior in pushed], encoder.samples)
    mean = whole_encoding(vae, audio)[:, : vae.latent_channels]
    assert_same(ours, vae.decode(mean).detach()[..., : audio.shape[2]])


def test_a_push_longer_than_the_codec_chunk():
    vae = MODELS["compact"]
    audio = noise(1, 2, (2 * codec.CHUNK_FRAMES + 50) * vae.hop_length + 3)
    expected = whole_encoding(vae, audio)
    assert_same(encoded(StreamingEncoder(vae, 2), [audio]), expected)
    latents = expected[:, : vae.latent_channels]
    assert_same(decoded(StreamingDecoder(vae, 2), [latents]), vae.decode(latents).detach())


def test_the_shipped_model():
    vae = EarVAE.from_pretrained()
    audio = noise(1, 2, 70_001)
    encoder = StreamingEncoder(vae)
    expected = whole_encoding(vae, audio)
    assert_same(encoded(encoder, pieces(audio, [4096, 1, 9973])), expected)
    latents = expected[:, : vae.latent_channels]
    ours = decoded(StreamingDecoder(vae), pieces(latents, [3, 0, 11]), encoder.samples)
    assert_same(ours, vae.decode(latents).detach()[..., :70_001])


def test_the_caller_may_use_one_buffer_for_all_pushes():
    vae = MODELS["compact"]
    audio, buffer = noise(1, 2, 640), torch.empty(1, 2, 64)
    encoder = StreamingEncoder(vae)
    given_back = [encoder.push(buffer.copy_(piece)).mean for piece in pieces(audio, [64])]
    buffer.fill_(1.0)
    mean = torch.cat([*given_back, encoder.flush().mean], dim=2)
    assert_same(mean, whole_encoding(vae, audio)[:, : vae.latent_channels])


def test_after_a_reset_nothing_is_left_of_the_first_signal():
    vae = MODELS["compact"]
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    encoder.push(torch.ones(1, 2, 500))  # given up without flush
    decoder.push(torch.ones(1, vae.latent_channels, 30))
    for batch in (2, 1):
        encoder.reset()
        decoder.reset()
        audio = noise(batch, 2, 700)
        expected = whole_encoding(vae, audio)
        assert_same(encoded(encoder, pieces(audio, [300])), expected)
        latents = expected[:, : vae.latent_channels]
        assert_same(decoded(decoder, [latents], 700), vae.decode(latents).detach()[..., :700])


# --------------------------------------------------------------------------- memory, latency


def held_values(stream: StreamingEncoder | StreamingDecoder) -> int:
    """Values per channel in the storages that a stream keeps between pushes."""
    held = stream._stream._held
    return sum(piece.untyped_storage().nbytes() // 4 // piece.shape[1] for piece in held)


@pytest.mark.parametrize("name", ["compact", "convolutional"])
def test_what_is_held_does_not_grow_with_what_was_pushed(name):
    vae, block = MODELS[name], 4
    encoder, decoder = StreamingEncoder(vae, block), StreamingDecoder(vae, block)
    most = (block + 2 * vae.encoder.context_frames) * vae.hop_length
    for size in (5, 97, 0, 100 * vae.hop_length, 1000 * vae.hop_length, 3):
        for _ in range(5):
            encoder.push(torch.zeros(1, 2, size))
            assert held_values(encoder) < most
    assert encoder.samples > 50 * most
    most = block + 2 * vae.decoder.context_frames
    for size in (1, 0, 100, 1000, 1):
        for _ in range(5):
            decoder.push(torch.zeros(1, vae.latent_channels, size))
            assert held_values(decoder) < most


def test_a_long_push_is_computed_in_the_chunks_of_the_codec():
    """Few runs of the network for speed, none over more than a chunk and its context."""
    vae, lengths, held = small.compact(encoder_blocks=2, short_length=8, **SIZES), [], []
    encoder = StreamingEncoder(vae, 1)

    def note(_module, inputs, _output) -> None:
        lengths.append(inputs[0].shape[2] // vae.hop_length)
        held.append(held_values(encoder) // vae.hop_length)

    vae.encoder.register_forward_hook(note)
    encoder.push(torch.zeros(1, 2, 10 * codec.CHUNK_FRAMES * vae.hop_length))
    assert len(lengths) == 10
    assert max(lengths) <= codec.CHUNK_FRAMES + 2 * vae.encoder.context_frames
    assert max(held) <= 1 + codec.CHUNK_FRAMES + 2 * vae.encoder.context_frames


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("block_frames", [1, 2, 7])
def test_the_encoder_is_as_late_as_it_says(name, block_frames):
    """Worst case over frames of the samples pushed beyond the frame's own, pushed singly."""
    vae = MODELS[name]
    encoder, worst, out = StreamingEncoder(vae, block_frames), 0, 0
    for pushed in range(1, 40 * vae.hop_length):
        frames = encoder.push(torch.zeros(1, 2, 1)).mean.shape[2]
        for frame in range(out, out + frames):
            worst = max(worst, pushed - (frame + 1) * vae.hop_length)
        out += frames
    assert out > 2 * block_frames
    assert worst == encoder.latency_samples


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("block_frames", [1, 2, 7])
def test_the_decoder_is_as_late_as_it_says(name, block_frames):
    vae = MODELS[name]
    decoder, worst, out = StreamingDecoder(vae, block_frames), 0, 0
    for pushed in range(1, 60):
        audio = decoder.push(torch.zeros(1, vae.latent_channels, 1))
        for frame in range(out, out + audio.shape[2] // vae.hop_length):
            worst = max(worst, pushed - (frame + 1))
        out += audio.shape[2] // vae.hop_length
    assert out > 2 * block_frames
    assert worst == decoder.latency_frames
    assert worst * vae.hop_length == decoder.latency_samples


@pytest.mark.parametrize("block_frames", [1, 5])
def test_the_way_through_both_is_a_frame_and_both_latencies(block_frames):
    """A sample waits for the rest of its frame, then for the encoder, then for the decoder."""
    vae = MODELS["compact"]
    encoder, decoder = StreamingEncoder(vae, block_frames), StreamingDecoder(vae, 1)
    worst = heard = 0
    for pushed in range(1, 60 * vae.hop_length):
        audio = decoder.push(encoder.push(torch.zeros(1, 2, 1)).mode())
        if audio.shape[2]:
            worst = max(worst, pushed - heard)  # of the first sample that comes out now
        heard += audio.shape[2]
    assert worst == vae.hop_length + encoder.latency_samples + decoder.latency_samples


def test_a_block_of_frames_is_computed_at_once():
    """What blocks are for: the network runs once in block_frames frames, not at every push."""
    vae, calls = small.compact(encoder_blocks=2, short_length=8, **SIZES), []
    vae.encoder.register_forward_hook(lambda _module, inputs, _output: calls.append(inputs))
    encoder = StreamingEncoder(vae)
    for _ in range(200):
        encoder.push(torch.zeros(1, 2, vae.hop_length))
    assert len(calls) == (200 - vae.encoder.context_frames) // BLOCK_FRAMES


# --------------------------------------------------------------------------- refusals


def test_a_transformer_cannot_be_streamed_but_its_encoder_can():
    vae = golden("tiny44k")
    with pytest.raises(StreamingError, match=r"transformer .* use codec\.decode") as refusal:
        StreamingDecoder(vae)
    assert isinstance(refusal.value, ValueError) and "\n" not in str(refusal.value)
    audio = noise(1, 2, 30_000)
    ours = encoded(StreamingEncoder(vae, 2), pieces(audio, [4096]))
    assert_same(ours, whole_encoding(vae, audio))


@pytest.mark.parametrize(
    ("push", "message"),
    [
        (torch.zeros(2, 100), r"\[batch, 2, samples\], got \[2, 100\]"),
        (torch.zeros(1, 1, 100), r"\[batch, 2, samples\], got \[1, 1, 100\]"),
        (torch.zeros(0, 2, 100), r"got \[0, 2, 100\]"),
        (torch.zeros(3, 2, 100), "a batch of 1 so far, got 3"),
        (torch.zeros(1, 2, 100, dtype=torch.int16), "floating point, got torch.int16"),
        (torch.full((1, 2, 100), torch.nan), "finite"),
        (torch.full((1, 2, 100), torch.inf), "finite"),
    ],
)
def test_a_refused_push_leaves_the_signal_as_it_was(push, message):
    vae = MODELS["compact"]
    audio = noise(1, 2, 1000)
    encoder = StreamingEncoder(vae, 3)
    start = encoder.push(audio[..., :600])
    with pytest.raises(ValueError, match=message):
        encoder.push(push)
    rest = encoded(encoder, [audio[..., 600:]])
    assert_same(
        torch.cat([torch.cat([start.mean, start.std], dim=1), rest], dim=2),
        whole_encoding(vae, audio),
    )


def test_latents_are_checked_as_audio_is():
    decoder = StreamingDecoder(MODELS["compact"])
    with pytest.raises(ValueError, match=r"latents must be \[batch, 16, frames\], got \[1, 2, 9\]"):
        decoder.push(torch.zeros(1, 2, 9))
    with pytest.raises(ValueError, match="latents must be finite"):
        decoder.push(torch.full((1, 16, 9), torch.nan))


def test_after_flush_only_reset_goes_on():
    vae = MODELS["compact"]
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    encoder.push(torch.zeros(1, 2, 100))
    latents = encoder.flush().mode()
    decoder.push(latents)
    decoder.flush(100)
    for call in (
        lambda: encoder.push(torch.zeros(1, 2, 1)),
        encoder.flush,
        lambda: decoder.push(latents),
        decoder.flush,
    ):
        with pytest.raises(ValueError, match=r"reset\(\)"):
            call()


def test_an_empty_signal_cannot_be_flushed():
    vae = MODELS["compact"]
    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    assert encoder.push(torch.zeros(3, 2, 0)).mean.shape == (3, 16, 0)
    assert decoder.push(torch.zeros(3, 16, 0)).shape == (3, 2, 0)
    with pytest.raises(ValueError, match="no samples were pushed"):
        encoder.flush()
    with pytest.raises(ValueError, match="no frames were pushed"):
        decoder.flush(0)


def test_a_length_that_the_latents_do_not_have_is_refused():
    vae = MODELS["odd strides"]
    assert vae.decoder.tail_deficit == 3 * 1 + 1  # one short after stride 5, one after stride 3
    decoder = StreamingDecoder(vae, 1)
    given_back = decoder.push(noise(1, 4, 30)).shape[2]
    whole = 30 * vae.hop_length - vae.decoder.tail_deficit
    for samples in (given_back - 1, whole + 1):
        with pytest.raises(ValueError, match=f"hold {whole} samples, of which {given_back}"):
            decoder.flush(samples)
    assert decoder.flush(whole).shape[2] == whole - given_back  # still possible


@pytest.mark.parametrize("stream", [StreamingEncoder, StreamingDecoder])
def test_a_block_has_a_frame_at_least(stream):
    with pytest.raises(ValueError, match="block_frames must be at least 1, got 0"):
        stream(MODELS["compact"], 0)
