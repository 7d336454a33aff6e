"""Live use: push samples, get latents; push latents, get samples. Equal to the offline codec.

A latent depends on a limited stretch of audio, and a sample on a limited stretch of latents
(``context_frames`` of encoder and decoder), so both can be given for good as soon as that much
has come after them. What comes out, joined, is what ``codec.encode(...).mode()`` and
``codec.decode`` give for the whole signal, to float32 rounding.

    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae)
    for block in blocks:                       # [2, any number of samples]
        latents = encoder.push(block)          # [64, frames], or None while more is needed
        ...
    latents = encoder.flush()                  # the end of the signal: everything left

The delay from a sample going into the encoder to the same sample leaving the decoder is at most
the sum of both ``latency``. Context is computed anew for every block of ``frames`` frames, so
small blocks cost more: with n = ``frames`` and c = ``context_frames``, (n + 2c) / n of the
offline work.

The paper's transformer cannot be streamed: its attention makes every output depend on every
latent, to the end of the signal. :class:`StreamingDecoder` refuses models that have one; their
encoder streams, and ``codec.decode_stream`` decodes their latents piece by piece once all of them
are known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae import codec
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE

BLOCK_FRAMES = 8  # 0.19 s at 44.1 kHz


class StreamingError(ValueError):
    """A model that cannot be streamed; the message says why."""


class StreamingEncoder:
    """Audio in, latents (the posterior mean) out.

    Args:
        vae: any model.
        frames: latents computed at a time; fewer for less delay, more for less work.
    """

    def __init__(self, vae: EarVAE, frames: int = BLOCK_FRAMES) -> None:
        _check_frames(frames)
        self.vae, self.frames = vae, frames
        self._reset()

    @property
    def latency(self) -> int:
        """Samples from the first of a frame until its latent is given, at most."""
        return (self.frames + self.vae.encoder.context_frames) * self.vae.hop_length

    def push(self, samples: Tensor) -> Tensor | None:
        """The next audio ``[2, n]`` or ``[batch, 2, n]``, any n.

        Returns the latents ``[latent, frames]`` or ``[batch, latent, frames]`` that are now
        certain, on the CPU; None if there are none yet. Raises ValueError for another shape.
        """
        channels = self.vae.config.audio_channels
        if samples.ndim not in (2, 3) or samples.shape[-2] != channels:
            raise ValueError(
                f"samples must be [{channels}, n] or [batch, {channels}, n], "
                f"got {list(samples.shape)}"
            )
        self._held = _joined(self._held, samples)
        self._samples += samples.shape[-1]
        certain = self._samples // self.vae.hop_length - self.vae.encoder.context_frames
        return _piecewise(self._encode, (certain - self._done) // self.frames * self.frames)

    def flush(self) -> Tensor | None:
        """The end of the signal: the latents that are left, as of silence after it.

        None if nothing was pushed. The next :meth:`push` begins a new signal.
        """
        latents = None
        if self._held is not None and self._samples:
            frames = codec.frames_for(self.vae, self._samples)
            missing = frames * self.vae.hop_length - self._samples
            self._held = F.pad(self._held, (0, missing))
            self._samples += missing
            latents = _piecewise(self._encode, frames - self._done)
        self._reset()
        return latents

    def _reset(self) -> None:
        self._held: Tensor | None = None  # audio from frame `first` on
        self._first = self._done = self._samples = 0  # frames; frames given; samples pushed

    @torch.no_grad()
    def _encode(self, count: int) -> Tensor:
        """The next ``count`` latents. Audio held after their context is not looked at."""
        assert self._held is not None
        hop, context = self.vae.hop_length, self.vae.encoder.context_frames
        stop = self._done + count
        reach = min(stop + context, self._samples // hop)
        chunk = self._held[..., : (reach - self._first) * hop]
        encoded = self.vae.encoder(_batch(chunk).to(_device(self.vae)))
        latents = Posterior(encoded[..., self._done - self._first : stop - self._first]).mode()
        keep = max(self._first, stop - context)
        self._held = self._held[..., (keep - self._first) * hop :].clone()
        self._first, self._done = keep, stop
        return latents.cpu().reshape(*chunk.shape[:-2], *latents.shape[1:])


class StreamingDecoder:
    """Latents in, audio out.

    Args:
        vae: a model without a transformer: the compact model, or a published one that has none.
        frames: latent frames computed at a time; fewer for less delay, more for less work.

    Raises StreamingError for a model with a transformer.
    """

    def __init__(self, vae: EarVAE, frames: int = BLOCK_FRAMES) -> None:
        _check_frames(frames)
        if vae.transformers is not None:
            raise StreamingError(
                "this model's decoder begins with a transformer that attends to all latents, so "
                "no sample is certain before the last latent; use codec.decode or "
                "codec.decode_stream"
            )
        self.vae, self.frames = vae, frames
        self._reset()

    @property
    def latency(self) -> int:
        """Samples' worth of latents after a frame until its audio is given, at most."""
        return (self.frames - 1 + self.vae.decoder.context_frames) * self.vae.hop_length

    def push(self, latents: Tensor) -> Tensor | None:
        """The next latents ``[latent, n]`` or ``[batch, latent, n]``, any n.

        Returns the audio ``[2, samples]`` or ``[batch, 2, samples]`` that is now certain, on the
        CPU; None if there is none yet. Raises ValueError for another shape.
        """
        channels = self.vae.latent_channels
        if latents.ndim not in (2, 3) or latents.shape[-2] != channels:
            raise ValueError(
                f"latents must be [{channels}, n] or [batch, {channels}, n], "
                f"got {list(latents.shape)}"
            )
        self._held = _joined(self._held, latents)
        certain = self._first + self._held.shape[-1] - self.vae.decoder.context_frames
        return _piecewise(self._decode, (certain - self._done) // self.frames * self.frames)

    def flush(self, samples: int | None = None) -> Tensor | None:
        """The end of the signal: the audio that is left.

        Args:
            samples: length of the whole signal, where it is known; None: all there is.

        None if nothing is left. The next :meth:`push` begins a new signal. Raises ValueError if
        ``samples`` is more than the latents hold or less than was already given.
        """
        hop = self.vae.hop_length
        held = 0 if self._held is None else self._held.shape[-1]
        frames = self._first + held
        whole = max(0, frames * hop - self.vae.decoder.tail_deficit)
        samples = whole if samples is None else samples
        if not self._done * hop <= samples <= whole:
            raise ValueError(
                f"{samples} samples: {frames} latent frames hold {whole}, and "
                f"{self._done * hop} were already given"
            )
        left = samples - self._done * hop
        audio = _piecewise(self._decode, frames - self._done)
        self._reset()
        return audio[..., :left] if audio is not None and left else None

    def _reset(self) -> None:
        self._held: Tensor | None = None  # latents from frame `first` on
        self._first = self._done = 0  # frames whose audio was given

    @torch.no_grad()
    def _decode(self, count: int) -> Tensor:
        """The audio of the next ``count`` frames."""
        assert self._held is not None
        hop, context = self.vae.hop_length, self.vae.decoder.context_frames
        stop = self._done + count
        chunk = self._held[..., : stop + context - self._first]
        audio = self.vae.decoder(_batch(chunk).to(_device(self.vae)))
        audio = audio[..., (self._done - self._first) * hop : (stop - self._first) * hop]
        keep = max(self._first, stop - context)
        self._held = self._held[..., keep - self._first :].clone()
        self._first, self._done = keep, stop
        return audio.cpu().reshape(*chunk.shape[:-2], *audio.shape[1:])


def _piecewise(compute: Callable[[int], Tensor], frames: int) -> Tensor | None:
    """The next ``frames`` frames, so few at a time that a long push needs little memory."""
    pieces = []
    while frames > 0:
        pieces.append(compute(min(frames, codec.CHUNK_FRAMES)))
        frames -= codec.CHUNK_FRAMES
    return torch.cat(pieces, dim=-1) if pieces else None


def _joined(held: Tensor | None, new: Tensor) -> Tensor:
    if held is None:
        return new
    if held.shape[:-1] != new.shape[:-1]:
        raise ValueError(f"{list(new.shape)} cannot follow {list(held.shape)}")
    return torch.cat([held, new], dim=-1)


def _batch(x: Tensor) -> Tensor:
    return x if x.ndim == 3 else x.unsqueeze(0)


def _device(vae: EarVAE) -> torch.device:
    return next(vae.parameters()).device


def _check_frames(frames: int) -> None:
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
