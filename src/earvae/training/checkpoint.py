"""The checkpoint file of a run, read as what it is: another's file until all of it is checked.

Whatever is in it is compared with the networks of its own configuration before anything is
loaded: names, shapes, kinds of numbers, finite values, moments of the optimisers, counts. What
:func:`read` gives back can be used as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from earvae import former, json_files
from earvae.config import ConfigError, TrainConfig, parse
from earvae.discriminator import Discriminator
from earvae.errors import WeightsError, about
from earvae.model import pretrained
from earvae.model.vae import EarVAE
from earvae.model.weight_files import unpickled
from earvae.regular import check_regular
from earvae.training.optimisers import is_matrix, numbered

CHECKPOINT = "checkpoint.pt"
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of AdamW, for each parameter that it has moved
MOMENTUM = {"momentum_buffer"}  # the same of Muon
SIGNED = {"exp_avg", "momentum_buffer"}

Count = Annotated[int, Field(ge=0, lt=2**63)]
Tensors = dict[str, Tensor]


class _Content(BaseModel):
    """Base of what a checkpoint is made of: plain values and tensors, not converted."""

    model_config = ConfigDict(frozen=True, strict=True, arbitrary_types_allowed=True)


class Moments(_Content):
    """What an optimiser remembers of each parameter, by its number. The settings that are saved
    with it are not used: a run's stages give them anew at every step."""

    state: dict[Count, Tensors]


class Norms(_Content):
    """What :class:`earvae.training.balance.Balance` has measured; empty before a first stage."""

    stage: str = ""
    norms: Tensors = {}
    measured: Count = 0


class Checkpoint(_Content):
    """The state of a run after ``step`` steps of ``config``, of which all was checked."""

    config: TrainConfig
    vae: Tensors
    ema: Tensors
    optimiser: Moments
    step: Count
    counters: dict[str, Count]
    balance: Norms = Norms()
    discriminator: Tensors | None = None
    discriminator_optimiser: Moments | None = None

    def generator(self, averaged: bool = True) -> EarVAE:
        """The generator, with averaged or raw weights, in evaluation mode."""
        return plain_model(self.config, self.ema if averaged else self.vae)


def plain_model(config: TrainConfig, weights: Tensors) -> EarVAE:
    """A generator of whole tensors, in evaluation mode."""
    vae = EarVAE(config.model)
    vae.load_state_dict(weights)
    return vae.eval()


def read(run_dir: Path) -> Checkpoint | None:
    """The checkpoint of a run on the CPU, or None if there is none yet.

    Raises an EarvaeError that names the file: it cannot be read, is no regular file, is no
    checkpoint, or is damaged or tampered with. Nothing in the file is executed.
    """
    path = run_dir / CHECKPOINT
    if not os.path.lexists(path):
        return None
    check_regular(path)
    with about(path):
        values = unpickled(path)
    if not isinstance(values, Mapping) or not isinstance(values.get("config"), str):
        raise ConfigError(f"{path}: is not the checkpoint of a run; use another run folder")
    given = json_files.parse(values["config"], f"{path}: its configuration")
    config = parse(TrainConfig, former.without_options(given), f"{path}: its configuration")
    try:
        saved = json_files.typed(Checkpoint, {**values, "config": config}, str(path))
        _check(saved, path)
    except (json_files.JsonError, WeightsError) as error:
        raise ConfigError(
            f"{error}; the file is damaged or was tampered with. Go on from a copy, or use another "
            "run folder"
        ) from None
    return saved


def _check(saved: Checkpoint, path: Path) -> None:
    """Raise WeightsError for what does not fit the run's own configuration."""
    config = saved.config
    if config.model is None or saved.step > config.steps:
        raise WeightsError(f"{path}: step {saved.step} of {config.steps}")
    with torch.device("meta"):
        vae = EarVAE(config.model)
        discriminator = Discriminator(config.discriminator)
    for name, weights in (("vae", saved.vae), ("ema", saved.ema)):
        pretrained.check(vae, weights, f"{path}: {name}")
    _check_moments(saved.optimiser, vae, config.muon, f"{path}: optimiser")
    moved = saved.counters.get("generator_updates", 0) > saved.counters.get("non_finite_steps", 0)
    if moved and not saved.optimiser.state:
        raise WeightsError(f"{path}: optimiser: holds nothing of the steps that were made")
    if saved.discriminator is not None:
        name = f"{path}: discriminator"
        pretrained.check(discriminator, saved.discriminator, name)
        _check_moments(
            saved.discriminator_optimiser, discriminator, config.discriminator_muon,
            f"{name}_optimiser",
        )  # fmt: skip
    shares = next((s.balance for s in config.stages if s.name == saved.balance.stage), None)
    for name, norm in saved.balance.norms.items():
        if not shares or name not in shares.shares or not _is_size(norm, torch.Size()):
            raise WeightsError(f"{path}: balance.norms.{name} is no measured share of its stage")


def _check_moments(moments: Moments | None, network: nn.Module, muon: bool, name: str) -> None:
    """Raise WeightsError unless an optimiser of the network could have these moments."""
    if moments is None:
        raise WeightsError(f"{name} is missing")
    parameters = numbered(network, muon)
    for index, values in moments.state.items():
        if index >= len(parameters):
            raise WeightsError(f"{name}: entry {index} is of no parameter")
        parameter = parameters[index]
        expected = MOMENTUM if muon and is_matrix(parameter) else MOMENTS
        if values.keys() != expected or not all(
            _is_size(value, torch.Size() if key == "step" else parameter.shape, key in SIGNED)
            for key, value in values.items()
        ):
            raise WeightsError(
                f"{name}: entry {index} is no moment of a parameter of {list(parameter.shape)}"
            )


def _is_size(value: Tensor, shape: torch.Size, signed: bool = False) -> bool:
    """Whether it has this shape and holds finite numbers, from 0 up where not ``signed``."""
    if value.shape != shape or value.is_meta or value.layout != torch.strided:
        return False
    if not value.is_floating_point():
        return False
    return bool((value.isfinite() & (signed | (value >= 0))).all())


def not_finite(content: Mapping[str, Any]) -> str | None:
    """The first tensor in a nested state that is not finite, as dotted keys."""
    for name, value in _leaves(content):
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            return name
    return None


def _leaves(content: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value
