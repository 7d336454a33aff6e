"""Stages: which of them a step belongs to, what it trains and which crops it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from earvae.config import ConfigError, StageConfig
from earvae.model.vae import EarVAE


class Place(NamedTuple):
    """Where a step lies: stage ``index``, of which ``done`` steps came before it."""

    index: int
    stage: StageConfig
    done: int

    @property
    def trains_generator(self) -> bool:
        """Whether this step updates the generator, or the discriminator alone."""
        adversarial = self.stage.adversarial
        return adversarial is None or self.done >= adversarial.discriminator_only_steps


def locate(stages: Sequence[StageConfig], step: int) -> Place:
    """The place of ``step`` (from 0). The step after the last one counts to the last stage."""
    first = 0
    for index, stage in enumerate(stages):
        if step < first + stage.steps or index == len(stages) - 1:
            return Place(index, stage, step - first)
        first += stage.steps
    raise ValueError("no stages")


def crops_before(stages: Sequence[StageConfig], step: int, world_size: int) -> int:
    """Number of crops drawn before ``step``: the index of its first one.

    It goes on over stages, so that a stage with the same data does not draw the same crops again.
    """
    place = locate(stages, step)
    earlier = sum(stage.steps * stage.crops(world_size) for stage in stages[: place.index])
    return earlier + place.done * place.stage.crops(world_size)


def freeze(vae: EarVAE, stage: StageConfig) -> None:
    """Let gradients reach every part of the model but those that the stage freezes, or those alone
    that it names under ``only``.

    Raises ConfigError for a part that the model has not, or if nothing is left to train.
    """
    vae.requires_grad_(not stage.only)
    for name in stage.only:
        try:
            vae.get_submodule(name).requires_grad_(True)
        except AttributeError:
            raise ConfigError(f"stage {stage.name}: only: this model has no {name}") from None
    for name in stage.freeze:
        part = getattr(vae, name)
        if not isinstance(part, nn.Module):
            raise ConfigError(f"stage {stage.name}: freeze: this model has no {name}")
        part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in vae.parameters()):
        raise ConfigError(f"stage {stage.name}: freeze: nothing is left to train")
