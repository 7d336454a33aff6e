"""Generators too large for one device: fully sharded data parallel (FSDP).

Every rank holds a part of each parameter as a DTensor and gathers the rest when it is needed.
Checkpoints hold whole tensors, so a run may go on with another strategy or number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from earvae.model.vae import EarVAE

COLLECTIVE_TIMEOUT = timedelta(minutes=5)  # a rank waits so long for the others, then it fails
PREPARATION_TIMEOUT = timedelta(hours=3)  # ... and so long for what the first one prepares for all


def chosen_strategy(name: str) -> str | Strategy:
    """What Fabric takes for ``ddp``, ``fsdp`` or another of its own names."""
    if name == "fsdp":
        # Fabric's mesh is [nodes, devices of a node]; see _shard for what becomes of it.
        return ModelParallelStrategy(
            _shard,
            data_parallel_size="auto",
            tensor_parallel_size="auto",
            timeout=COLLECTIVE_TIMEOUT,
        )
    if name == "ddp":
        # The model's buffers are constants: every rank has them already.
        return DDPStrategy(timeout=COLLECTIVE_TIMEOUT, broadcast_buffers=False)
    return name


def from_first_rank(fabric: Fabric, prepare: Callable[[bool], nn.Module]) -> nn.Module:
    """``prepare(True)`` on the first rank, ``prepare(False)`` on the others, which then get the
    first one's parameters and buffers. They wait for it up to ``PREPARATION_TIMEOUT``.
    """
    if fabric.world_size == 1:
        return prepare(True)
    group = torch.distributed.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)
    module = prepare(fabric.is_global_zero)
    for value in module.state_dict().values():
        torch.distributed.broadcast(value, src=0, group=group)
    torch.distributed.destroy_process_group(group)
    return module


def gathered(content: Any) -> Any:
    """A nested state with every sharded tensor made whole, on the CPU. A collective call."""
    if isinstance(content, DTensor):
        return content.detach().full_tensor().cpu()
    if isinstance(content, dict):
        return {key: gathered(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(gathered(value) for value in content)
    return content


def whole(norms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars that may be sharded, made whole where they are. A collective call if they are."""
    return {
        name: norm.full_tensor() if isinstance(norm, DTensor) else norm
        for name, norm in norms.items()
    }


def load_module(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """``load_state_dict`` of whole tensors into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: _like(own.get(name), value) for name, value in saved.items()})


def load_optimiser(optimiser: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]) -> None:
    """Give an optimiser whose parameters may be sharded what it remembered of each of them, as
    whole tensors. Its settings stay its own: they fit this run's devices."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state = {
        index: {name: _like(parameters[index], value) for name, value in values.items()}
        for index, values in moments.items()
    }
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def _shard(vae: EarVAE, mesh: DeviceMesh) -> EarVAE:
    """Shard the parts one by one, so that only one of them is whole at a time.

    Over a mesh of two dimensions: sharded within a node, replicated over nodes.
    """
    for part in (vae.encoder, vae.transformers, vae.decoder):
        if part is not None:
            fully_shard(part, mesh=mesh)
    return fully_shard(vae, mesh=mesh)


def _like(pattern: Any, value: Any) -> Any:
    """``value`` sharded as ``pattern`` is, if they are tensors of one shape."""
    if isinstance(pattern, DTensor) and pattern.shape == getattr(value, "shape", None):
        return distribute_tensor(value.to(pattern.device), pattern.device_mesh, pattern.placements)
    return value
