"""earvae: the open, installable εar-VAE.

>>> from earvae import EarVAE
>>> vae = EarVAE.from_pretrained()          # the model that comes with the package
>>> latents = vae.encode(audio).mode()      # [batch, 2, samples] -> [batch, 64, frames]
>>> audio = vae.decode(latents)
"""

from earvae.config import ObjectiveConfig, OobleckConfig, SpectralConfig
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

__version__ = "0.1.0"

__all__ = [
    "AWeighting",
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
]
