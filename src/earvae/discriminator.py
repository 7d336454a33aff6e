"""The multi-scale STFT discriminator (EnCodec, Défossez et al. 2022), stereo-aware.

One convolution stack per STFT resolution looks at the complex spectra of both channels at once,
so it sees magnitudes, phases and the stereo image. The paper (section 3) uses this discriminator
alone: its ablation found that a CQT discriminator hurts high harmonics.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from earvae.config import DiscriminatorConfig
from earvae.objective.spectrum import STFT

SLOPE = 0.2  # of the leaky ReLU
FLOOR = 1e-5  # magnitude below which compression stops: full scale = 1, as in objective/


class Judgement(NamedTuple):
    """One scale's judgement of a batch.

    ``score [batch, 1, frames, bins]``: least squares pulls it to 1 for music, to 0 for
    reconstructions. ``features``: the layers' outputs, each ``[batch, channels, frames, bins]``.
    """

    score: Tensor
    features: list[Tensor]


class ScaleDiscriminator(nn.Module):
    """One resolution: STFT, a stack of 2-D convolutions with growing dilation in time, a score.

    Args:
        config: width, dilations, signals, compression.
        length: STFT window in samples; the hop is a quarter of it.

    Shapes: audio [batch, 2, samples] -> Judgement.
    """

    def __init__(self, config: DiscriminatorConfig, length: int) -> None:
        super().__init__()
        self.config = config
        self.stft = STFT(length)
        planes = 8 if config.signals == "mslr" else 4  # real and imaginary
        width = config.channels
        self.layers = nn.ModuleList([_convolution(planes, width, (3, 9))])
        for dilation in config.dilations:  # every one halves the bins
            self.layers.append(_convolution(width, width, (3, 9), stride=2, dilation=dilation))
        self.layers.append(_convolution(width, width, (3, 3)))
        self.score = _convolution(width, 1, (3, 3))

    def forward(self, audio: Tensor) -> Judgement:
        return self.judge(self.spectra(audio))

    def judge(self, x: Tensor) -> Judgement:
        """The judgement of planes ``[batch, planes, frames, bins]`` by the layers alone."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return Judgement(self.score(x), features)

    def spectra(self, audio: Tensor) -> Tensor:
        """The planes ``[batch, planes, frames, bins]`` that the layers see: the real and imaginary
        parts of the signals' spectra."""
        with torch.autocast(audio.device.type, enabled=False):
            left_right = self.stft(audio.float())  # [batch, 2, frames, bins]
            left, right = left_right.unbind(1)
            mid_side = torch.stack([left + right, left - right], dim=1) / 2**0.5
            pairs = {"lr": [left_right], "ms": [mid_side], "mslr": [left_right, mid_side]}
            spectra = torch.cat(pairs[self.config.signals], dim=1)
            if self.config.compression < 1:
                power = spectra.real.square() + spectra.imag.square() + FLOOR**2
                spectra = spectra * power ** ((self.config.compression - 1) / 2)
            return torch.cat([spectra.real, spectra.imag], dim=1)


class View(NamedTuple):
    """The scales that judge in one step, and the stretch of every crop that they look at."""

    scales: tuple[int, ...]
    stretch: slice


class Discriminator(nn.Module):
    """The scales together: audio [batch, 2, samples] -> one Judgement a scale, or of a view."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(ScaleDiscriminator(config, n) for n in config.resolutions)

    def forward(self, audio: Tensor, view: View | None = None) -> list[Judgement]:
        if view is None:
            return [scale(audio) for scale in self.scales]
        audio = audio[..., view.stretch]
        return [self.scales[index](audio) for index in view.scales]

    def compile_scales(self) -> None:
        """``torch.compile`` the layers of every scale; in place."""
        for scale in self.scales:
            scale.judge = torch.compile(scale.judge, dynamic=False)

    def draw(self, samples: int, generator: torch.Generator) -> View:
        """The view of one step on crops of ``samples``; random where the config asks for less."""
        wanted = self.config.resolutions_per_step or len(self.scales)
        scales = torch.randperm(len(self.scales), generator=generator)[:wanted].tolist()
        length = min(samples, self.config.crop_samples or samples)
        start = int(torch.randint(samples - length + 1, (), generator=generator))
        return View(tuple(scales), slice(start, start + length))


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, dilation: int = 1
) -> nn.Module:
    """A weight-normalised convolution over [frames, bins], with ``stride`` in frequency and
    ``dilation`` in time."""
    padding = (dilation * (kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    return weight_norm(
        nn.Conv2d(inputs, outputs, kernel, (1, stride), padding, dilation=(dilation, 1))
    )
