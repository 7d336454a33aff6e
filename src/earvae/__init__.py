"""earvae: the open, installable εar-VAE.

>>> from earvae import EarVAE
>>> vae = EarVAE.from_pretrained()          # the model that comes with the package
>>> latents = vae.encode(audio).mode()      # [batch, 2, samples] -> [batch, 64, frames]
>>> audio = vae.decode(latents)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earvae import codec
    from earvae.config import CompactConfig, ObjectiveConfig, OobleckConfig, SpectralConfig
    from earvae.evaluation import metrics
    from earvae.model.posterior import Posterior
    from earvae.model.vae import EarVAE
    from earvae.objective import (
        AWeighting,
        CorrelationLoss,
        KWeighting,
        MultiScaleMagnitude,
        PerceptualLoss,
        PhaseLoss,
    )
    from earvae.streaming import StreamingDecoder, StreamingEncoder

__version__ = "0.1.0"

_HOMES = {
    "EarVAE": "earvae.model.vae",
    "Posterior": "earvae.model.posterior",
    "CompactConfig": "earvae.config",
    "ObjectiveConfig": "earvae.config",
    "OobleckConfig": "earvae.config",
    "SpectralConfig": "earvae.config",
    "AWeighting": "earvae.objective",
    "CorrelationLoss": "earvae.objective",
    "KWeighting": "earvae.objective",
    "MultiScaleMagnitude": "earvae.objective",
    "PerceptualLoss": "earvae.objective",
    "PhaseLoss": "earvae.objective",
    "StreamingDecoder": "earvae.streaming",
    "StreamingEncoder": "earvae.streaming",
}
_MODULES = {"codec": "earvae.codec", "metrics": "earvae.evaluation.metrics"}

__all__ = [
    "AWeighting",
    "CompactConfig",
    "CorrelationLoss",
    "EarVAE",
    "KWeighting",
    "MultiScaleMagnitude",
    "ObjectiveConfig",
    "OobleckConfig",
    "PerceptualLoss",
    "PhaseLoss",
    "Posterior",
    "SpectralConfig",
    "StreamingDecoder",
    "StreamingEncoder",
    "codec",
    "metrics",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: torch takes seconds, ``--help`` needs none."""
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'earvae' has no attribute {name!r}")
