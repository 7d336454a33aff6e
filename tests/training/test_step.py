import copy
import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from earvae.config import ObjectiveConfig, OptimiserConfig
from earvae.objective import PerceptualLoss
from earvae.training.fsdp import load_optimiser
from earvae.training.state import State
from earvae.training.step import apply, posterior_noise, read_figures, schedule
from tests.small import compact


def test_the_learning_rate_warms_up_linearly_and_follows_half_a_cosine():
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    assert schedule(config, 0, 110) == pytest.approx(0.1)
    assert schedule(config, 4, 110) == pytest.approx(0.5)
    assert schedule(config, 10, 110) == pytest.approx(1.0)
    assert schedule(config, 60, 110) == pytest.approx(0.55)
    assert schedule(config, 110, 110) == pytest.approx(0.1)
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    assert schedule(config, 35, 110) == pytest.approx(quarter)


def test_the_noise_of_an_item_follows_from_seed_step_and_its_place_in_the_batch():
    """Whatever rank or forward pass it falls to."""

    def noise(seed, step, items=slice(None)):
        return posterior_noise(seed, step, items, (6, 4, 5), torch.device("cpu"))

    whole = noise(0, 1)
    assert whole.shape == (6, 4, 5)
    assert torch.equal(noise(0, 1, slice(2, 4)), whole[2:4])
    for other in (noise(0, 2), noise(1, 1)):
        assert not torch.equal(other, whole)


def test_figures_become_numbers_with_one_transfer_for_all_tensors(monkeypatch):
    transfers = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: transfers.append(t) or original(t))
    figures = {"loss": torch.tensor(0.1), "clipped": torch.tensor(3), "learning_rate": 1e-4,
               "norm": torch.tensor(1e-40, dtype=torch.float64)}  # fmt: skip
    found = read_figures(figures)
    assert found == {"loss": float(torch.tensor(0.1)), "clipped": 3.0, "learning_rate": 1e-4,
                     "norm": 1e-40}  # fmt: skip
    assert all(type(value) is float for value in found.values()) and len(transfers) == 1
    assert read_figures({"learning_rate": 1e-4}) == {"learning_rate": 1e-4}


def test_steps_left_out_are_counted_in_all_and_in_a_row():
    state = State(vae=None, ema=None, optimiser=None)
    rows = []
    for finite in (True, False, False, True, False):
        state.note_finite(torch.tensor(finite))
        rows.append(state.non_finite_in_a_row)
    assert rows == [0, 1, 2, 0, 1]
    assert not state.counters["non_finite_steps"]  # not read from the device yet
    fabric = Fabric(accelerator="cpu", devices=1)
    state.gather_counts(fabric)
    state.gather_counts(fabric)
    assert state.counters["non_finite_steps"] == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_average(bad):
    vae, optimised = nn.Linear(3, 1), torch.ones(1, 3)
    average = copy.deepcopy(vae).requires_grad_(False)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=0.1)
    state = State(vae=vae, ema=average, optimiser=optimiser)
    before = copy.deepcopy(vae.state_dict())
    for factor, moves in ((bad, False), (1.0, True)):
        (vae(optimised) * factor).sum().backward()
        finite = torch.stack([p.grad.isfinite().all() for p in vae.parameters()]).all()
        apply(optimiser, finite)
        state.update_average(0.9, finite)
        optimiser.zero_grad()
        for name in before:
            assert torch.equal(vae.state_dict()[name], before[name]) != moves
            assert torch.equal(average.state_dict()[name], before[name]) != moves


def test_one_backward_reaches_every_trained_parameter():
    torch.manual_seed(0)
    vae = compact(hop_length=128, width=16).train()
    config = ObjectiveConfig(resolutions=(256, 128), weights={"waveform": 0.1})
    objective = PerceptualLoss(config, 44_100)
    audio = 0.1 * torch.randn(2, 2, 128 * 20)
    reconstruction, posterior = vae(audio, torch.randn(2, 8, 20))
    terms = objective(reconstruction, audio, posterior_kl=posterior.kl())
    assert set(terms.terms) == {
        "magnitude_linear", "magnitude_log", "correlation_intra", "correlation_inter",
        "instantaneous_frequency", "group_delay", "waveform", "kl",
    }  # fmt: skip
    terms.total.backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert posterior.mean.shape == (2, 8, 20)


def test_an_optimiser_is_fused_as_this_run_has_it_and_not_as_it_was_saved():
    """A run may go on on other devices, or sharded."""
    parameter = torch.nn.Parameter(torch.ones(3))
    saved = torch.optim.AdamW([parameter], fused=True, lr=0.5)
    parameter.grad = torch.ones(3)
    saved.step()
    ours = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], fused=False)
    load_optimiser(ours, saved.state_dict()["state"])
    assert ours.param_groups[0]["fused"] is False and ours.param_groups[0]["lr"] == 1e-3
    assert torch.equal(
        next(iter(ours.state.values()))["exp_avg"], saved.state[parameter]["exp_avg"]
    )
