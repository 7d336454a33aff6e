"""Adversarial terms: least-squares GAN and feature matching (paper section 3).

``real`` and ``fake`` are a discriminator's judgements of music and of reconstructions: one
``(score, features)`` pair a scale (``earvae.discriminator.Judgement``). Every function averages
over items last, so that a batch split among devices gives the mean of their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5  # a layer that is silent on real music must not divide by zero; features are O(1)


class DiscriminatorTerms(NamedTuple):
    """The discriminator's loss ``total``, and how well it does; all are scalars."""

    total: Tensor
    real_score: Tensor
    fake_score: Tensor
    accuracy: Tensor
    """Share of items with a mean score on the right side of one half."""


def discriminator_terms(real: Sequence, fake: Sequence) -> DiscriminatorTerms:
    """The discriminator's mean (D(real) − 1)² + mean D(fake)² over scales (Mao et al. 2017)."""
    losses = [
        (r.score.float() - 1).square().mean() + f.score.float().square().mean()
        for r, f in zip(real, fake, strict=True)
    ]
    real_scores, fake_scores = (
        torch.stack([j.score.detach().float().mean(dim=(1, 2, 3)) for j in side])
        for side in (real, fake)
    )  # [scales, batch]
    right = torch.cat([real_scores.mean(0) > 0.5, fake_scores.mean(0) < 0.5]).float().mean()
    return DiscriminatorTerms(
        torch.stack(losses).mean(), real_scores.mean(), fake_scores.mean(), right
    )


def adversarial_loss(fake: Sequence) -> Tensor:
    """The generator's mean (D(fake) − 1)² over scales, a scalar."""
    return torch.stack([(f.score.float() - 1).square().mean() for f in fake]).mean()


def feature_matching_loss(real: Sequence, fake: Sequence) -> Tensor:
    """The generator's mean over scales and layers of mean |real − fake| / mean |real|, a scalar.

    Each ratio is one item's. Dividing by the layer's own level lets every layer count alike
    (EnCodec). ``real`` gets no gradient. 0 for equal signals.
    """
    ratios = []
    for r, f in zip(real, fake, strict=True):
        for ours, theirs in zip(f.features, r.features, strict=True):
            theirs = theirs.detach().float()
            level = theirs.abs().mean(dim=(1, 2, 3)) + EPSILON
            ratios.append(((ours.float() - theirs).abs().mean(dim=(1, 2, 3)) / level).mean())
    return torch.stack(ratios).mean()
