"""The training objective of εar-VAE as parts that other trainings can use alone."""

from earvae.objective.perceptual import (
    CorrelationLoss,
    LossTerms,
    MultiScaleMagnitude,
    PerceptualLoss,
    PhaseLoss,
)
from earvae.objective.weighting import AWeighting, KWeighting

__all__ = [
    "AWeighting",
    "CorrelationLoss",
    "KWeighting",
    "LossTerms",
    "MultiScaleMagnitude",
    "PerceptualLoss",
    "PhaseLoss",
]
