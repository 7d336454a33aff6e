"""Neural codecs of other packages, with the weights that those packages provide.

The packages fetch their weights at the first use. Files of weights are read as plain tensors;
nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from earvae.errors import EarvaeError
from earvae.evaluation.excerpts import SAMPLE_RATE
from earvae.evaluation.systems.models import parameter_count
from earvae.evaluation.systems.system import System, UnusableSystem, resampled
from earvae.model.weight_files import unpickled

DAC_MODELS = {
    "44khz": ("44khz", "8kbps"),
    "44khz-16kbps": ("44khz", "16kbps"),
    "24khz": ("24khz", "8kbps"),
    "16khz": ("16khz", "8kbps"),
}
"""By our name, the type and the bit rate that ``dac.utils.download`` knows a model by."""
PIECE_SECONDS = 10  # that DAC hears at a time
CONTEXT_SECONDS = 0.5  # on both sides of a piece; its networks reach 0.2 s
ENCODEC_KBPS = (3, 6, 12, 24)  # of the stereo model


class Dac(System):
    """The Descript Audio Codec (Kumar and others, 2023), each channel for itself, with all of its
    codebooks and without the change of loudness that its own files undergo.

    Args:
        model: one of ``DAC_MODELS``.
        name: of the row.
        device: to run on.

    Raises UnusableSystem without the package, for another model, or where its weights cannot be
    had or read.
    """

    def __init__(
        self, model: str | None = None, name: str | None = None, device: str = "cpu"
    ) -> None:
        model = model or "44khz"
        if model not in DAC_MODELS:
            raise UnusableSystem(f"dac:{model}: there are {', '.join(DAC_MODELS)}")
        try:
            import dac
            from dac.utils import download
        except ImportError as error:
            raise _missing(f"dac:{model}", "descript-audio-codec", error) from None
        with _fetching(f"dac:{model}"):
            path = Path(download(*DAC_MODELS[model]))
        self.model = _dac_of(path, dac.DAC).eval().to(device)
        self.device, self.rate = device, int(self.model.sample_rate)
        self.stride = int(self.model.hop_length)
        self.hop = round(self.stride * SAMPLE_RATE / self.rate)
        bits = self.model.n_codebooks * math.log2(self.model.codebook_size)
        self.kbps = 2 * bits * self.rate / self.stride / 1000
        self.parameters = parameter_count(self.model)
        self.name = name or f"dac-{model}"
        self.description = (
            f"Descript Audio Codec, {model}, {self.model.n_codebooks} codebooks, Left and Right "
            "each for itself"
        )
        self.settings = {"codec": "dac", "weights": digest_of(self.model)}

    @torch.no_grad()
    def round_trip(self, audio: Tensor) -> Tensor:
        ours = resampled(audio, SAMPLE_RATE, self.rate, None)
        samples, stride = ours.shape[1], self.stride
        piece = round(PIECE_SECONDS * self.rate / stride) * stride
        context = math.ceil(CONTEXT_SECONDS * self.rate / stride) * stride
        result = torch.zeros_like(ours)
        for start in range(0, samples, piece):
            stop = min(start + piece, samples)
            low, high = max(0, start - context), min(samples, stop + context)
            given = nn.functional.pad(ours[:, low:high], (0, (low - high) % stride))
            quantised = self.model.encode(given[:, None].to(self.device))[0]
            decoded = self.model.decode(quantised)[:, 0].float().cpu()
            found = decoded[:, start - low : stop - low]  # a few samples short at the very end
            result[:, start : start + found.shape[1]] = found
        return resampled(result, self.rate, SAMPLE_RATE, audio.shape[1])


class Encodec(System):
    """EnCodec (Défossez and others, 2022), its stereo model at 48 kHz.

    Args:
        kbps: one of ``ENCODEC_KBPS``, of both channels.
        name: of the row.
        device: to run on.

    Raises UnusableSystem without the package, for another rate, or where its weights cannot be had.
    """

    rate = 48_000
    hop = round(320 * SAMPLE_RATE / 48_000)

    def __init__(self, kbps: int, name: str | None = None, device: str = "cpu") -> None:
        if kbps not in ENCODEC_KBPS:
            raise UnusableSystem(
                f"encodec:{kbps}: its stereo model has {', '.join(map(str, ENCODEC_KBPS))} kb/s"
            )
        try:
            from encodec import EncodecModel
        except ImportError as error:
            raise _missing(f"encodec:{kbps}", "encodec", error) from None
        with _fetching(f"encodec:{kbps}"), _plain_tensors():
            model = EncodecModel.encodec_model_48khz()
        model.set_target_bandwidth(float(kbps))
        self.model, self.device = model.eval().to(device), device
        self.kbps, self.parameters = float(kbps), parameter_count(model)
        self.name = name or f"encodec-{kbps}"
        self.description = f"EnCodec at 48 kHz, stereo, {kbps} kb/s"
        self.settings = {"codec": "encodec", "kbps": kbps, "weights": digest_of(model)}

    @torch.no_grad()
    def round_trip(self, audio: Tensor) -> Tensor:
        ours = resampled(audio, SAMPLE_RATE, self.rate, None)
        frames = self.model.encode(ours[None].to(self.device))
        decoded = self.model.decode(frames)[0, :, : ours.shape[1]].float().cpu()
        return resampled(decoded, self.rate, SAMPLE_RATE, audio.shape[1])


def digest_of(model: nn.Module) -> str:
    """A SHA-256 of all names and numbers of a network."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _dac_of(path: Path, kind: type[nn.Module]) -> nn.Module:
    """The network in a file of DAC's. Its own loader would run what stands in the file."""
    content = unpickled(path)
    try:
        given: dict[str, Any] = content["metadata"]["kwargs"]
        known = inspect.signature(kind).parameters
        model = kind(**{key: value for key, value in given.items() if key in known})
        model.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UnusableSystem(f"{path}: not a model of dac: {reason}") from None
    return model


@contextmanager
def _fetching(spec: str) -> Iterator[None]:
    """Whatever goes wrong while a package fetches and loads weights becomes UnusableSystem."""
    try:
        yield
    except EarvaeError:
        raise
    except Exception as error:  # of requests, urllib, torch.hub, assertions
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise UnusableSystem(
            f"{spec}: its weights cannot be had ({reason[:200]}); the first use needs the network"
        ) from None


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Inside, ``torch.load`` executes nothing, whatever its caller asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _missing(spec: str, package: str, error: ImportError) -> UnusableSystem:
    """What to say where a package, or one that it needs, is missing."""
    absent = error.name or package
    return UnusableSystem(f"{spec}: needs the package {absent}: pip install {package}")
