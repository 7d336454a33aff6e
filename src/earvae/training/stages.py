"""Stages: which of them a step belongs to, what it trains and which crops it draws."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
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
    """Let gradients reach what the stage trains, and nothing else. Raises as :func:`trained`."""
    learns = trained(vae, stage)
    for parameter in vae.parameters():
        parameter.requires_grad_(parameter in learns)


def trained(vae: EarVAE, stage: StageConfig) -> set[nn.Parameter]:
    """What a stage trains: the parameters of the networks under ``only``, or all, without those of
    the networks under ``freeze``.

    Raises ConfigError for a network that the model has not, or if nothing is left to train.
    """
    learns = set(vae.parameters())
    if stage.only:
        learns = set().union(*(_parameters(vae, stage, "only", name) for name in stage.only))
    for name in stage.freeze:
        learns = learns - _parameters(vae, stage, "freeze", name)
    if not learns:
        raise ConfigError(f"stage {stage.name}: only, freeze: nothing is left to train")
    return learns


def _parameters(vae: EarVAE, stage: StageConfig, key: str, name: str) -> set[nn.Parameter]:
    """The parameters of the network ``name``, which stands under ``key`` of a stage."""
    try:
        return set(vae.get_submodule(name).parameters())
    except AttributeError:
        names = [name for name, _ in vae.named_modules()]
        hint = "".join(f"; did you mean {near}?" for near in get_close_matches(name, names, 1))
        raise ConfigError(f"stage {stage.name}: {key}: this model has no {name}{hint}") from None
