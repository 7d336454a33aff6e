"""One training step: the functions a reader looks for first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.config import OptimiserConfig
from earvae.model.posterior import Posterior
from earvae.objective.perceptual import LossTerms, PerceptualLoss


def step_generator(seed: int, step: int, rank: int, device: torch.device) -> torch.Generator:
    """The random numbers of one step on one rank (posterior noise).

    They follow from seed, step and rank alone, so a resumed run draws what an uninterrupted run
    would, and there is no generator state to save.
    """
    generator = torch.Generator(device=device)
    return generator.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


def generator_loss(
    vae: torch.nn.Module,
    objective: PerceptualLoss,
    audio: Tensor,
    noise: torch.Generator,
    draw: torch.Generator,
) -> tuple[LossTerms, Posterior]:
    """Forward pass and objective of stage 1 on ``audio [batch, 2, samples]``.

    ``noise`` draws the latents from the posterior; ``draw`` (the same on every rank, on the
    CPU) chooses the resolutions of this step.
    """
    reconstruction, posterior = vae(audio, sample=True, generator=noise)
    terms = objective(
        reconstruction.float(), audio, posterior_kl=posterior.kl().float(), generator=draw
    )
    return terms, posterior


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Learning rate of ``step`` (from 0) of ``steps``: linear warm-up, then a half cosine down
    to ``final_fraction`` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    fraction = config.final_fraction + (1 - config.final_fraction) * cosine
    return config.learning_rate * fraction
