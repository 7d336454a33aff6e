"""Faster inference with the same interface: ``accelerate(vae)`` and use the result as before.

Engines, by what they promise against the plain model in float32:

- ``plain``: torch's own layers, weight normalisation folded.
- ``exact``: fewer multiplications in float32; differs by less than 1e-5 of the peak.
- ``fast``: fewer still; with bfloat16 products where the
  processor has them. About 40 dB below the signal on music (docs/inference.md).
- ``auto``: the fastest that is equal in float32.

``exact`` and ``fast`` are for the paper's architecture on CPUs. On other devices the first is
``plain`` and the second ``plain`` under bfloat16 autocast. The compact architectures have one
engine, ``plain``: they compute too little to gain, and bfloat16 costs the fixed linear code 40 dB.
docs/inference.md has the measurements.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from earvae import config as configs
from earvae.model.layers import fold_weight_norm
from earvae.model.oobleck import OobleckDecoder, OobleckEncoder
from earvae.model.vae import EarVAE

ENGINES = ("auto", "plain", "exact", "fast")
PRECISIONS = ("fp32", "bf16")


class EngineError(ValueError):
    """An engine or precision that this model or machine does not have; the message says why."""


class InferenceVAE(EarVAE):
    """A model made ready for inference: encode, decode and the codec, but no training or saving.

    ``encoder`` and ``decoder`` are those of an engine; ``transformers``, ``config`` and the
    identity are the source's.

    Attributes:
        engine: ``plain``, ``exact`` or ``fast``.
        precision: ``fp32`` or ``bf16``, of the matrix products; activations are always float32.
    """

    def __init__(
        self, source: EarVAE, encoder: nn.Module, decoder: nn.Module, engine: str, precision: str
    ) -> None:
        nn.Module.__init__(self)  # not EarVAE's, which would build the layers
        self.config, self.engine, self.precision = source.config, engine, precision
        self.transformers = source.transformers
        self.encoder, self.decoder = encoder, decoder
        self._identity = source.identity
        self.eval()

    @property
    def identity(self) -> str:
        return self._identity

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        raise EngineError("a model prepared for inference cannot be saved; save the original")


def accelerate(vae: EarVAE, engine: str = "auto", precision: str | None = None) -> InferenceVAE:
    """``vae`` on its device, prepared for inference. ``vae`` itself stays as it is.

    Takes seconds and up to three times the memory of the weights for the paper's architecture.

    Args:
        engine: one of ENGINES.
        precision: of the products, one of PRECISIONS; None: float32, but bfloat16 for ``fast``
            where the device is quick at it.

    Raises EngineError for a combination that does not exist here.
    """
    device = next(vae.parameters()).device
    engine, precision = choose(vae, device, engine, precision)
    convolutional = isinstance(vae.encoder, OobleckEncoder)
    if not convolutional:
        return InferenceVAE(vae, vae.encoder, vae.decoder, "plain", "fp32")
    assert isinstance(vae.decoder, OobleckDecoder)
    if engine == "plain":
        encoder = fold_weight_norm(copy.deepcopy(vae.encoder))
        decoder = fold_weight_norm(copy.deepcopy(vae.decoder))
        if precision == "bf16":
            encoder, decoder = Autocast(encoder), Autocast(decoder)
        return InferenceVAE(vae, encoder, decoder, engine, precision)

    from earvae.engine import oobleck

    fast = oobleck.HALF if precision == "bf16" else oobleck.FAST
    arithmetic = oobleck.EXACT if engine == "exact" else fast
    return InferenceVAE(
        vae,
        oobleck.fast_encoder(vae.encoder, arithmetic),
        oobleck.fast_decoder(vae.decoder, arithmetic),
        engine,
        precision,
    )


def choose(
    vae: EarVAE, device: torch.device, engine: str, precision: str | None
) -> tuple[str, str]:
    """What ``engine`` and ``precision`` come to for this model there: (engine, precision).

    The engine is ``plain``, ``exact`` or ``fast``. Raises EngineError.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine}: use one of {', '.join(ENGINES)}")
    if precision not in (None, *PRECISIONS):
        raise EngineError(f"precision {precision}: use one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and engine in ("auto", "exact"):
        raise EngineError(f"precision bf16: engine {engine} promises float32; use fast or plain")
    if not isinstance(vae.config, configs.OobleckConfig):
        if precision == "bf16":
            name = vae.config.architecture
            raise EngineError(
                f"precision bf16: not for the architecture {name!r}, whose only engine is plain in "
                "float32; use fp32"
            )
        return "plain", "fp32"
    half = has_bfloat16(device)
    if precision == "bf16" and not half:
        raise EngineError(f"precision bf16: {device.type} has no bfloat16 arithmetic here")
    if engine == "fast":
        precision = precision or ("bf16" if half else "fp32")
        return ("fast" if device.type == "cpu" else "plain"), precision
    if engine in ("auto", "exact"):
        return ("exact" if device.type == "cpu" else "plain"), "fp32"
    return "plain", precision or "fp32"


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
