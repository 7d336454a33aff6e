"""How much each term of the loss pulls at the reconstruction, and a balancer of that.

A term's share is the norm of its weighted gradient with respect to the reconstruction, over the
sum of these norms. Values tell little: terms that are all of order one differ in gradient by
factors of a hundred. Every so many steps the gradients of the raw terms are measured, and their
norms kept as moving averages.

Without a ``balance`` block the weights are the recipe's and the shares are logged. With one, the
block states the shares, and the weights follow (the idea is the balancer of EnCodec, Défossez et
al. 2022; theirs measures at every step).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor

from earvae.config import BalanceConfig, StageConfig
from earvae.training.checkpoint import Norms

SUDDEN = 2.0  # growth of a norm from one measurement to the next that is followed at once
SMALLEST = 1e-12  # gradient norm below which a measurement tells nothing of a term


class Balance:
    """Gradient norms of a stage's terms, and the weights that follow from them.

    Args:
        stage: its weights, or its ``balance``.
        saved: what :meth:`state_dict` gave; it counts if it is of this stage.
    """

    def __init__(
        self, stage: StageConfig, device: torch.device, saved: Norms | None = None
    ) -> None:
        self.config: BalanceConfig | None = stage.balance
        self.every = stage.balance.every if stage.balance else stage.shares_every
        self.stage = stage.name
        self.fixed = stage.term_weights()
        saved = saved if saved and saved.stage == stage.name else Norms()
        self.norms: dict[str, Tensor] = {n: v.to(device) for n, v in saved.norms.items()}
        self.measured = saved.measured
        self.latest: dict[str, Tensor] = {}  # as measured last, until they are logged

    def due(self, done: int) -> bool:
        """Whether the step after ``done`` steps of the stage measures; the first one always."""
        return self.every > 0 and (done % self.every == 0 or self.measured == 0)

    def note(self, fabric: Fabric, gradients: Mapping[str, Tensor]) -> None:
        """Take measured gradients of the raw terms, ``[batch, 2, samples]``.

        A norm is that of the gradient of an item's own loss, averaged over items and ranks. With a
        ``balance``, a term whose gradient is zero (silence) or not finite keeps the norm it had.
        """
        if not gradients:  # nothing of what a stage minimises passes through the audio
            self.measured += 1
            return
        names = list(gradients)
        each = [
            torch.linalg.vector_norm(gradients[name], dim=(1, 2)).mean() * len(gradients[name])
            for name in names
        ]
        norms = fabric.all_reduce(torch.stack(each), reduce_op="mean")
        norms = norms.nan_to_num(0.0, 0.0, 0.0)
        self.measured += 1
        self.latest = dict(zip(names, norms.unbind(), strict=True))
        if self.config is None:
            return
        share = max(1 - self.config.memory, 1 / self.measured)
        for name, norm in self.latest.items():
            before = self.norms.get(name, norm)
            before = torch.where(before > SMALLEST, before, norm)
            norm = torch.where(norm > SMALLEST, norm, before)
            # A discriminator that begins to learn doubles its gradient in a few steps: at once, so
            # that it does not drown the rest until the average has followed.
            average = before + share * (norm - before)
            self.norms[name] = torch.where(norm > SUDDEN * before, norm, average)

    def figures(self) -> dict[str, Tensor]:
        """The shares to log, and the weights if they are not fixed; empty if nothing was measured
        since they were last asked for."""
        if not self.latest:
            return {}
        found = {f"share/{name}": share for name, share in self.shares().items()}
        self.latest = {}
        if self.config is not None:
            weights = self.weights()
            found |= {f"weight/{name}": weights[name] for name in self.norms}
        return found

    def weights(self) -> dict[str, Tensor | float]:
        """The factor of every term by name, ``kl`` among them.

        A term of which no measurement has told anything yet gets 0: its share would need an
        endless weight, which would drown the others as soon as it has a gradient.
        """
        if self.config is None or not self.norms:
            return dict(self.fixed)
        shares = {name: self.config.shares[name] for name in self.norms}
        scale = self.config.total / sum(shares.values())
        found = {}
        for name, share in shares.items():
            norm = self.norms[name]
            found[name] = share * scale / norm.clamp_min(SMALLEST) * (norm > SMALLEST)
        return self.fixed | found

    def shares(self) -> dict[str, Tensor]:
        """Each term's part of all weighted gradient norms, which sum to 1: of the norms just
        measured, with the weights now in force. So with a ``balance`` they show what it misses."""
        weights = self.weights()
        weighted = {name: weights[name] * norm for name, norm in self.latest.items()}
        total = sum(weighted.values()).clamp_min(SMALLEST)
        return {name: value / total for name, value in weighted.items()}

    def state_dict(self) -> dict:
        """Tensors and numbers, for a checkpoint."""
        norms = {name: norm.cpu() for name, norm in self.norms.items()}
        return {"stage": self.stage, "norms": norms, "measured": self.measured}
