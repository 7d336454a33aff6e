"""Faster inference with the same interface: ``accelerate(vae)`` and use the result as before.

Engines, by what they promise against the plain model in float32:

- ``plain``: torch's own layers, weight normalisation folded.
- ``exact``: float32, fewer multiplications or less moved in memory; differs by less than 1e-5 of
  the peak.
- ``fast``: products in bfloat16. About 40 dB below the signal on music (docs/inference.md).
- ``auto``: the fastest that is equal in float32.

``exact`` is for the paper's architecture and εar-VAE2 on CPUs, ``fast`` for these two where the
device multiplies in bfloat16; on a GPU it is ``plain`` under autocast. The compact architecture
computes too little to gain. An engine that is not there is refused. A model in another precision
than float32 has ``plain`` alone, in that precision.
docs/inference.md has the measurements.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from earvae.errors import EarvaeError
from earvae.model.earvae2 import EarVAE2Encoder
from earvae.model.layers import fold_weight_norm
from earvae.model.oobleck import OobleckEncoder
from earvae.model.parts import Parts
from earvae.model.vae import EarVAE

CONVOLUTIONAL = (OobleckEncoder, EarVAE2Encoder)  # encoders of what has more than one engine
ENGINES = ("auto", "plain", "exact", "fast")
PRECISIONS = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64",
}  # fmt: skip


class EngineError(EarvaeError):
    """An engine that this model or machine does not have; the message says why."""


class InferenceVAE(EarVAE):
    """A model made ready for inference: encode, decode and the codec, but no training or saving.

    ``encoder`` and ``decoder`` are those of an engine; ``transformers``, ``config`` and the
    identity are the source's.

    Attributes:
        engine: ``plain``, ``exact`` or ``fast``; on a GPU ``plain`` for every name.
        precision: ``fp32`` or ``bf16``, of the matrix products; activations are always float32.
            Of a model cast to another one, ``fp16``, ``bf16`` or ``fp64``.
    """

    def __init__(self, source: EarVAE, parts: Parts, engine: str, precision: str) -> None:
        super().__init__(source.config, parts)
        self.engine, self.precision = engine, precision
        self._identity = source.identity
        self.eval()

    @property
    def identity(self) -> str:
        return self._identity

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        raise EngineError("a model prepared for inference cannot be saved; save the original")


def accelerate(vae: EarVAE, engine: str = "auto") -> InferenceVAE:
    """``vae`` on its device, prepared for inference. ``vae`` itself stays as it is.

    Takes seconds and up to three times the memory of the weights for the paper's architecture.
    Raises EngineError unless ``engine`` is one of ENGINES that exists for this model there.
    """
    engine, precision = choose(vae, engine)
    encoder, decoder = vae.encoder, vae.decoder
    if engine == "plain":
        if isinstance(encoder, CONVOLUTIONAL):
            encoder = fold_weight_norm(copy.deepcopy(encoder))
            decoder = fold_weight_norm(copy.deepcopy(decoder))
        if precision == "bf16" and vae.dtype == torch.float32:
            encoder, decoder = Autocast(encoder), Autocast(decoder)
    elif isinstance(encoder, OobleckEncoder):
        from earvae.engine import oobleck

        arithmetic = oobleck.FAST if engine == "fast" else oobleck.EXACT
        encoder = oobleck.FastEncoder(encoder, arithmetic)
        decoder = oobleck.FastDecoder(decoder, arithmetic)
    else:
        from earvae.engine import earvae2

        products = torch.bfloat16 if engine == "fast" else torch.float32
        encoder = earvae2.FastEncoder(encoder, products)
        decoder = earvae2.FastDecoder(decoder, products)
    return InferenceVAE(vae, Parts(encoder, vae.transformers, decoder), engine, precision)


def choose(vae: EarVAE, engine: str) -> tuple[str, str]:
    """The engine and the precision that ``engine`` stands for, for this model on its device.

    ``plain``, ``exact`` or ``fast``, and one of PRECISIONS. Raises EngineError.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine}: use one of {', '.join(ENGINES)}")
    device, single = vae.device, vae.dtype == torch.float32
    convolutional, on_cpu = isinstance(vae.encoder, CONVOLUTIONAL), device.type == "cpu"
    if engine == "auto":
        engine = "exact" if convolutional and on_cpu and single else "plain"
    if engine == "plain":
        return "plain", PRECISIONS[vae.dtype]
    if not convolutional:
        raise EngineError(
            f"engine {engine}: the architecture {vae.config.architecture!r} has one engine, plain, "
            "in float32; use auto"
        )
    if not single:
        raise EngineError(
            f"engine {engine}: for models in float32, this one is in {vae.dtype}; use auto"
        )
    if engine == "fast":
        if not has_bfloat16(device):
            raise EngineError(f"engine fast: {device.type} has no bfloat16 arithmetic; use auto")
        return ("fast" if on_cpu else "plain"), "bf16"
    if not on_cpu:
        raise EngineError(f"engine exact: for CPUs, the model is on {device.type}; use auto")
    return "exact", "fp32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; one that does not would emulate it, slowly."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


class Autocast(nn.Module):
    """An encoder or decoder under bfloat16 autocast; float32 in and out.

    Products are bfloat16; SnakeBeta has float32 parameters and so computes in float32.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.context_frames = part.context_frames
        self.tail_deficit = getattr(part, "tail_deficit", 0)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.part(x).float()
