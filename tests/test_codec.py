"""Chunked equals whole, for every architecture and any length."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from earvae import codec
from earvae.config import CompactConfig
from earvae.model.vae import EarVAE
from tests import small
from tests.small import build, golden

TOLERANCE = 1e-4  # of the peak


NARROW = CompactConfig(width=24, expansion=2, encoder_blocks=2, decoder_blocks=2)
MODELS = {
    "compact": build(NARROW),
    "tiny44k": golden("tiny44k"),
    "tiny48k": golden("tiny48k"),
}


@pytest.fixture(params=MODELS)
def vae(request) -> EarVAE:
    return MODELS[request.param]


def noise(batch: int, samples: int) -> torch.Tensor:
    return small.noise(samples, batch)


@torch.no_grad()
def whole(vae: EarVAE, audio: torch.Tensor) -> torch.Tensor:
    """The codec without chunks: pad far enough, encode, decode, trim."""
    frames = codec.frames_for(vae, audio.shape[2])
    padded = pad(audio, (0, frames * vae.hop_length - audio.shape[2]))
    return vae.decode(vae.encode(padded).mode())[..., : audio.shape[2]]


def assert_same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("length", ["1", "hop-1", "hop", "hop+1", "77777", "10 s"])
@pytest.mark.parametrize("batch", [1, 3])
def test_chunked_equals_whole(vae, length, batch):
    hop = vae.hop_length
    lengths = {"1": 1, "hop-1": hop - 1, "hop": hop, "hop+1": hop + 1, "77777": 77_777}
    audio = noise(batch, lengths.get(length, 10 * vae.sample_rate))
    assert_same(codec.reconstruct(vae, audio, chunk_frames=37), whole(vae, audio))


@pytest.mark.long
def test_chunked_equals_whole_over_a_minute(vae):
    audio = noise(1, int(61.3 * vae.sample_rate))
    assert_same(codec.reconstruct(vae, audio), whole(vae, audio))


@settings(max_examples=15)
@given(samples=st.integers(1, 60_000), chunk=st.integers(1, 40), block=st.integers(1, 9_000))
def test_streaming_in_any_blocks_equals_whole(samples, chunk, block):
    vae = MODELS["compact"]
    audio = noise(1, samples)
    blocks = audio[0].split(block, dim=1)
    posterior, seen = codec.encode_stream(vae, blocks, chunk)
    assert seen == samples
    decoded = torch.cat(list(codec.decode_stream(vae, posterior.mode(), seen, chunk)), dim=1)
    assert_same(decoded[None], whole(vae, audio))


def test_too_little_context_is_noticed(vae, monkeypatch):
    """The comparison above can fail: with less context than the network needs, it does."""
    audio = noise(1, 60 * vae.hop_length)
    expected = whole(vae, audio)
    owner = vae.decoder if "context_frames" in vars(vae.decoder) else type(vae.decoder)
    monkeypatch.setattr(owner, "context_frames", 1)
    ours = codec.reconstruct(vae, audio, chunk_frames=20)
    assert (ours - expected).abs().max() > TOLERANCE * expected.abs().max()


def test_a_batch_equals_its_items(vae):
    audio = noise(3, 20_000)
    together = codec.reconstruct(vae, audio)
    for index in range(3):
        assert_same(codec.reconstruct(vae, audio[index : index + 1])[0], together[index])


def test_every_returned_sample_is_a_decoded_one():
    """Odd strides leave the published decoder short of a frame's end; the codec goes further."""
    vae = MODELS["tiny48k"]
    assert vae.decoder.tail_deficit == 32
    audio = noise(1, 10 * vae.hop_length)
    assert codec.reconstruct(vae, audio)[..., -32:].abs().min() > 0
    assert vae.decode(vae.encode(audio).mode()).detach()[..., -32:].abs().max() == 0


def test_sampling_does_not_depend_on_the_chunks(vae):
    audio = noise(1, 50_000)
    one, other = (
        codec.reconstruct(vae, audio, chunk, True, torch.Generator().manual_seed(7))
        for chunk in (11, 1000)
    )
    assert_same(one, other)


def test_bad_input_is_refused():
    vae = MODELS["compact"]
    with pytest.raises(ValueError, match="no samples"):
        codec.encode(vae, torch.zeros(1, 2, 0))
    with pytest.raises(ValueError, match="audio must be"):
        codec.encode(vae, torch.zeros(1, 1, 100))
    with pytest.raises(ValueError, match="cannot hold"):
        codec.decode(vae, torch.zeros(1, 64, 3), 4 * 1024)


def test_a_padded_batch_equals_the_single_signals(vae):
    """Shorter than the context, twice that, and beyond; whatever lies in the padding."""
    context, hop = max(vae.encoder.context_frames, vae.decoder.context_frames), vae.hop_length
    lengths = [
        1,
        hop + 1,
        context * hop,
        2 * context * hop - 5,
        2 * context * hop + 7,
        5 * context * hop,
    ]
    audio = noise(len(lengths), max(lengths))
    posterior = codec.encode(vae, audio, 37, torch.tensor(lengths))
    decoded = codec.reconstruct(vae, audio, 37, lengths=lengths)
    assert decoded.shape == audio.shape
    for row, length in enumerate(lengths):
        single = audio[row : row + 1, :, :length]
        frames = codec.frames_for(vae, length)
        alone = codec.encode(vae, single, 37).parameters
        assert_same(posterior.parameters[row : row + 1, :, :frames], alone)
        assert not posterior.parameters[row, :, frames:].any()
        assert_same(decoded[row : row + 1, :, :length], codec.reconstruct(vae, single, 37))
        assert not decoded[row, :, length:].any()


@pytest.mark.parametrize("lengths", [[5], [5, 0], [5, 101], [5.0, 5], torch.tensor([5.0, 5.0])])
def test_lengths_that_are_none_are_refused(lengths):
    vae = MODELS["compact"]
    with pytest.raises(
        ValueError, match="lengths must be 2 whole numbers of samples from 1 to 100"
    ):
        codec.encode(vae, torch.zeros(2, 2, 100), lengths=lengths)
    with pytest.raises(ValueError, match="lengths must be 2 whole numbers of samples from 1 to 10"):
        codec.decode(vae, torch.zeros(2, 64, 1), [length + 1024 for length in lengths])
