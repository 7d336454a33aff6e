"""The linear baseline as a system."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from earvae.audio import sha256_of
from earvae.evaluation.excerpts import SAMPLE_RATE
from earvae.evaluation.systems.system import System, UnusableSystem
from earvae.model.transform import MDCT, mid_side

LINEAR_CODE = Path(__file__).parent / "linear_code.safetensors"
CHUNK_FRAMES = 430  # about ten seconds of transform frames
CONTEXT_FRAMES = 2  # what a frame's samples depend on beyond their own frame


class FrameTransform(nn.Module):
    """Stereo audio to frames of M/S MDCT coefficients and back, losslessly.

    A frame holds ``hop_length`` samples of both channels: first Mid, then Side; within a channel
    the hop's MDCT blocks one after the other; within a block ``mdct_length`` bins from low to
    high. Since the transform is orthonormal, squared errors of frames are those of audio.
    """

    def __init__(self, hop_length: int, mdct_length: int) -> None:
        super().__init__()
        self.blocks_per_frame = hop_length // mdct_length
        self.mdct = MDCT(mdct_length)

    def forward(self, audio: Tensor) -> Tensor:
        """``[batch, 2, frames·hop]`` audio to ``[batch, frames, 2·hop]`` frames."""
        blocks = self.mdct(mid_side(audio))  # [batch, 2, frames·per_frame, bins]
        blocks = blocks.unflatten(2, (-1, self.blocks_per_frame))
        return blocks.transpose(1, 2).flatten(2)  # [batch, frames, 2·per_frame·bins]

    def inverse(self, frames: Tensor) -> Tensor:
        """``[batch, frames, 2·hop]`` frames to ``[batch, 2, frames·hop]`` audio."""
        blocks = frames.unflatten(2, (2, self.blocks_per_frame, self.mdct.block))
        return mid_side(self.mdct.inverse(blocks.transpose(1, 2).flatten(2, 3)))


class LinearBaseline(System):
    """The optimal fixed linear code of music: PCA of MDCT frames, ``components`` numbers each.

    The code was fitted on training music, once, and comes with the package;
    of its components, sorted by variance, any first ones are the best code of that size.

    Raises UnusableSystem for more components than it has.
    """

    def __init__(self, components: int, name: str | None = None, path: Path = LINEAR_CODE) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        basis = load_file(path)["basis"].float()  # [features, components]
        if not 1 <= components <= basis.shape[1]:
            raise UnusableSystem(
                f"linear:{components}: this code has 1 to {basis.shape[1]} components"
            )
        self.basis = basis[:, :components]
        self.hop = int(metadata["hop_length"])
        self.transform = FrameTransform(self.hop, int(metadata["mdct_length"]))
        self.name = name or f"linear-{components}"
        self.floats_per_second = components * SAMPLE_RATE / self.hop
        self.description = f"best fixed linear code, {components} components of MDCT frames"
        fit = sha256_of(path)
        self.settings = {"codec": "linear", "components": components, "fit": fit}

    @torch.no_grad()
    def round_trip(self, audio: Tensor) -> Tensor:
        samples, hop = audio.shape[1], self.hop
        frames = math.ceil(samples / hop)
        result = torch.empty_like(audio)
        for start in range(0, frames, CHUNK_FRAMES):
            stop = min(start + CHUNK_FRAMES, frames)
            low, high = max(0, start - CONTEXT_FRAMES), min(frames, stop + CONTEXT_FRAMES)
            piece = audio[:, low * hop : high * hop]
            piece = F.pad(piece, (0, (high - low) * hop - piece.shape[1]))
            coefficients = self.transform(piece[None])  # [1, frames, features]
            coded = coefficients @ self.basis @ self.basis.T
            decoded = self.transform.inverse(coded)[0]
            end = min(stop * hop, samples)
            result[:, start * hop : end] = decoded[:, (start - low) * hop : end - low * hop]
        return result
