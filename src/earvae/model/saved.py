"""Our own form of a model: a folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from earvae import atomic
from earvae.config import ModelConfig, parse
from earvae.errors import WeightsError, WriteError
from earvae.model.weight_files import read_json, read_tensors

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def read(path: Path) -> tuple[ModelConfig, dict[str, Tensor]] | None:
    """Configuration and tensors of a folder written by :func:`write`, or of the weights in it.

    None for another place.
    """
    folder = path.parent if path.name == WEIGHTS_NAME else path
    values = read_json(folder / CONFIG_NAME)
    if "architecture" not in values:
        return None
    if not (folder / WEIGHTS_NAME).is_file():
        raise WeightsError(f"{folder}: has {CONFIG_NAME} but no {WEIGHTS_NAME}")
    config = parse(ModelConfig, values, str(folder / CONFIG_NAME))
    return config, read_tensors(folder / WEIGHTS_NAME)


def is_model(folder: Path) -> bool:
    """Whether a folder has the names that :func:`write` writes."""
    return all((folder / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME))


def write(
    model: nn.Module, config: ModelConfig, folder: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write a model and its configuration; ``dtype`` and errors as of ``save_pretrained``."""
    first, tensors = first_names(model), {}
    for name, kept in model.state_dict(keep_vars=True).items():
        if name != first[name]:
            continue  # safetensors refuses one memory under two names
        tensor = kept.detach().cpu()
        converted = tensor.to(dtype or tensor.dtype)
        rounded = isinstance(kept, nn.Parameter) or torch.equal(converted.to(tensor.dtype), tensor)
        tensors[name] = (converted if rounded else tensor).contiguous()
        if not tensors[name].isfinite().all():
            raise WriteError(
                f"{folder}: nothing was written: {name} holds NaN or infinity, or values beyond "
                f"{tensors[name].dtype}"
            )
    with atomic.files(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS_NAME, {"format": "earvae"})
        (temporary / CONFIG_NAME).write_text(_text(config), encoding="utf-8")


def write_statistics(folder: str | Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Put the statistics of its latents, by channel, into the configuration of a model's folder.

    Raises WeightsError for a folder that :func:`write` did not write, ConfigError for numbers that
    do not fit the model, and WriteError.
    """
    path = Path(folder) / CONFIG_NAME
    values = read_json(path)
    if "architecture" not in values or not path.with_name(WEIGHTS_NAME).is_file():
        raise WeightsError(
            f"{folder}: no folder of save_pretrained with {CONFIG_NAME} and {WEIGHTS_NAME}; make "
            "one of any weights by EarVAE.from_pretrained(...).save_pretrained(FOLDER)"
        )
    values |= {"latents_mean": list(mean), "latents_std": list(std)}
    atomic.write(path, _text(parse(ModelConfig, values, str(path))))


def _text(config: ModelConfig) -> str:
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a state dict with the first name of the same tensor.

    A module that is used in two places has its tensors under two names.
    """
    seen: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: seen.setdefault(id(tensor), name) for name, tensor in state.items()}
