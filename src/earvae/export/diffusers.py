"""A model as a folder that Hugging Face diffusers' ``AutoencoderOobleck.from_pretrained`` loads.

Needs nothing of diffusers itself. ``EarVAE.from_pretrained`` reads the folder back, exactly.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from earvae import atomic
from earvae.config import OobleckConfig
from earvae.errors import EarvaeError
from earvae.model.diffusers import (
    CLASS_NAME,
    CONFIG_NAME,
    OUR_CONFIG,
    WEIGHTS_NAME,
    DiffusersConfig,
    layer_names,
)
from earvae.model.published import STABLE_AUDIO
from earvae.model.vae import EarVAE
from earvae.owned import EXPORT, Owned

FIRST_VERSION = "0.30.0"  # of diffusers with this class
INSTEAD = (
    "; for diffusers' pipelines wrap it: earvae.adapters.diffusers.DiffusersVAE "
    "(docs/integrations.md)"
)


class NotConvertibleError(EarvaeError):
    """A model that an AutoencoderOobleck cannot be; the message says what it has no place for."""


def export_diffusers(vae: EarVAE, folder: str | Path) -> list[str]:
    """Write ``config.json`` and ``diffusion_pytorch_model.safetensors`` into ``folder``.

    An activation that a residual unit shares is written twice, since theirs has two. Weight norm
    stays unfolded, as theirs does.

    Returns:
        What differs there, a line each; empty if nothing does.

    Raises:
        NotConvertibleError: another architecture than the paper's, a transformer, or an encoder
            whose first width is not twice the latent channels.
        WriteError: the folder cannot be written, or holds files of these names that another
            program wrote.
    """
    config = vae.config
    _check(vae)
    layers = layer_names(len(config.strides))
    tensors = {}
    for name, tensor in vae.state_dict().items():
        if name.endswith((".alpha", ".beta")):
            tensor = tensor[None, :, None]  # theirs are [1, channels, 1]
        layer, _, kind = name.rpartition(".")
        tensors[f"{layers[layer]}.{kind}"] = tensor.detach().cpu().clone().contiguous()
    words = DiffusersConfig.of(config).model_dump(mode="json")
    words = {"_class_name": CLASS_NAME, "_diffusers_version": FIRST_VERSION, **words}
    notes = {"format": "pt", OUR_CONFIG: config.model_dump_json()}

    folder = Path(folder)
    Owned(folder, EXPORT).claim(CONFIG_NAME, WEIGHTS_NAME)
    with atomic.files(folder) as temporary:
        save_file(tensors, temporary / WEIGHTS_NAME, notes)
        text = json.dumps(words, indent=2) + "\n"
        (temporary / CONFIG_NAME).write_text(text, encoding="utf-8")
    return _differences(config)


def _check(vae: EarVAE) -> None:
    """Refuse what has no place in an AutoencoderOobleck."""
    config = vae.config
    if not isinstance(config, OobleckConfig):
        raise NotConvertibleError(
            f"the model's architecture is {config.architecture!r}: AutoencoderOobleck is the "
            f"paper's convolutional one, and has no place for transform frames{INSTEAD}"
        )
    if config.transformer is not None:
        raise NotConvertibleError(
            f"the model decodes with a transformer of {config.transformer.depth} blocks ahead of "
            "its convolutions: AutoencoderOobleck has no place for it, and without it the "
            f"decoder would get latents it was not trained on{INSTEAD}"
        )
    if config.channels != 2 * config.latent_channels:
        raise NotConvertibleError(
            f"the model has channels = {config.channels} and latent_channels = "
            f"{config.latent_channels}: AutoencoderOobleck's encoder puts out as many channels as "
            f"its first width, which therefore must be twice the latents'{INSTEAD}"
        )


def _differences(config: OobleckConfig) -> list[str]:
    """What an AutoencoderOobleck does otherwise."""
    notes = []
    theirs = STABLE_AUDIO["std_floor"]
    if config.std_floor != theirs:
        notes.append(
            f"diffusers adds {theirs:g} to the posterior's std, here it is {config.std_floor:g}: "
            "the mean is the same, a sample differs by that much noise"
        )
    if config.shared_snake:
        notes.append(
            "diffusers has two activations in a residual unit where this model has one: they are "
            "written equal, and training there can part them"
        )
    if any(stride % 2 for stride in config.strides):
        notes.append(
            "odd strides: diffusers' decoder ends short of whole frames, as the published one does"
        )
    return notes
