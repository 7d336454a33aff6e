"""Published εar-VAE2 weights: their tensors and JSON in, our configuration and names out.

The sizes are read off the shapes. The refiner is a part of our decoder, so its names get that in
front; the windows, which follow from the architecture, are compared and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from earvae.config import Channels, Config, EarVAE2Config, parse
from earvae.errors import WeightsError
from earvae.model.earvae2 import SPECTRUM_HOP
from earvae.model.weight_files import read_json, some

INPUT = "encoder.input_conv."
PARTS = ("encoder.", "decoder.", "refiner.", "window", "refiner_window")
NORM, DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
CONVOLUTION = re.compile(r"(?:encoder|decoder)\..*(?:conv\d?|projection|shortcut)\.weight")


def is_state(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors are, by their names, those of an εar-VAE2."""
    return any(INPUT in name for name in state)


def of_state(
    state: Mapping[str, Tensor], path: Path, config_json: Path | None
) -> tuple[EarVAE2Config, dict[str, Tensor]]:
    """The configuration and the tensors of an εar-VAE2, under our names.

    Args:
        state: as published, under any prefix, in either of torch's weight-norm namings or with
            the norms folded in.
        path: of its file, for messages.
        config_json: the published JSON; None for none.

    Raises WeightsError for what is no whole εar-VAE2, for a config that contradicts the weights
    and for other windows than the published ones.
    """
    state = _with_our_names(state, path)
    found = _layout(state, path)
    stated = parse(_Whole, read_json(config_json), str(config_json)) if config_json else None
    if stated:
        for field, value in stated.model.gen.config.in_our_words(found):
            if value != found[field]:
                raise WeightsError(
                    f"{config_json} says {field} = {value or 'none'}, but {path} holds "
                    f"{found[field] or 'none'}; give the config that belongs to it, or the "
                    "weights alone"
                )
        refiner = stated.model.gen.config.refiner
        if refiner and found["refiner"]:
            found["refiner"]["norm_epsilon"] = refiner.layer_norm_eps
    return parse(EarVAE2Config, found, str(path)), state


def _with_our_names(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    inside = next(name for name in state if INPUT in name)
    prefix = inside[: inside.index(INPUT)]
    parts = tuple(prefix + part for part in PARTS)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(parts):
            if name.startswith(prefix) and prefix:
                raise WeightsError(f"{path}: {name} is of no part of an εar-VAE2")
            continue  # beside an averaged model lie its counters, and the model that learns
        name = name.removeprefix(prefix)
        if name in ("window", "refiner_window"):
            _check_window(tensor, f"{path}: {name}")
            continue
        name = re.sub(r"\.weight_g$", NORM, re.sub(r"\.weight_v$", DIRECTION, name))
        if CONVOLUTION.fullmatch(name) and tensor.ndim >= 3:  # the norm is folded in
            stem = name.removesuffix(".weight")
            norm = tensor.float().flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
            own = {stem + NORM: norm, stem + DIRECTION: torch.where(norm > 0, tensor.float(), 1.0)}
        else:
            own = {f"decoder.{name}" if name.startswith("refiner.") else name: tensor}
        if twice := own.keys() & renamed.keys():
            raise WeightsError(f"{path}: holds {some(sorted(twice))} under two names")
        renamed |= own
    return renamed


def _check_window(tensor: Tensor, place: str) -> None:
    hann = torch.hann_window(2 * SPECTRUM_HOP)
    if tensor.shape != hann.shape or not torch.allclose(tensor.float(), hann, atol=1e-2):
        raise WeightsError(f"{place} is no periodic Hann window of {len(hann)}")  # may be half


def _layout(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The fields of an EarVAE2Config, off the shapes."""

    def size(name: str, dimension: int = 0) -> int:
        tensor = state.get(name)
        if tensor is None or tensor.ndim <= dimension:
            raise WeightsError(f"{path}: not a whole εar-VAE2: {name} is missing or has no size")
        return tensor.shape[dimension]

    found: dict[str, Any] = {
        "channels": size(f"{INPUT}bias"),
        "decoder_channels": size(f"decoder.output_conv{DIRECTION}", 1),
        "latent_channels": size("encoder.bottleneck_block.conv2.bias") // 2,
        "refiner": None,
    }
    if found["decoder_channels"] == 2 * found["channels"]:
        found["decoder_channels"] = None  # what a configuration says by itself
    if any(name.startswith("decoder.refiner.") for name in state):
        numbers = [re.match(r"decoder\.refiner\.convnext\.(\d{1,3})\.", name) for name in state]
        blocks = 1 + max((int(number[1]) for number in numbers if number), default=-1)
        hidden = size("decoder.refiner.convnext.0.pwconv1.bias") if blocks else 1
        width = size("decoder.refiner.embed.bias")
        found["refiner"] = {"width": width, "hidden": hidden, "blocks": blocks}
    return found


# The published JSON. A key that is unknown could change the network: refused.


class _Refiner(Config):
    type: Literal["banded"]
    dim: Channels
    intermediate_dim: Channels
    num_layers: int
    layer_norm_eps: float = Field(1e-5, gt=0, le=1)


class _Generator(Config):
    C0: Channels
    C0_decoder: Channels | None = None
    D: Channels
    use_vae: Literal[True]
    refiner: _Refiner | None = None

    def in_our_words(self, found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """What it says of the architecture: fields of EarVAE2Config."""
        yield "channels", self.C0
        yield "latent_channels", self.D
        if self.C0_decoder is not None:
            double = self.C0_decoder == 2 * self.C0
            yield "decoder_channels", None if double else self.C0_decoder
        own = self.refiner
        yield "refiner", own and {
            "width": own.dim, "hidden": own.intermediate_dim, "blocks": own.num_layers,
        }  # fmt: skip


class _Gen(BaseModel):
    config: _Generator


class _Model(BaseModel):
    gen: _Gen


class _Whole(BaseModel):
    """Other keys around it are of its training."""

    model: _Model
