"""Hugging Face diffusers' ``AutoencoderOobleck``: its names, its config, its folders read.

It is Stable Audio's layout under other names: two activations in a residual unit, std =
softplus(scale) + 1e-4, no transformer. Stable Audio Open and ACE-Step 1.5 publish their
autoencoders so. One restriction is its own: the encoder's output has ``encoder_hidden_size``
channels, which must be twice the latents'. (``earvae.export.diffusers`` writes such folders.)
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from earvae import json_files
from earvae.config import Config, Multiples, OobleckConfig, Strides, parse
from earvae.errors import WeightsError
from earvae.json_files import JsonError
from earvae.model.published import STABLE_AUDIO, two_activations, with_our_names
from earvae.model.weight_files import read_json, read_metadata, read_tensors

CLASS_NAME = "AutoencoderOobleck"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
WEIGHTS_NAMES = (WEIGHTS_NAME, "diffusion_pytorch_model.bin")  # the first is preferred
OUR_CONFIG = "earvae_config"  # metadata of files that we wrote: the exact configuration
BLOCK_LAYERS = {
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
}
UNIT_LAYERS = ("snake1", "conv1", "snake2", "conv2")
OUR_WORDS = {
    "downsampling_ratios": "strides",
    "channel_multiples": "multiples",
    "decoder_channels": "channels",
    "decoder_input_channels": "latent_channels",
    "audio_channels": "audio_channels",
    "sampling_rate": "sample_rate",
}


class DiffusersConfig(Config):
    """The keys and defaults of an AutoencoderOobleck's ``config.json``; others are refused."""

    encoder_hidden_size: int = 128
    downsampling_ratios: Strides = (2, 4, 4, 8, 8)
    channel_multiples: Multiples = (1, 2, 4, 8, 16)
    decoder_channels: int = 128
    decoder_input_channels: int = 64
    audio_channels: int = 2
    sampling_rate: int = 44_100  # Hz

    @classmethod
    def of(cls, config: OobleckConfig) -> DiffusersConfig:
        """The same shapes in their words. What they have no word for is not looked at."""
        same = {theirs: getattr(config, ours) for theirs, ours in OUR_WORDS.items()}
        return cls(encoder_hidden_size=config.channels, **same)

    def ours(self) -> dict[str, Any]:
        """The values of an OobleckConfig of these shapes, with Stable Audio's conventions."""
        same = {ours: getattr(self, theirs) for theirs, ours in OUR_WORDS.items()}
        return {**same, "transformer": None, **STABLE_AUDIO}


def is_config(values: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is that of an AutoencoderOobleck."""
    return values.get("_class_name") == CLASS_NAME


def read(folder: Path) -> tuple[OobleckConfig, dict[str, Tensor]] | None:
    """The configuration and tensors, under our names, of a folder; None for another place.

    The configuration is the one that ``earvae.export.diffusers`` noted in the weights file, if it
    did. Otherwise it has Stable Audio's posterior, and activations that are shared if the two of
    every residual unit are equal.

    Raises WeightsError for a config that cannot be ours or has no weights.
    """
    path = folder / CONFIG_NAME
    values = read_json(path)
    if not is_config(values):
        return None
    theirs = _parsed(values, path)
    weights = next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)
    if weights is None:
        raise WeightsError(f"{folder}: has {CONFIG_NAME} but no {WEIGHTS_NAME}")
    config = parse(OobleckConfig, theirs.ours(), str(path))
    state = _with_our_names(read_tensors(weights), config, weights)
    noted = _noted_config(weights)
    if noted is not None:
        if noted.transformer is not None or DiffusersConfig.of(noted) != theirs:
            raise WeightsError(
                f"{weights}: was converted from another configuration than {path} states"
            )
        config = noted
    elif not two_activations(state):
        config = config.model_copy(update={"shared_snake": True})
    return config, state


def layer_names(blocks: int) -> dict[str, str]:
    """Our name of every layer, such as ``encoder.layers.1.layers.0.layers.2``, with theirs, here
    ``encoder.block.0.res_unit1.snake2``; ``blocks`` is the number of strided blocks."""
    names = {}
    for part, layers in BLOCK_LAYERS.items():
        for index, theirs in ((0, "conv1"), (blocks + 1, "snake1"), (blocks + 2, "conv2")):
            names[f"{part}.layers.{index}"] = f"{part}.{theirs}"
        for block, (index, layer) in product(range(blocks), enumerate(layers)):
            ours, theirs = (
                f"{part}.layers.{block + 1}.layers.{index}",
                f"{part}.block.{block}.{layer}",
            )
            if layer.startswith("res_unit"):
                for inner, word in enumerate(UNIT_LAYERS):
                    names[f"{ours}.layers.{inner}"] = f"{theirs}.{word}"
            else:
                names[ours] = theirs
    return names


def _with_our_names(
    state: dict[str, Tensor], config: OobleckConfig, path: Path
) -> dict[str, Tensor]:
    """Their names and shapes to ours; a name that is not theirs stays, for the check to report."""
    ours = {theirs: name for name, theirs in layer_names(len(config.strides)).items()}
    renamed = {}
    for name, tensor in state.items():
        match = re.match(r"(.+?)\.(alpha|beta|bias|weight\w*|parametrizations\..+)$", name)
        if match and match[1] in ours:
            name = f"{ours[match[1]]}.{match[2]}"
            if match[2] in ("alpha", "beta"):
                tensor = tensor.flatten()  # [1, channels, 1]
        renamed[name] = tensor
    return with_our_names(renamed, path)


def _parsed(values: dict[str, Any], path: Path) -> DiffusersConfig:
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    theirs: DiffusersConfig = parse(DiffusersConfig, values, str(path))
    if theirs.decoder_channels != theirs.encoder_hidden_size:
        raise WeightsError(
            f"{path}: encoder_hidden_size and decoder_channels differ "
            f"({theirs.encoder_hidden_size} and {theirs.decoder_channels}); only models whose "
            "encoder and decoder are equally wide can be loaded"
        )
    if theirs.encoder_hidden_size != 2 * theirs.decoder_input_channels:
        raise WeightsError(
            f"{path}: encoder_hidden_size, {theirs.encoder_hidden_size}, is not twice "
            f"decoder_input_channels, {theirs.decoder_input_channels}: the encoder's output is no "
            "mean and scale of the decoder's input"
        )
    return theirs


def _noted_config(path: Path) -> OobleckConfig | None:
    """The configuration in the metadata of a file that we wrote."""
    noted = read_metadata(path).get(OUR_CONFIG)
    if noted is None:
        return None
    try:
        return parse(OobleckConfig, json_files.parse(noted, f"{path}: {OUR_CONFIG}"), str(path))
    except JsonError as error:
        raise WeightsError(str(error)) from None
