"""Muon for matrices beside AdamW: which they are, what moves them, what a run saves of it."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from earvae.config import ConfigError, MuonConfig, OptimiserConfig, TrainConfig
from earvae.training import train as training
from earvae.training.checkpoint import CHECKPOINT, read
from earvae.training.optimisers import is_matrix, optimiser_of, set_optimiser
from tests.training.recipes import assert_identical, interrupt_at, start, state_of


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        weight_norm(nn.Conv2d(2, 6, (3, 3))),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.ConvTranspose2d(6, 4, 2),
        nn.Linear(5, 3),
        nn.LayerNorm(3),
    )


@pytest.fixture
def muon(staged):
    """The staged recipe with Muon on both sides."""
    staged["optimiser"] |= {"muon": {"learning_rate": 1e-3}}
    for stage in staged["stages"][1:]:
        own = stage["adversarial"]["optimiser"]
        stage["adversarial"] = stage["adversarial"] | {"optimiser": own | {"muon": {}}}
    return staged


def test_matrices_are_the_weights_that_take_several_inputs_to_several_outputs(network):
    names = {name for name, parameter in network.named_parameters() if is_matrix(parameter)}
    assert names == {"0.parametrizations.weight.original1", "2.weight", "3.weight"}


def steps(network, optimiser, config) -> None:
    torch.manual_seed(1)
    for share in (0.5, 1.0, 0.3):
        set_optimiser(optimiser, config, share)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape).to(
                memory_format=torch.channels_last if parameter.ndim == 4 else torch.preserve_format
            )
        optimiser.step()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_matrices_move_as_torchs_muon_moves_them_and_the_rest_as_adamw(network, memory):
    config = OptimiserConfig(
        learning_rate=0.01, weight_decay=0.1, betas=(0.8, 0.9),
        muon=MuonConfig(learning_rate=0.02, momentum=0.7),
    )  # fmt: skip
    ours, others = copy.deepcopy(network), copy.deepcopy(network)
    for module in ours.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=memory)
    steps(ours, optimiser_of(ours, muon=True), config)
    matrices = [p for p in others.parameters() if is_matrix(p)]
    rest = [p for p in others.parameters() if not is_matrix(p)]
    flat = [nn.Parameter(p.detach().flatten(1)) for p in matrices]
    muon = torch.optim.Muon(
        flat, weight_decay=0.1, momentum=0.7, adjust_lr_fn="match_rms_adamw"
    )  # fmt: skip
    adamw = torch.optim.AdamW(rest, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
    torch.manual_seed(1)
    for share in (0.5, 1.0, 0.3):
        muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = 0.02 * share, 0.01 * share
        for parameter in others.parameters():
            parameter.grad = torch.randn(parameter.shape)
        for matrix, parameter in zip(flat, matrices, strict=True):
            matrix.grad = parameter.grad.flatten(1)
        muon.step()
        adamw.step()
    for matrix, parameter in zip(flat, matrices, strict=True):
        parameter.data = matrix.detach().view_as(parameter)
    for (name, one), other in zip(ours.named_parameters(), others.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_without_a_rate_of_its_own_it_has_adamws(network):
    optimiser = optimiser_of(network, muon=True)
    set_optimiser(optimiser, OptimiserConfig(learning_rate=0.02, muon={}), 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.01, 0.01]


def test_what_has_no_gradient_does_not_move_and_nothing_is_remembered_of_it(network):
    optimiser = optimiser_of(network, muon=True)
    set_optimiser(optimiser, OptimiserConfig(weight_decay=1, muon={}), 1)
    before = copy.deepcopy(network.state_dict())
    network[3].weight.grad = torch.ones(3, 5)
    optimiser.step()
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"3.weight"} and len(optimiser.state_dict()["state"]) == 1
    with pytest.raises(ValueError, match="closure"):
        optimiser.step(lambda: 0.0)


def test_a_run_with_muon_interrupted_ends_where_the_whole_one_does(muon, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        assert start(muon, tmp_path / "parts") == training.INTERRUPTED
    assert start(muon, tmp_path / "parts") == 0
    assert start(muon, tmp_path / "whole") == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    for key in whole.keys() - {"config"}:
        assert_identical(whole[key], parts[key])
    for key in ("optimiser", "discriminator_optimiser"):
        kinds = {tuple(sorted(values)) for values in whole[key]["state"].values()}
        assert kinds == {("momentum_buffer",), ("exp_avg", "exp_avg_sq", "step")}


def test_momenta_that_are_not_the_parameters_are_refused(muon, tmp_path):
    start(muon, tmp_path)
    assert read(tmp_path) is not None
    saved = state_of(tmp_path)
    number, values = next(
        (n, v) for n, v in saved["optimiser"]["state"].items() if "momentum_buffer" in v
    )
    for wrong in ({"momentum_buffer": torch.ones(2, 2)}, {}, values | {"step": torch.tensor(1.0)}):
        saved["optimiser"]["state"][number] = wrong
        torch.save(saved, tmp_path / CHECKPOINT)
        with pytest.raises(ConfigError, match=f"optimiser: entry {number} is no moment"):
            read(tmp_path)


def test_muon_in_some_stages_only_is_refused(muon):
    assert TrainConfig(**muon).muon and TrainConfig(**muon).discriminator_muon
    assert not TrainConfig(**muon | {"optimiser": {}}).muon
    half = json.loads(json.dumps(muon))
    half["stages"][0]["optimiser"] = {"muon": None}
    with pytest.raises(ValueError, match=r"stages: optimiser\.muon must be in all of them or in"):
        TrainConfig(**half)
    half = json.loads(json.dumps(muon))
    half["stages"][2]["adversarial"]["optimiser"]["muon"] = None
    with pytest.raises(ValueError, match=r"stages: adversarial\.optimiser\.muon must be in all"):
        TrainConfig(**half)
