"""The optimisers of a run: AdamW, or Muon for matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from earvae.config import OptimiserConfig


def optimiser_of(network: nn.Module, muon: bool) -> torch.optim.Optimizer:
    """The optimiser of a network; :func:`set_optimiser` gives it its settings at every step."""
    parameters = numbered(network, muon)
    return MuonAdamW(parameters) if muon else adamw(parameters)


def numbered(network: nn.Module, muon: bool) -> list[nn.Parameter]:
    """The parameters of a network as its optimiser numbers them: for Muon, matrices last."""
    parameters = list(network.parameters())
    return sorted(parameters, key=is_matrix) if muon else parameters


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter takes several inputs to several outputs: the weight of a linear layer,
    or ``[out, in, …]`` of a convolution that is not depthwise.

    Of a weight-normalised layer these are the directions; the norms are no matrix.
    """
    return parameter.ndim >= 2 and min(parameter.shape[:2]) > 1


def adamw(parameters: Sequence[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW; fused where torch has that and the parameters are not sharded."""
    first = parameters[0]
    fused = first.device.type in ("cpu", "cuda") and not isinstance(first, DTensor)
    return torch.optim.AdamW(parameters, fused=fused)


class MuonAdamW(torch.optim.Optimizer):
    """``torch.optim.Muon`` for matrices, kernels as ``[out, in·k]``; AdamW for what is none.

    To the outside one optimiser of two groups, AdamW's first, whose state has the parameters'
    shapes: it is clipped, saved and sharded as any other. The two inside keep nothing.

    Muon's steps are as large as AdamW's at the same learning rate (``match_rms_adamw``, from
    *Muon is Scalable for LLM Training*, arXiv 2502.16982).
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        others = [p for p in parameters if not is_matrix(p)]
        matrices = [p for p in parameters if is_matrix(p)]
        self._adamw = adamw(others)
        flat = [p.detach().flatten(1) for p in matrices]
        self._muon = torch.optim.Muon(flat, adjust_lr_fn="match_rms_adamw")
        super().__init__(
            [self._adamw.defaults | {"params": others}, self._muon.defaults | {"params": matrices}],
            {},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Move what has a gradient. Raises ValueError for a ``closure``."""
        if closure is not None:
            raise ValueError("a closure cannot be called twice")
        others, matrices = self.param_groups
        self._adamw.param_groups, self._adamw.state = [others], self.state
        self._adamw.step()
        moving = [p for p in matrices["params"] if p.grad is not None]
        flat = [p.detach().flatten(1) for p in moving]
        self._muon.param_groups = [matrices | {"params": flat}]
        self._muon.state = {}
        for parameter, matrix in zip(moving, flat, strict=True):
            matrix.grad = parameter.grad.flatten(1)
            momentum = self._momentum(parameter).flatten(1)
            self._muon.state[matrix] = {"momentum_buffer": momentum}
        self._muon.step()
        for parameter, matrix in zip(moving, flat, strict=True):
            parameter.copy_(matrix.view_as(parameter))  # kernels in channels-last were copied

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(
                parameter, memory_format=torch.contiguous_format
            )
        return state["momentum_buffer"]


def set_optimiser(optimiser: torch.optim.Optimizer, config: OptimiserConfig, share: float) -> None:
    """Give an optimiser its settings, with learning rates of ``share`` of their peaks."""
    for group in optimiser.param_groups:
        group["weight_decay"] = config.weight_decay
        if "betas" in group:
            group["lr"], group["betas"] = share * config.learning_rate, config.betas
        else:
            peak = config.muon.learning_rate or config.learning_rate
            group["lr"], group["momentum"] = share * peak, config.muon.momentum
