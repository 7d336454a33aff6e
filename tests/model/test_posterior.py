import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from earvae.model.posterior import Posterior


def test_kl_is_twice_the_usual_divergence_to_the_unit_normal():
    parameters = torch.randn(2, 12, 7, generator=torch.Generator().manual_seed(0))
    posterior = Posterior(parameters)
    usual = kl_divergence(Normal(posterior.mean, posterior.var.sqrt()), Normal(0.0, 1.0))
    assert posterior.kl() == pytest.approx(2 * float(usual.sum(1).mean()), rel=1e-5)


def test_std_is_softplus_of_the_scale():
    posterior = Posterior(torch.zeros(1, 4, 1))
    assert posterior.std.flatten().tolist() == pytest.approx([math.log(2)] * 2)


def test_samples_have_the_posteriors_moments_and_follow_the_seed():
    parameters = torch.cat([torch.full((1, 1, 40_000), 3.0), torch.full((1, 1, 40_000), -1.0)], 1)
    posterior = Posterior(parameters)
    sample = posterior.sample(torch.Generator().manual_seed(1))
    assert sample.mean() == pytest.approx(3.0, abs=0.01)
    assert sample.std() == pytest.approx(math.log1p(math.exp(-1)), rel=0.02)
    again = posterior.sample(torch.Generator().manual_seed(1))
    assert torch.equal(sample, again)


def test_odd_channel_counts_are_refused():
    with pytest.raises(ValueError, match="posterior parameters"):
        Posterior(torch.zeros(1, 3, 5))
