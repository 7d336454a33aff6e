"""Exact chunked encoding and decoding: any length in flat memory, no crossfade.

A latent frame depends on a limited stretch of audio and a sample on a limited stretch of latents
(``context_frames`` of the encoder and decoder). A chunk that carries that context on both sides
therefore gives, in its interior, what the whole signal would give. The transformer of the
paper's decoder attends to everything, so it runs once, over the whole latent sequence, which is
small (40 MB an hour).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE

CHUNK_FRAMES = 430  # about ten seconds


def frames_for(vae: EarVAE, samples: int) -> int:
    """Latent frames whose decoding holds at least ``samples`` samples (all of them real ones)."""
    return max(1, -(-(samples + vae.decoder.tail_deficit) // vae.hop_length))


def encode(vae: EarVAE, audio: Tensor, chunk_frames: int = CHUNK_FRAMES) -> Posterior:
    """Posterior of ``[batch, 2, samples]`` audio, computed ``chunk_frames`` frames at a time.

    Equals ``vae.encode`` of the audio padded with zeros to :func:`frames_for` frames. Raises
    ValueError for another shape, for no samples, or for a chunk shorter than a frame.
    """
    if audio.ndim != 3 or audio.shape[1] != vae.config.audio_channels:
        raise ValueError(
            f"audio must be [batch, {vae.config.audio_channels}, samples], got {list(audio.shape)}"
        )
    block = max(1, chunk_frames) * vae.hop_length
    blocks = (audio[..., start : start + block] for start in range(0, audio.shape[2], block))
    return _encode_blocks(vae, blocks, chunk_frames)[0]


def decode(vae: EarVAE, latents: Tensor, samples: int, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
    """The first ``samples`` samples of decoded ``[batch, latent, frames]`` latents,
    ``[batch, 2, samples]``, computed ``chunk_frames`` frames at a time."""
    return torch.cat(list(_decode_blocks(vae, latents, samples, chunk_frames)), dim=2)


def reconstruct(
    vae: EarVAE,
    audio: Tensor,
    chunk_frames: int = CHUNK_FRAMES,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Audio ``[batch, 2, samples]`` through the codec and back, of exactly the same length.

    Latents are the posterior mean, or with ``sample`` a draw from it.
    """
    posterior = encode(vae, audio, chunk_frames)
    latents = posterior.sample(generator) if sample else posterior.mode()
    return decode(vae, latents, audio.shape[2], chunk_frames)


def encode_stream(
    vae: EarVAE, blocks: Iterable[Tensor], chunk_frames: int = CHUNK_FRAMES
) -> tuple[Posterior, int]:
    """Posterior of audio that arrives in blocks ``[2, n]`` of any sizes, and its samples.

    At most a chunk and its context are held at a time. Raises ValueError if nothing arrives.
    """
    return _encode_blocks(vae, (block.unsqueeze(0) for block in blocks), chunk_frames)


def decode_stream(
    vae: EarVAE, latents: Tensor, samples: int, chunk_frames: int = CHUNK_FRAMES
) -> Iterator[Tensor]:
    """The decoded audio of latents ``[1, latent, frames]`` in blocks ``[2, n]``, ``samples`` in
    all."""
    for block in _decode_blocks(vae, latents, samples, chunk_frames):
        yield block[0]


@torch.no_grad()
def _encode_blocks(
    vae: EarVAE, blocks: Iterable[Tensor], chunk_frames: int
) -> tuple[Posterior, int]:
    """The encoder over blocks ``[batch, 2, n]``; the posterior and the number of samples."""
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
    device = next(vae.parameters()).device
    hop, context = vae.hop_length, vae.encoder.context_frames
    parameters: list[Tensor] = []
    held: list[Tensor] = []  # audio from frame `first` on, up to the last sample that came
    first = done = samples = 0  # `done` frames are encoded

    def encode_until(stop: int) -> None:
        """Encode frames done…stop−1; what is held reaches their context or the end."""
        nonlocal held, first, done
        (audio,) = held
        reach = min(stop + context, first + audio.shape[2] // hop)
        chunk = audio[..., : (reach - first) * hop].to(device)
        encoded = vae.encoder(chunk)[..., done - first : stop - first]
        parameters.append(encoded.cpu())
        done = stop
        keep = max(first, done - context)
        held = [audio[..., (keep - first) * hop :]]
        first = keep

    for block in blocks:
        held.append(block)
        samples += block.shape[2]
        if samples // hop >= done + chunk_frames + context:
            held = [torch.cat(held, dim=2)]
        while samples // hop >= done + chunk_frames + context:
            encode_until(done + chunk_frames)
    if samples == 0:
        raise ValueError("audio holds no samples")
    frames = frames_for(vae, samples)
    held = [F.pad(torch.cat(held, dim=2), (0, frames * hop - samples))]
    while done < frames:
        encode_until(min(done + chunk_frames, frames))
    return Posterior.of(vae.config, torch.cat(parameters, dim=2)), samples


@torch.no_grad()
def _decode_blocks(
    vae: EarVAE, latents: Tensor, samples: int, chunk_frames: int
) -> Iterator[Tensor]:
    """The transformer once, then the decoder in chunks: blocks ``[batch, 2, n]`` on the CPU."""
    if latents.ndim != 3 or latents.shape[1] != vae.latent_channels:
        raise ValueError(
            f"latents must be [batch, {vae.latent_channels}, frames], got {list(latents.shape)}"
        )
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
    frames, hop, context = latents.shape[2], vae.hop_length, vae.decoder.context_frames
    if samples > frames * hop - vae.decoder.tail_deficit:
        raise ValueError(f"{frames} latent frames cannot hold {samples} samples")
    latents = latents.to(next(vae.parameters()).device)
    if vae.transformers is not None:
        latents = vae.transformers(latents)
    for start in range(0, frames, chunk_frames):
        stop = min(start + chunk_frames, frames)
        low, high = max(0, start - context), min(frames, stop + context)
        audio = vae.decoder(latents[..., low:high])
        end = min(stop * hop, samples)
        if start * hop < end:
            yield audio[..., (start - low) * hop : end - low * hop].cpu()
