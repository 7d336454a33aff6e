"""Exact chunked encoding and decoding: any length in flat memory, no crossfade.

A latent frame depends on a limited stretch of audio and a sample on a limited stretch of latents
(``context_frames`` of the encoder and decoder). A chunk that carries that context on both sides
therefore gives, in its interior, what the whole signal would give: :class:`FrameStream`, on
which ``streaming.py`` builds as well. The transformer of the paper's decoder attends to
everything, so it runs once, over the whole latent sequence, which is small (40 MB an hour).

Next to the ends of a signal a network sees its own zeros, layer by layer, which silence in its
place cannot stand in for. In a batch of padded signals the end of each shorter one is therefore
computed a second time, ending where it ends: :func:`as_alone`, which ``library/`` uses as well.

Results are on the device of what was given, in the model's precision; each chunk is moved to the
model's device and back, so that a long file needs no more memory there than a chunk does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.model.parts import draws_noise
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE

CHUNK_FRAMES = 430  # at most, and
CHUNK_SECONDS = 10.0  # at most: a frame of εar-VAE2 is 40 ms, and its activations are large


def chunk_of(vae: EarVAE) -> int:
    """Latent frames that are computed at a time where nothing else is said."""
    return min(CHUNK_FRAMES, round(CHUNK_SECONDS * vae.sample_rate / vae.hop_length))


def frames_for(vae: EarVAE, samples: int) -> int:
    """Latent frames whose decoding holds at least ``samples`` samples (all of them real ones)."""
    return max(1, -(-(samples + vae.decoder.tail_deficit) // vae.hop_length))


def encode(
    vae: EarVAE,
    audio: Tensor,
    chunk_frames: int | None = None,
    lengths: Sequence[int] | Tensor | None = None,
) -> Posterior:
    """Posterior of ``[batch, 2, samples]`` audio, computed ``chunk_frames`` frames at a time
    (None: :func:`chunk_of`).

    Equals ``vae.encode`` of the audio padded with zeros to :func:`frames_for` frames.

    Args:
        lengths: samples of each signal of a padded batch. What the batch holds after these does
            not count: the first ``frames_for(vae, lengths[i])`` frames of row i are what the
            signal by itself gives, and the parameters of those behind them are zeros.

    Raises ValueError as ``vae.encode`` does, for a chunk shorter than a frame, and for lengths
    that are not one for each signal, from 1 to ``samples``.
    """
    vae.check_audio(audio)
    if lengths is None:
        return _encode_blocks(vae, [audio], chunk_frames)[0]
    chunk_frames = _checked_chunk(vae, chunk_frames)
    lengths = _checked(lengths, len(audio), audio.shape[2])
    frames = [frames_for(vae, samples) for samples in lengths]
    parameters = as_alone(
        lambda some, _: _whole(encoder_stream(vae, chunk_frames, chunk_frames), some),
        _cut(audio, lengths, max(frames) * vae.hop_length),
        frames, vae.encoder.context_frames, vae.hop_length, 1,
    )  # fmt: skip
    return Posterior(_cut(parameters, frames, max(frames)), vae.config.std_floor)


def decode(
    vae: EarVAE,
    latents: Tensor,
    samples: int | Sequence[int] | Tensor,
    chunk_frames: int | None = None,
) -> Tensor:
    """The first ``samples`` samples of decoded ``[batch, latent, frames]`` latents,
    ``[batch, 2, samples]``, computed ``chunk_frames`` frames at a time (None: :func:`chunk_of`).

    Args:
        samples: one number for all; or the lengths of a padded batch, one for each signal. Row i
            then is what its first ``frames_for(vae, samples[i])`` frames give by themselves, with
            zeros behind its end.

    Raises ValueError as ``vae.decode``, or for fewer than one sample, more than the latents hold,
    lengths that are not one for each signal, or a chunk shorter than a frame.
    """
    if not isinstance(samples, Sequence | Tensor):
        return torch.cat(list(_decode_blocks(vae, latents, samples, chunk_frames)), dim=2)
    vae.check_latents(latents)
    held = latents.shape[2] * vae.hop_length - vae.decoder.tail_deficit
    chunk_frames = _checked_chunk(vae, chunk_frames)
    lengths = _checked(samples, len(latents), held)
    frames = [frames_for(vae, length) for length in lengths]
    rows = [row[None, :, :n] for row, n in zip(latents, frames, strict=True)]
    if vae.transformers is not None:  # each by itself, as every frame sees all the others
        rows = [_transformed(vae, row) for row in rows]
    audio = as_alone(
        lambda some, at: _whole(decoder_stream(vae, chunk_frames, chunk_frames, at), some),
        torch.cat([F.pad(row, (0, max(frames) - row.shape[2])) for row in rows]),
        frames, vae.decoder.context_frames, 1, vae.hop_length,
    )  # fmt: skip
    return _cut(audio, lengths, max(lengths))


def reconstruct(
    vae: EarVAE,
    audio: Tensor,
    chunk_frames: int | None = None,
    sample: bool = False,
    generator: torch.Generator | None = None,
    lengths: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Audio ``[batch, 2, samples]`` through the codec and back, of exactly the same length.

    Latents are the posterior mean, or with ``sample`` a draw from it. ``lengths`` are those of a
    padded batch, as of :func:`encode`; behind them the result is zero.
    """
    posterior = encode(vae, audio, chunk_frames, lengths)
    latents = posterior.sample(generator) if sample else posterior.mode()
    if lengths is None:
        return decode(vae, latents, audio.shape[2], chunk_frames)
    decoded = decode(vae, latents, lengths, chunk_frames)
    return F.pad(decoded, (0, audio.shape[2] - decoded.shape[2]))


def as_alone(
    run: Callable[[Tensor, int | Tensor], Tensor],
    signal: Tensor,
    frames: Sequence[int],
    context: int,
    step: int,
    output_step: int,
) -> Tensor:
    """A network over a padded batch, what it gives of each signal being what it gives of it alone.

    Args:
        run: the network, ``[n, channels, frames·step]`` to ``[n, channels', frames·output_step]``,
            the last frame of which may come out shorter; and where in their signals these frames
            begin, one number for all or int64 ``[n]``.
        signal: ``[batch, channels, frames·step]``, padded to the longest, at the end.
        frames: of each signal.
        context: frames on each side that a frame depends on.
        step: values of the signal a frame: the hop of audio, 1 of latents.
        output_step: the same of the result.

    What is behind a signal's own frames in the result means nothing.
    """
    output = run(signal, 0)
    last = {row: min(n, 2 * context) for row, n in enumerate(frames) if n < max(frames) and context}
    for count, same in groupby(sorted(last, key=last.get), key=last.get):
        rows = list(same)
        starts = [frames[row] - count for row in rows]
        ends = torch.stack(
            [
                signal[row, :, start * step : (start + count) * step]
                for row, start in zip(rows, starts, strict=True)
            ]
        )
        found = run(ends, torch.tensor(starts))
        known = context if count == 2 * context else 0  # frames right in the first run
        for row, start, end in zip(rows, starts, found, strict=True):
            place = start * output_step
            output[row, :, place + known * output_step : place + end.shape[1]] = end[
                :, known * output_step :
            ]
    return output


def encode_stream(
    vae: EarVAE, blocks: Iterable[Tensor], chunk_frames: int | None = None
) -> tuple[Posterior, int]:
    """Posterior of audio that arrives in blocks ``[2, n]`` of any sizes, and its samples.

    At most a chunk and its context are held at a time. Raises ValueError if nothing arrives.
    """
    return _encode_blocks(vae, (block.unsqueeze(0) for block in blocks), chunk_frames)


def decode_stream(
    vae: EarVAE, latents: Tensor, samples: int, chunk_frames: int | None = None
) -> Iterator[Tensor]:
    """The decoded audio of latents ``[1, latent, frames]`` in blocks ``[2, n]``, ``samples`` in
    all."""
    for block in _decode_blocks(vae, latents, samples, chunk_frames):
        yield block[0]


class FrameStream:
    """A network over a signal that arrives in pieces: every frame once, with its context.

    A frame is certain once ``network.context_frames`` frames have come after it, or the signal
    has ended. At most ``least + 2·context + most`` frames of the signal are held at a time, and
    less than ``least + 2·context`` between pushes.

    Args:
        network: an encoder or a decoder, ``[batch, channels, frames·step]`` to
            ``[batch, channels', frames·output_step]``; its last frame may come out shorter.
        device: of the network. The signal may come from any, and results go back there.
        step: values of the signal a frame: the hop of audio, 1 of latents.
        output_step: the same of the result.
        least: frames computed at a time, except at the end; fewer mean less delay, and more
            work, since every time their context is computed too.
        most: frames computed at a time, which bounds memory.
        at_frame: where in its file the signal begins, of which a network that draws noise asks:
            one number, or int64 ``[batch]``.

    Attributes:
        home: the device that the signal comes from.
        arrived: values of the signal that were pushed.
        done: frames that came out.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        step: int,
        output_step: int,
        least: int,
        most: int,
        at_frame: int | Tensor = 0,
    ) -> None:
        self.network, self.device = network, device
        self.step, self.output_step = step, output_step
        self.least, self.most = least, most
        self.at_frame = at_frame
        self.home = torch.device("cpu")
        self.context = network.context_frames
        self.arrived = self.done = 0
        self._first = 0  # frame that what is held begins with
        self._held: list[Tensor] = []  # copies: the pushed tensors are the caller's

    def push(self, signal: Tensor) -> list[Tensor]:
        """The next values ``[batch, channels, n]``; the frames that became certain, in order, as
        any number of ``[batch, channels', frames·output_step]``."""
        ready: list[Tensor] = []
        self.home = signal.device
        for piece in signal.split(self.most * self.step, dim=2):
            self._append(piece.detach().to(self.device, copy=True))
            while (certain := self._whole_frames - self.context - self.done) >= self.least:
                ready.append(self._run(min(certain, self.most)))
        return ready

    def finish(self, frames: int) -> list[Tensor]:
        """The rest of ``frames`` frames, at which the signal ends; zeros make it that long."""
        missing = frames * self.step - self.arrived
        if missing:
            last = self._held[-1]
            self._append(last.new_zeros(*last.shape[:2], missing))
        ready: list[Tensor] = []
        while self.done < frames:
            ready.append(self._run(min(frames - self.done, self.most)))
        return ready

    @property
    def _whole_frames(self) -> int:
        return self.arrived // self.step

    def _append(self, piece: Tensor) -> None:
        self.arrived += piece.shape[2]
        if piece.shape[2]:
            self._held.append(piece)

    @torch.no_grad()
    def _run(self, count: int) -> Tensor:
        """The next ``count`` frames; what is held reaches their context or the end."""
        held = torch.cat(self._held, dim=2)
        start, stop = self.done - self._first, self.done - self._first + count
        reach = min(stop + self.context, self._whole_frames - self._first)
        at_frame = (self.at_frame + self._first,) if draws_noise(self.network) else ()
        output = self.network(held[..., : reach * self.step], *at_frame)
        keep = max(0, stop - self.context)
        self._held = [held[..., keep * self.step :].clone()]  # not a view, which would keep all
        self._first += keep
        self.done += count
        return output[..., start * self.output_step : stop * self.output_step].to(self.home)


def encoder_stream(vae: EarVAE, least: int, most: int) -> FrameStream:
    """Audio ``[batch, 2, n]`` to posterior parameters ``[batch, 2·latent, frames]``."""
    device = next(vae.parameters()).device
    return FrameStream(vae.encoder, device, vae.hop_length, 1, least, most)


def decoder_stream(vae: EarVAE, least: int, most: int, at_frame: int | Tensor = 0) -> FrameStream:
    """Latents ``[batch, latent, n]``, past the transformer, to audio ``[batch, 2, samples]``."""
    device = next(vae.parameters()).device
    return FrameStream(vae.decoder, device, 1, vae.hop_length, least, most, at_frame)


def _whole(stream: FrameStream, signal: Tensor) -> Tensor:
    """All that comes of a signal of whole frames."""
    return torch.cat(stream.push(signal) + stream.finish(signal.shape[2] // stream.step), dim=2)


@torch.no_grad()
def _transformed(vae: EarVAE, latents: Tensor) -> Tensor:
    """Latents past the transformer, on the device that they come from."""
    return vae.transformers(latents.to(next(vae.parameters()).device)).to(latents.device)


def _cut(signal: Tensor, lengths: Sequence[int], longest: int) -> Tensor:
    """A batch ``[batch, channels, n]`` with zeros behind the lengths, ``[batch, channels,
    longest]``."""
    whole = signal.new_zeros(*signal.shape[:2], longest)
    for row, (values, length) in enumerate(zip(signal, lengths, strict=True)):
        whole[row, :, :length] = values[:, :length]
    return whole


def _checked(lengths: Sequence[int] | Tensor, count: int, longest: int) -> list[int]:
    """The lengths as plain numbers. Raises ValueError."""
    values = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    if len(values) != count or not all(isinstance(n, int) and 1 <= n <= longest for n in values):
        raise ValueError(
            f"lengths must be {count} whole numbers of samples from 1 to {longest}, one for each "
            f"signal of the batch, got {values}"
        )
    return values


def _encode_blocks(
    vae: EarVAE, blocks: Iterable[Tensor], chunk_frames: int | None
) -> tuple[Posterior, int]:
    """The encoder over blocks ``[batch, 2, n]``; the posterior and the number of samples."""
    chunk_frames = _checked_chunk(vae, chunk_frames)
    stream = encoder_stream(vae, chunk_frames, chunk_frames)
    parameters: list[Tensor] = []
    for block in blocks:
        parameters += stream.push(block)
    samples = stream.arrived
    if samples == 0:
        raise ValueError("audio holds no samples")
    parameters += stream.finish(frames_for(vae, samples))
    return Posterior(torch.cat(parameters, dim=2), vae.config.std_floor), samples


@torch.no_grad()
def _decode_blocks(
    vae: EarVAE, latents: Tensor, samples: int, chunk_frames: int | None
) -> Iterator[Tensor]:
    """The transformer once, then the decoder in chunks: blocks ``[batch, 2, n]``."""
    vae.check_latents(latents)
    chunk_frames = _checked_chunk(vae, chunk_frames)
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be a whole number of at least 1, got {samples}")
    frames = latents.shape[2]
    if samples > frames * vae.hop_length - vae.decoder.tail_deficit:
        raise ValueError(f"{frames} latent frames cannot hold {samples} samples")
    if vae.transformers is not None:
        latents = _transformed(vae, latents)
    stream = decoder_stream(vae, chunk_frames, chunk_frames)

    def decoded() -> Iterator[Tensor]:
        for piece in latents.split(chunk_frames, dim=2):
            yield from stream.push(piece)
        yield from stream.finish(frames)

    left = samples
    for block in decoded():
        if left <= 0:
            return
        yield block[..., :left]
        left -= block.shape[2]


def _checked_chunk(vae: EarVAE, chunk_frames: int | None) -> int:
    if chunk_frames is None:
        return chunk_of(vae)
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
    return chunk_frames
