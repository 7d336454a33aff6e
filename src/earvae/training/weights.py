"""The weights that a run starts from, and the model they tell."""

from __future__ import annotations

from pathlib import Path

from earvae.config import TrainConfig, parse
from earvae.model.vae import EarVAE
from earvae.training.state import CHECKPOINT, EMA


def source_of_weights(name: str) -> str | None:
    """What ``EarVAE.from_pretrained`` takes for ``initial_weights``."""
    if name == "shipped":
        return None
    return str(Path(name) / EMA) if (Path(name) / CHECKPOINT).is_file() else name


def with_model(config: TrainConfig) -> TrainConfig:
    """The configuration with its model told: where it leaves that to ``initial_weights``, theirs.

    Raises ConfigError if crops are not whole latent frames of that model, and what
    ``EarVAE.from_pretrained`` raises.
    """
    if config.model is not None:
        return config
    vae = EarVAE.from_pretrained(source_of_weights(config.initial_weights))
    values = config.model_dump(exclude_unset=True) | {"model": vae.config}
    return parse(TrainConfig, values, f"with the model of {config.initial_weights}")
