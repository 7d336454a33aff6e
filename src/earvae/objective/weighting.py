"""Frequency weighting of audio before it is compared: K (ITU-R BS.1770-4), A (IEC 61672-1).

Both filters are applied as FIR filters by overlap-add: one fixed block length, one fixed
frequency response, no cache by input length. Each module is differentiable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from earvae.objective.spectrum import full_precision

Biquad = tuple[tuple[float, float, float], tuple[float, float, float]]


def k_weighting_sections(sample_rate: float) -> tuple[Biquad, Biquad]:
    """The two biquads ((b0, b1, b2), (1, a1, a2)) of the K-weighting at ``sample_rate`` Hz.

    High shelf, then RLB high-pass. ITU-R BS.1770-4 tabulates them for 48 kHz; these are the
    analogue parameters that De Man derived from that table ("Evaluation of implementations of
    the EBU R128 loudness measurement", AES 145, 2018), put through the bilinear transform.
    """
    shelf_hz, shelf_db, shelf_q = 1681.974450955533, 3.999843853973347, 0.7071752369554196
    k = math.tan(math.pi * shelf_hz / sample_rate)
    high = 10 ** (shelf_db / 20)
    band = high**0.4996667741545416
    norm = 1 + k / shelf_q + k * k
    shelf = (
        (
            (high + band * k / shelf_q + k * k) / norm,
            2 * (k * k - high) / norm,
            (high - band * k / shelf_q + k * k) / norm,
        ),
        (1.0, 2 * (k * k - 1) / norm, (1 - k / shelf_q + k * k) / norm),
    )
    pass_hz, pass_q = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * pass_hz / sample_rate)
    norm = 1 + k / pass_q + k * k
    high_pass = (
        (1.0, -2.0, 1.0),
        (1.0, 2 * (k * k - 1) / norm, (1 - k / pass_q + k * k) / norm),
    )
    return shelf, high_pass


def a_weighting_gain(frequency: Tensor) -> Tensor:
    """Exact analogue magnitude of the A-weighting (IEC 61672-1, annex E) at ``frequency`` Hz.

    Linear gain, 1 at 1 kHz.
    """
    f1, f2, f3, f4 = 20.598997057568145, 107.65264864304628, 737.8622307362899, 12194.21714799801

    def response(f: Tensor) -> Tensor:
        s = f * f
        corners = (s + f1**2) * ((s + f2**2) * (s + f3**2)).sqrt() * (s + f4**2)
        return f4**2 * s * s / corners

    return response(frequency) / response(torch.tensor(1000.0, dtype=torch.float64))


class FIRFilter(nn.Module):
    """Filters each channel with one fixed impulse response.

    Args:
        impulse_response: float64 [taps].
        lead: samples of the impulse response that lie before time 0 (0 for a causal filter).

    Shapes: audio [batch, channels, samples] -> the same shape; silence is assumed outside.
    Runs in float32 (or float64 for float64 audio) under autocast as well.
    """

    def __init__(self, impulse_response: Tensor, lead: int = 0) -> None:
        super().__init__()
        taps = impulse_response.numel()
        self.lead = lead
        self.fft_length = 1 << (4 * taps - 1).bit_length()
        self.block_length = self.fft_length - taps + 1
        response = torch.fft.rfft(impulse_response.double(), n=self.fft_length)
        self.register_buffer("response", torch.view_as_real(response).float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            audio = full_precision(audio)
            samples = audio.shape[-1]
            response = torch.view_as_complex(self.response.to(audio.dtype))
            total = samples + self.lead
            blocks = -(-total // self.block_length)
            audio = nn.functional.pad(audio, (0, blocks * self.block_length - samples))
            audio = audio.unflatten(-1, (blocks, self.block_length))
            spectrum = torch.fft.rfft(audio, n=self.fft_length) * response
            wet = torch.fft.irfft(spectrum, n=self.fft_length)
            kept, tail = wet.split((self.block_length, self.fft_length - self.block_length), dim=-1)
            # the tail of each block rings on into the next; the last one's is beyond the end
            rest = self.block_length - tail.shape[-1]
            tail = nn.functional.pad(tail[..., :-1, :], (0, rest, 1, 0))
            return (kept + tail).flatten(-2)[..., self.lead : total]


class KWeighting(FIRFilter):
    """K-weighting of ITU-R BS.1770-4 for any sample rate (paper section 3.1).

    The impulse response of the biquad cascade is kept until what is left of it is below
    1e-7 of full scale, so that the module equals the recursive filter in float32.

    Args:
        sample_rate: Hz.

    Shapes: audio [batch, channels, samples] -> the same shape.
    """

    def __init__(self, sample_rate: float) -> None:
        taps = 1 << math.ceil(math.log2(4096 * sample_rate / 48_000))
        length = 16 * taps  # time aliasing of the sampled response is beyond float64 here
        angle = torch.arange(length // 2 + 1, dtype=torch.float64) * (math.tau / length)
        z = torch.exp(-1j * angle)
        response = torch.ones_like(z)
        for (b0, b1, b2), (a0, a1, a2) in k_weighting_sections(sample_rate):
            response = response * (b0 + b1 * z + b2 * z * z) / (a0 + a1 * z + a2 * z * z)
        super().__init__(torch.fft.irfft(response, n=length)[:taps])


class AWeighting(FIRFilter):
    """A-weighting of IEC 61672-1 for any sample rate.

    Zero phase, with the analogue magnitude itself up to half the sample rate: a bilinear
    design would be some decibels off in the top octave. Both signals of a comparison pass it,
    so its phase cancels in every term.

    Args:
        sample_rate: Hz.

    Shapes: audio [batch, channels, samples] -> the same shape.
    """

    def __init__(self, sample_rate: float) -> None:
        lead = 1 << math.ceil(math.log2(4096 * sample_rate / 48_000))
        length = 16 * lead
        frequency = torch.arange(length // 2 + 1, dtype=torch.float64) * (sample_rate / length)
        response = torch.fft.irfft(a_weighting_gain(frequency).to(torch.complex128), n=length)
        super().__init__(response.roll(lead)[: 2 * lead + 1], lead=lead)
