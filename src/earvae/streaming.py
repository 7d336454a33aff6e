"""Live use: push audio, get posteriors; push latents, get audio. Equal to the offline codec.

    encoder, decoder = StreamingEncoder(vae), StreamingDecoder(vae, block_frames=1)
    for block in blocks:                            # [1, 2, any number of samples]
        play(decoder.push(encoder.push(block).mode()))
    play(decoder.push(encoder.flush().mode()))      # the end of the signal
    play(decoder.flush(encoder.samples))

A frame is given out once it is certain, that is when the ``context_frames`` frames after it are
there. What comes out, joined, is what ``codec.encode`` and ``codec.decode`` give for the whole
signal, to float32 rounding; the arithmetic is theirs (``codec.FrameStream``).

``block_frames`` trades delay for work. The context on both sides is computed anew for every
block: with b = ``block_frames`` and c = ``context_frames``, at most (b + 2c) / b times the
offline work, and b − 1 frames more delay than the context itself demands. A push that makes more
frames certain has them computed together. The decoder behind a streaming encoder therefore needs
no blocks of its own: the encoder hands on ``block_frames`` frames at a time.

The transformer of the paper's architecture cannot be streamed, as it lets every sample depend on
every latent. It belongs to the decoder: :class:`StreamingDecoder` refuses such a model, whose
encoder streams like any other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from earvae import codec
from earvae.errors import EarvaeError
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE

BLOCK_FRAMES = 8  # 0.19 s at 44.1 kHz, half of the delay that the shipped decoder's context has


class StreamingError(EarvaeError, ValueError):
    """A model that cannot be streamed; the message says why and what to do."""


class _Stream:
    """One signal through a network of a model: what both directions have in common.

    Raises ValueError for blocks shorter than a frame.
    """

    _name: str  # of what is pushed
    _unit: str  # what it is counted in
    _open: Callable[[EarVAE, int, int], codec.FrameStream]  # with the fewest frames and the most

    def __init__(self, vae: EarVAE, block_frames: int = BLOCK_FRAMES) -> None:
        if block_frames < 1:
            raise ValueError(f"block_frames must be at least 1, got {block_frames}")
        self.vae, self.block_frames = vae, block_frames
        self._dtype = next(vae.parameters()).dtype
        self.reset()

    def reset(self) -> None:
        """Forget everything pushed; the next push begins a new signal."""
        # The most computed at a time is what the codec holds to be a good chunk.
        most = max(self.block_frames, codec.chunk_of(self.vae))
        self._stream = self._open(self.vae, self.block_frames, most)
        self._batch = 0  # unknown before the first push
        self._pushed = 0  # samples or frames
        self._ended = False

    def _take(self, signal: Tensor, channels: int) -> list[Tensor]:
        """The frames that ``signal [batch, channels, n]`` makes certain. Raises ValueError."""
        self._check_open()
        if signal.ndim != 3 or signal.shape[0] == 0 or signal.shape[1] != channels:
            raise ValueError(
                f"{self._name} must be [batch, {channels}, {self._unit}], got {list(signal.shape)}"
            )
        if self._batch not in (0, signal.shape[0]):
            raise ValueError(
                f"{self._name} had a batch of {self._batch} so far, got {signal.shape[0]}: "
                "reset() before another signal"
            )
        if not signal.is_floating_point():
            raise ValueError(f"{self._name} must be floating point, got {signal.dtype}")
        if not signal.isfinite().all():
            raise ValueError(f"{self._name} must be finite, got NaN or infinity")
        self._batch = signal.shape[0]
        self._pushed += signal.shape[2]
        return self._stream.push(signal)

    def _end(self) -> None:
        """No more is to come. Raises ValueError if nothing came, or at the second end."""
        self._check_open()
        if not self._pushed:
            raise ValueError(f"nothing to flush: no {self._unit} were pushed")
        self._ended = True

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError("the signal was flushed: reset() before another one")

    def _joined(self, pieces: list[Tensor], channels: int) -> Tensor:
        """``[batch, channels, n]``; without pieces n is 0."""
        if not pieces:
            return torch.empty(
                self._batch, channels, 0, dtype=self._dtype, device=self._stream.home
            )
        return torch.cat(pieces, dim=2)


class StreamingEncoder(_Stream):
    """Audio in, posteriors out.

    Args:
        vae: any model in evaluation mode, also one prepared by ``earvae.engine``.
        block_frames: frames computed at a time; fewer for less delay, more for less work.

    Raises ValueError for blocks shorter than a frame.
    """

    _name, _unit, _open = "audio", "samples", staticmethod(codec.encoder_stream)

    @property
    def latency_samples(self) -> int:
        """Samples after the last one of a frame until its posterior is given, at most."""
        frames = self.block_frames - 1 + self.vae.encoder.context_frames
        return frames * self.vae.hop_length

    @property
    def samples(self) -> int:
        """Samples pushed since the last reset."""
        return self._pushed

    def push(self, audio: Tensor) -> Posterior:
        """Posterior of the frames that the next audio makes certain, on the device of that; often
        of none (``[batch, latent, 0]``).

        Audio is ``[batch, 2, n]`` with any n ≥ 0, full scale ±1. Raises ValueError for another
        shape or batch size than before, values that are not finite or not floating point, and
        after :meth:`flush`.
        """
        return self._posterior(self._take(audio, self.vae.config.audio_channels))

    def flush(self) -> Posterior:
        """Posterior of the remaining frames, at the end of the signal.

        The last frame is filled up with zeros as ``codec.encode`` does. Raises ValueError if no
        samples were pushed, or if called again before :meth:`reset`.
        """
        self._end()
        return self._posterior(self._stream.finish(codec.frames_for(self.vae, self.samples)))

    def _posterior(self, parameters: list[Tensor]) -> Posterior:
        joined = self._joined(parameters, 2 * self.vae.latent_channels)
        return Posterior(joined, self.vae.config.std_floor)


class StreamingDecoder(_Stream):
    """Latents in, audio out.

    Args:
        vae: a model in evaluation mode that has no transformer, such as the shipped one; also one
            prepared by ``earvae.engine``.
        block_frames: frames computed at a time; fewer for less delay, more for less work.

    Raises StreamingError for a model with a transformer, ValueError for blocks shorter than a
    frame.
    """

    _name, _unit, _open = "latents", "frames", staticmethod(codec.decoder_stream)

    def __init__(self, vae: EarVAE, block_frames: int = BLOCK_FRAMES) -> None:
        if vae.transformers is not None:
            raise StreamingError(
                "this model decodes through a transformer that attends to all latents, so no "
                "sample is certain before the last latent: collect them and use codec.decode "
                "or codec.decode_stream"
            )
        super().__init__(vae, block_frames)

    @property
    def latency_frames(self) -> int:
        """Latent frames after a frame until its audio is given, at most."""
        return self.block_frames - 1 + self.vae.decoder.context_frames

    @property
    def latency_samples(self) -> int:
        """:attr:`latency_frames` in samples."""
        return self.latency_frames * self.vae.hop_length

    def push(self, latents: Tensor) -> Tensor:
        """Audio that the next latents make certain, whole frames ``[batch, 2, frames·hop]`` on
        the latents' device; often none (``[batch, 2, 0]``).

        Latents are ``[batch, latent, n]`` with any n ≥ 0. Raises ValueError for another shape or
        batch size than before, values that are not finite or not floating point, and after
        :meth:`flush`.
        """
        return self._audio(self._take(latents, self.vae.latent_channels))

    def flush(self, samples: int | None = None) -> Tensor:
        """The remaining audio at the end of the signal, ``[batch, 2, n]``.

        Args:
            samples: length of the whole signal; None: all that the latents hold, which is
                ``frames·hop`` but for the ``tail_deficit`` of models with odd strides.

        Raises ValueError if no latents were pushed, if they hold fewer than ``samples`` samples or
        more than that were given already, or if called again before :meth:`reset`.
        """
        frames, given = self._pushed, self._stream.done * self.vae.hop_length
        whole = frames * self.vae.hop_length - self.vae.decoder.tail_deficit
        if samples is not None and frames and not given <= samples <= whole:
            raise ValueError(
                f"{frames} latent frames hold {whole} samples, of which {given} were given "
                f"already: the signal cannot be {samples} samples long"
            )
        self._end()
        length = whole if samples is None else samples
        return self._audio(self._stream.finish(frames))[..., : length - given]

    def _audio(self, blocks: list[Tensor]) -> Tensor:
        return self._joined(blocks, self.vae.config.audio_channels)
