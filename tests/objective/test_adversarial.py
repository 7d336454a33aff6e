"""Least-squares GAN and feature matching on scores and features given by hand."""

from typing import NamedTuple

import pytest
import torch

from earvae.objective.adversarial import (
    adversarial_loss,
    discriminator_terms,
    feature_matching_loss,
)


class Judged(NamedTuple):
    score: torch.Tensor
    features: list[torch.Tensor]


def scores(*values: float) -> list[Judged]:
    """One scale a value, two items each."""
    return [Judged(torch.full((2, 1, 3, 4), value), []) for value in values]


def features(*layers: torch.Tensor) -> list[Judged]:
    return [Judged(torch.zeros(len(layers[0]), 1, 1, 1), list(layers))]


@pytest.mark.parametrize(
    ("real", "fake", "total", "accuracy"),
    [(1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 2.0, 0.0), (0.5, 0.5, 0.5, 0.0), (2.0, -1.0, 2.0, 1.0)],
)
def test_the_discriminator_is_pulled_to_one_and_nought(real, fake, total, accuracy):
    terms = discriminator_terms(scores(real, real), scores(fake, fake))
    assert terms.total == pytest.approx(total)
    assert terms.accuracy == accuracy
    assert (terms.real_score, terms.fake_score) == (pytest.approx(real), pytest.approx(fake))


def test_the_generator_is_pulled_to_one_on_the_mean_of_scales():
    assert adversarial_loss(scores(1.0, 1.0)) == 0
    assert adversarial_loss(scores(0.0, 3.0)) == pytest.approx((1 + 4) / 2)


def test_feature_matching_is_relative_to_each_layer_and_item():
    """Errors of 10 % in a loud and in a quiet layer or item count alike."""
    random = torch.Generator().manual_seed(0)
    loud = 100 * torch.rand((2, 3, 4, 5), generator=random) + 1
    loud[1] *= 20
    quiet = loud / 1000
    for layers in ([loud], [quiet], [loud, quiet]):
        value = feature_matching_loss(features(*layers), features(*(1.1 * x for x in layers)))
        assert value == pytest.approx(0.1, rel=1e-3)
    assert feature_matching_loss(features(loud), features(loud)) == 0


def test_real_features_get_no_gradient_and_silent_layers_stay_finite():
    real = torch.zeros(1, 2, 3, 4, requires_grad=True)
    fake = torch.zeros(1, 2, 3, 4, requires_grad=True)
    feature_matching_loss(features(real), features(fake)).backward()
    assert real.grad is None and torch.isfinite(fake.grad).all()


def test_a_batch_split_in_two_gives_the_mean_of_both():
    random = torch.Generator().manual_seed(1)
    real, fake = (torch.randn((4, 3, 5, 6), generator=random) for _ in range(2))
    whole = feature_matching_loss(features(real), features(fake))
    parts = [feature_matching_loss(features(real[i]), features(fake[i])) for i in ([0, 1], [2, 3])]
    assert whole == pytest.approx(sum(parts) / 2)
