"""earvae: the open, installable εar-VAE.

>>> from earvae import EarVAE
>>> vae = EarVAE.from_pretrained()          # the model that comes with the package
>>> latents = vae.encode(audio).mode()      # [batch, 2, samples] -> [batch, 64, frames]
>>> audio = vae.decode(latents)

``dir(earvae)`` lists the public names. Each is imported when it is first used: torch takes
seconds, and ``earvae --help`` needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earvae import adapters, codec, engine, latents
    from earvae.config import CompactConfig, ObjectiveConfig, OobleckConfig
    from earvae.engine import accelerate
    from earvae.errors import EarvaeError, WeightsError
    from earvae.evaluation import metrics
    from earvae.latents import LatentDataset
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

__all__ = [
    "AWeighting", "CompactConfig", "CorrelationLoss", "EarVAE", "EarvaeError", "KWeighting",
    "LatentDataset", "MultiScaleMagnitude", "ObjectiveConfig", "OobleckConfig", "PerceptualLoss",
    "PhaseLoss", "Posterior", "StreamingDecoder", "StreamingEncoder",
    "WeightsError", "accelerate", "adapters", "codec", "engine", "latents", "metrics",
]  # fmt: skip
_HOMES = {
    "earvae.config": ("CompactConfig", "ObjectiveConfig", "OobleckConfig"),
    "earvae.engine": ("accelerate",),
    "earvae.latents": ("LatentDataset",),
    "earvae.errors": ("EarvaeError", "WeightsError"),
    "earvae.model.posterior": ("Posterior",),
    "earvae.model.vae": ("EarVAE",),
    "earvae.objective": (
        "AWeighting", "CorrelationLoss", "KWeighting", "MultiScaleMagnitude", "PerceptualLoss",
        "PhaseLoss",
    ),
    "earvae.streaming": ("StreamingDecoder", "StreamingEncoder"),
}  # fmt: skip
_MODULES = {name: f"earvae.{name}" for name in ("adapters", "codec", "engine", "latents")}
_MODULES["metrics"] = "earvae.evaluation.metrics"


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(_MODULES[name])
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'earvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "import_module"})
