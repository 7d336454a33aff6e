"""The model's part of a library: audio that was read to parameters of posteriors."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from earvae import codec
from earvae.library.plan import Batch
from earvae.library.reader import LoadedWindows
from earvae.model.vae import EarVAE


class Encoder:
    """Encodes batches, and windows of long files. Results are float32, on the CPU.

    Attributes:
        seconds: of the wall clock, in the encoder.
    """

    def __init__(self, vae: EarVAE, context: int) -> None:
        self.vae, self.context = vae, context
        self.device = next(vae.parameters()).device
        self.seconds = 0.0

    def batch(self, audio: np.ndarray, batch: Batch) -> list[Tensor]:
        """Posterior parameters ``[1, 2·latent, frames]`` of each file of a batch, which is
        ``[files, 2, frames·hop]``."""
        whole = codec.as_alone(
            lambda some, _: self._run(some),
            torch.from_numpy(audio), batch.lengths, self.context, self.vae.hop_length, 1,
        )  # fmt: skip
        return [whole[n : n + 1, :, :frames].clone() for n, frames in enumerate(batch.lengths)]

    def windows(self, loaded: LoadedWindows) -> list[Tensor]:
        """Posterior parameters ``[1, 2·latent, n]`` of the frames to keep of each window."""
        encoded = self._run(torch.from_numpy(loaded.audio)).split(1)
        return [
            window[..., first:last]
            for window, (first, last) in zip(encoded, loaded.keep, strict=True)
        ]

    def _run(self, audio: Tensor) -> Tensor:
        """The encoder on ``[n, 2, samples]``: ``[n, 2·latent, frames]``."""
        started = time.perf_counter()
        with torch.no_grad():
            parameters = self.vae.encoder(audio.to(self.device)).float().cpu()
        self.seconds += time.perf_counter() - started
        return parameters
