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

import torch
from torch import Tensor

from earvae import codec
from earvae.errors import EarvaeError
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE

BLOCK_FRAMES = 8  # 0.19 s at 44.1 kHz: about half the delay that the compact model's context has


class StreamingError(EarvaeError, ValueError):
    """A model that cannot be streamed; the message says why and what to do."""


class StreamingEncoder:
    """Audio in, posteriors out.

    Args:
        vae: any model in evaluation mode, also one prepared by ``earvae.engine``.
        block_frames: frames computed at a time; fewer for less delay, more for less work.

    Raises ValueError for blocks shorter than a frame.
    """

    def __init__(self, vae: EarVAE, block_frames: int = BLOCK_FRAMES) -> None:
        _check_block(block_frames)
        self.vae, self.block_frames = vae, block_frames
        self.reset()

    @property
    def latency_samples(self) -> int:
        """Samples after the last one of a frame until its posterior is given, at most."""
        frames = self.block_frames - 1 + self.vae.encoder.context_frames
        return frames * self.vae.hop_length

    @property
    def samples(self) -> int:
        """Samples pushed since the last reset."""
        return self._input.length

    def push(self, audio: Tensor) -> Posterior:
        """The next audio, ``[batch, 2, n]`` with any n ≥ 0, full scale ±1.

        Returns the posterior of the frames that became certain, on the CPU; often of none
        (``[batch, latent, 0]``). Raises ValueError for another shape or batch size than before,
        values that are not finite or not floating point, and after :meth:`flush`.
        """
        return self._posterior(self._stream.push(self._input.take(audio)))

    def flush(self) -> Posterior:
        """The end of the signal: the posterior of the remaining frames.

        The last frame is filled up with zeros as ``codec.encode`` does. Raises ValueError if no
        samples were pushed, or if called again before :meth:`reset`.
        """
        self._input.end()
        return self._posterior(self._stream.finish(codec.frames_for(self.vae, self.samples)))

    def reset(self) -> None:
        """Forget everything pushed; the next push begins a new signal."""
        self._stream = codec.encoder_stream(self.vae, self.block_frames, _most(self.block_frames))
        self._input = _Input("audio", "samples", self.vae, self.vae.config.audio_channels)

    def _posterior(self, parameters: list[Tensor]) -> Posterior:
        nothing = self._input.nothing(2 * self.vae.latent_channels)
        return Posterior(_joined(parameters, nothing), self.vae.config.std_floor)


class StreamingDecoder:
    """Latents in, audio out.

    Args:
        vae: a model in evaluation mode that has no transformer: the compact model, or one of the
            paper's architecture with ``transformer`` None; also one prepared by
            ``earvae.engine``.
        block_frames: frames computed at a time; fewer for less delay, more for less work.

    Raises StreamingError for a model with a transformer, ValueError for blocks shorter than a
    frame.
    """

    def __init__(self, vae: EarVAE, block_frames: int = BLOCK_FRAMES) -> None:
        _check_block(block_frames)
        if vae.transformers is not None:
            raise StreamingError(
                "this model decodes through a transformer that attends to all latents, so no "
                "sample is certain before the last latent: collect them and use codec.decode "
                "or codec.decode_stream"
            )
        self.vae, self.block_frames = vae, block_frames
        self.reset()

    @property
    def latency_frames(self) -> int:
        """Latent frames after a frame until its audio is given, at most."""
        return self.block_frames - 1 + self.vae.decoder.context_frames

    @property
    def latency_samples(self) -> int:
        """:attr:`latency_frames` in samples."""
        return self.latency_frames * self.vae.hop_length

    def push(self, latents: Tensor) -> Tensor:
        """The next latents, ``[batch, latent, n]`` with any n ≥ 0.

        Returns the audio that became certain, whole frames ``[batch, 2, frames·hop]`` on the CPU;
        often none (``[batch, 2, 0]``). Raises ValueError for another shape or batch size than
        before, values that are not finite or not floating point, and after :meth:`flush`.
        """
        return self._audio(self._stream.push(self._input.take(latents)))

    def flush(self, samples: int | None = None) -> Tensor:
        """The end of the signal: the remaining audio, ``[batch, 2, n]``.

        Args:
            samples: length of the whole signal; None: all that the latents hold, which is
                ``frames·hop`` but for the ``tail_deficit`` of models with odd strides.

        Raises ValueError if no latents were pushed, if they hold fewer than ``samples`` samples or
        more than that were given already, or if called again before :meth:`reset`.
        """
        frames, given = self._input.length, self._stream.done * self.vae.hop_length
        whole = frames * self.vae.hop_length - self.vae.decoder.tail_deficit
        if samples is not None and frames and not given <= samples <= whole:
            raise ValueError(
                f"{frames} latent frames hold {whole} samples, of which {given} were given "
                f"already: the signal cannot be {samples} samples long"
            )
        self._input.end()
        length = whole if samples is None else samples
        return self._audio(self._stream.finish(frames))[..., : length - given]

    def reset(self) -> None:
        """Forget everything pushed; the next push begins a new signal."""
        self._stream = codec.decoder_stream(self.vae, self.block_frames, _most(self.block_frames))
        self._input = _Input("latents", "frames", self.vae, self.vae.latent_channels)

    def _audio(self, blocks: list[Tensor]) -> Tensor:
        return _joined(blocks, self._input.nothing(self.vae.config.audio_channels))


class _Input:
    """What may be pushed: one signal of one batch size, until its end.

    Attributes:
        batch: of the signal; 0 before the first push.
        length: samples or frames pushed.
    """

    def __init__(self, name: str, unit: str, vae: EarVAE, channels: int) -> None:
        self.name, self.unit, self.channels = name, unit, channels
        self.dtype = next(vae.parameters()).dtype
        self.batch = self.length = 0
        self.ended = False

    def take(self, signal: Tensor) -> Tensor:
        """``signal`` in the model's precision, counted. Raises ValueError."""
        self._check(signal)
        self.batch = signal.shape[0]
        self.length += signal.shape[2]
        return signal.to(self.dtype)

    def nothing(self, channels: int) -> Tensor:
        """No frames or samples, ``[batch, channels, 0]``."""
        return torch.empty(self.batch, channels, 0, dtype=self.dtype)

    def end(self) -> None:
        """No more to come. Raises ValueError if nothing came, or at the second end."""
        self._check_open()
        if not self.length:
            raise ValueError(f"nothing to flush: no {self.unit} were pushed")
        self.ended = True

    def _check(self, signal: Tensor) -> None:
        self._check_open()
        if signal.ndim != 3 or signal.shape[0] == 0 or signal.shape[1] != self.channels:
            raise ValueError(
                f"{self.name} must be [batch, {self.channels}, {self.unit}], "
                f"got {list(signal.shape)}"
            )
        if self.batch not in (0, signal.shape[0]):
            raise ValueError(
                f"{self.name} had a batch of {self.batch} so far, got {signal.shape[0]}: "
                "reset() before another signal"
            )
        if not signal.is_floating_point():
            raise ValueError(f"{self.name} must be floating point, got {signal.dtype}")
        if not signal.isfinite().all():
            raise ValueError(f"{self.name} must be finite, got NaN or infinity")

    def _check_open(self) -> None:
        if self.ended:
            raise ValueError("the signal was flushed: reset() before another one")


def _most(block_frames: int) -> int:
    """Frames computed at a time when a push is long: what the codec holds to be a good chunk."""
    return max(block_frames, codec.CHUNK_FRAMES)


def _joined(pieces: list[Tensor], nothing: Tensor) -> Tensor:
    return torch.cat(pieces, dim=2) if pieces else nothing


def _check_block(block_frames: int) -> None:
    if block_frames < 1:
        raise ValueError(f"block_frames must be at least 1, got {block_frames}")
