"""Published checkpoints, εar-VAE's and Stable Audio's: files in, our configuration and names out.

Published weights are a bare ``.pyt`` state dict with a JSON config next to it. In the wild they
also come wrapped in a training checkpoint, prefixed by a parent module's name, in either of
torch's weight-norm namings, with the norms folded in, as safetensors, and without their JSON.

Checkpoints of stable-audio-tools' Oobleck autoencoders (Stable Audio Open's) have the same names
and shapes, but two activations in a residual unit instead of one that is shared, another floor of
the posterior, and no transformer. Their file may hold a whole diffusion model around it.

εar-VAE2 is recognised here and read by ``published_earvae2.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from earvae.config import (
    Channels,
    Config,
    Depth,
    EarVAE2Config,
    HeadChannels,
    Multiples,
    OobleckConfig,
    Strides,
    TransformerConfig,
    parse,
)
from earvae.errors import WeightsError
from earvae.model import published_earvae2
from earvae.model.layers import norm_over_first
from earvae.model.transformer import inverse_frequencies
from earvae.model.weight_files import SUFFIXES, read_json, read_tensors, same, some

KNOWN_SAMPLE_RATES = {  # Hz, by the total stride of the published models
    1024: 44_100,  # εar-VAE
    960: 48_000,
    2048: 44_100,  # Stable Audio Open
    1920: 48_000,  # ACE-Step 1.5, which has Stable Audio's layout
}
STABLE_AUDIO = {"shared_snake": False, "std_floor": 1e-4}  # the conventions of its layout
AUTOENCODER_PREFIXES = (  # where stable-audio-tools keeps it in a larger file, best first
    "pretransform.model.",
    "autoencoder_ema.ema_model.",
    "autoencoder.",
)
FREQUENCIES = "transformers.rotary_pos_emb.inv_freq"
WEIGHT_NORM_NAMES = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}


def read(
    path: Path, config_json: Path | None = None, sample_rate: int | None = None
) -> tuple[OobleckConfig | EarVAE2Config, dict[str, Tensor]]:
    """The configuration and the tensors of a published file, or of a folder that holds one.

    Args:
        config_json: the published JSON config, εar-VAE's or stable-audio-tools'. None takes the
            one beside the weights, if that describes them. Without any, the architecture is read
            off the shapes, and Stable Audio's conventions off residual units whose two activations
            differ (without a transformer).
        sample_rate: Hz, where neither the JSON nor the total stride (``KNOWN_SAMPLE_RATES``) tells.

    Returns:
        The configuration, and tensors under the published names (``weight_g``/``weight_v``).

    Raises WeightsError for unreadable files, a config that contradicts the weights, or a sample
    rate that has to be given; OSError for a file that may not be read.
    """
    weights = _weight_file(path)
    state = read_tensors(weights)
    if not published_earvae2.is_state(state):
        state = with_our_names(_autoencoder_of(state), weights)
    if config_json is not None:
        return _described(weights, state, config_json, sample_rate)
    beside = _config_beside(weights)
    shared = beside is not None and beside.stem != weights.stem
    if not (shared and len(_weight_files_in(weights.parent)) > 1):
        return _described(weights, state, beside, sample_rate)
    try:
        return _described(weights, dict(state), beside, sample_rate)
    except WeightsError:  # of another of the files, perhaps; the weights tell as much
        return _described(weights, state, None, sample_rate)


def _described(
    weights: Path, state: dict[str, Tensor], config_json: Path | None, sample_rate: int | None
) -> tuple[OobleckConfig | EarVAE2Config, dict[str, Tensor]]:
    """The configuration by the JSON, if any, and by the shapes; the tensors, perhaps more."""
    if published_earvae2.is_state(state):
        return published_earvae2.of_state(state, weights, config_json)
    stated, family = _read_config(config_json) if config_json else (None, {})
    values = _convolutional_layout(state, weights)
    values["transformer"] = _transformer_layout(state, stated and stated.transformer, weights)
    hop = math.prod(values["strides"])
    for field, value in stated.in_our_words() if stated else ():
        found = hop if field == "downsampling_ratio" else values[field]
        if value != found:
            raise WeightsError(
                f"{config_json} says {field} = {value or 'none'}, but {weights} holds "
                f"{found or 'none'}; give the config that belongs to it, or the weights alone"
            )
    if stated is None and values["transformer"] is None and two_activations(state):
        family = STABLE_AUDIO
    rate = (stated and stated.sample_rate) or sample_rate or KNOWN_SAMPLE_RATES.get(hop)
    if rate is None:
        known = " or ".join(str(stride) for stride in KNOWN_SAMPLE_RATES)
        raise WeightsError(
            f"{weights}: does not tell its sample rate, and its total stride is {hop}, not "
            f"{known}; give sample_rate"
        )
    return parse(OobleckConfig, {**values, **family, "sample_rate": rate}, str(weights)), state


def _weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = _weight_files_in(path)
    if not found:
        raise WeightsError(
            f"{path}: holds no model: neither config.json with model.safetensors, nor a published "
            f"weight file ({', '.join(SUFFIXES)})"
        )
    if len(found) > 1:
        raise WeightsError(
            f"{path}: holds {len(found)} weight files; name one of "
            f"{some((entry.name for entry in found), 20)}, as in {found[0]}"
        )
    return found[0]


def _weight_files_in(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix in SUFFIXES)


def _config_beside(weights: Path) -> Path | None:
    """The published JSON config next to a weight file: of the same name, or the only one."""
    if weights.with_suffix(".json").is_file():
        return weights.with_suffix(".json")
    beside = (path for path in weights.parent.glob("*.json") if path.is_file())
    usable = [path for path in beside if _is_config(read_json(path))]
    return usable[0] if len(usable) == 1 else None


def _is_config(values: Mapping[str, Any]) -> bool:
    """Whether a JSON object is the config of a published autoencoder, or of a model with one."""
    model = values.get("model")
    return (
        {"encoder", "decoder"} <= values.keys()
        or {"model_type", "model"} <= values.keys()
        or isinstance(model, dict)
        and "gen" in model
    )


def two_activations(state: Mapping[str, Tensor]) -> bool:
    """Whether any residual unit has two activations that differ, as in Stable Audio's layout."""
    pairs = ((name, re.sub(r"\.0\.(alpha|beta)$", r".2.\1", name)) for name in state)
    return any(
        one != other and other in state and not same(state[one], state[other])
        for one, other in pairs
    )


def _autoencoder_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder alone, of a file in which stable-audio-tools keeps it among other parts."""

    def parts(prefix: str) -> tuple[str, ...]:
        return tuple(f"{prefix}{part}." for part in ("transformers", "encoder", "decoder"))

    for prefix in AUTOENCODER_PREFIXES:
        if any(name.startswith(f"{prefix}encoder.layers.") for name in state):
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in state.items()
                if name.startswith(parts(prefix))
            }
    return state


def with_our_names(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Strip a prefix that all names share; bring weight normalisation to weight_g / weight_v."""
    starts = [
        re.search(r"(encoder|decoder|transformers)\.(layers|rotary_pos_emb)\.", name)
        for name in state
    ]
    prefixes = {match.string[: match.start()] if match else None for match in starts}
    if len(prefixes) == 1 and None not in prefixes:
        cut = len(prefixes.pop())
        state = {name[cut:]: tensor for name, tensor in state.items()}

    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for theirs, ours in WEIGHT_NORM_NAMES.items():
            if name.endswith(theirs):
                name = name.removesuffix(theirs) + ours
        if name in renamed:
            raise WeightsError(f"{path}: holds {name} under both weight-norm namings")
        renamed[name] = tensor

    for name in [name for name in renamed if re.match(r"(encoder|decoder)\..*\.weight$", name)]:
        plain = renamed[name]
        stem = name.removesuffix(".weight")
        folded = plain.ndim == 3 and plain.is_floating_point()
        if not folded or f"{stem}.weight_g" in renamed or f"{stem}.weight_v" in renamed:
            continue  # not a folded weight norm; the check of the names reports it
        del renamed[name]
        norm = norm_over_first(plain.float())
        renamed[f"{stem}.weight_g"] = norm
        renamed[f"{stem}.weight_v"] = torch.where(norm > 0, plain.float(), 1.0)  # 0 · 1/‖1‖ = 0
    return renamed


# --------------------------------------------------------------------------- configuration


def _convolutional_layout(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The architecture as far as the encoder's shapes tell it: no sample rate, no conventions."""

    def shape(name: str) -> torch.Size | None:
        tensor = state.get(f"encoder.layers.{name}.weight_v")
        return None if tensor is None or tensor.ndim != 3 or 0 in tensor.shape else tensor.shape

    strided = list(takewhile(bool, (shape(f"{index}.layers.4") for index in count(1))))
    first, last = shape("0"), shape(f"{len(strided) + 2}")
    if first is None or last is None or not strided:
        raise WeightsError(
            f"{path}: not a whole εar-VAE: no whole encoder among its {len(state)} names "
            f"({some(state)})"
        )
    channels, audio_channels, _ = first
    for index, (width, _, kernel) in enumerate(strided, start=1):
        if kernel % 2 or width % channels:
            raise WeightsError(
                f"{path}: not an εar-VAE: the strided convolution of block {index} has kernel "
                f"{kernel} and width {width}; expected an even kernel (twice the stride) and a "
                f"multiple of {channels}"
            )
    return {
        "audio_channels": audio_channels,
        "latent_channels": last[0] // 2,
        "channels": channels,
        "multiples": tuple(width // channels for width, _, _ in strided),
        "strides": tuple(kernel // 2 for _, _, kernel in strided),
    }


def _transformer_layout(
    state: dict[str, Tensor], stated: _Transformer | None, path: Path
) -> TransformerConfig | None:
    """Depth from the names, head width from the frequencies; None without a transformer.

    Adds to ``state`` the constants that a file may leave out: offsets and frequencies. Refuses
    positions that turn at other speeds than ours.
    """
    names = [name for name in state if name.startswith("transformers.")]
    if not names:
        return None
    for name in names:
        if name.endswith("norm.gamma"):
            offset = name.removesuffix("gamma") + "beta"
            state.setdefault(offset, torch.zeros_like(state[name]))
    assumed = stated.ours() if stated else TransformerConfig()
    theirs = state.setdefault(FREQUENCIES, inverse_frequencies(assumed.head_channels))
    head_channels = max(2, 2 * theirs.numel())
    ours = inverse_frequencies(head_channels)
    if theirs.shape != ours.shape or not torch.allclose(theirs.float(), ours, rtol=1e-2, atol=0):
        raise WeightsError(  # files may be half precision
            f"{path}: {FREQUENCIES} is not of base 10 000 over {head_channels} channels"
        )
    blocks = [re.match(r"transformers\.layers\.(\d{1,3})\.", name) for name in names]
    depth = 1 + max((int(block[1]) for block in blocks if block), default=0)
    found = {"depth": depth, "head_channels": head_channels}
    return parse(TransformerConfig, found, f"{path}: transformer")


# The published JSON. A key that is unknown could change the network: refused.


class _Convolutions(Config):
    channels: Channels
    c_mults: Multiples
    strides: Strides
    latent_dim: int
    in_channels: int | None = None
    use_snake: Literal[True]
    antialias_activation: Literal[False] = False


class _DecoderConvolutions(_Convolutions):
    out_channels: int
    final_tanh: Literal[False]
    use_nearest_upsample: Literal[False] = False


class _Encoder(Config):
    config: _Convolutions
    type: Literal["oobleck"] = "oobleck"
    requires_grad: bool = True


class _Decoder(_Encoder):
    config: _DecoderConvolutions


class _Bottleneck(Config):
    type: Literal["vae"]


class _Attention(Config):
    dim_heads: HeadChannels
    rotary_pos_emb: Literal[True]


class _Transformer(Config):
    depth: Depth
    config: _Attention

    def ours(self) -> TransformerConfig:
        return TransformerConfig(depth=self.depth, head_channels=self.config.dim_heads)


class _Whole(BaseModel):
    """Other keys at the top level only describe."""

    encoder: _Encoder
    decoder: _Decoder
    transformer: _Transformer | None = None
    bottleneck: _Bottleneck | None = None
    soft_clip: Literal[False] = False
    pretransform: None = None
    downsampling_ratio: int | None = None
    sample_rate: int | None = None

    def in_our_words(self) -> Iterator[tuple[str, Any]]:
        """What it says of the architecture: fields of OobleckConfig, some of them twice."""
        encoder, decoder = self.encoder.config, self.decoder.config
        for part in (encoder, decoder):
            yield "channels", part.channels
            yield "multiples", part.c_mults
            yield "strides", part.strides
        yield "audio_channels", encoder.in_channels
        yield "audio_channels", decoder.out_channels
        yield "latent_channels", encoder.latent_dim / 2
        yield "latent_channels", decoder.latent_dim
        yield "transformer", self.transformer and self.transformer.ours()
        if self.downsampling_ratio is not None:
            yield "downsampling_ratio", self.downsampling_ratio


def _read_config(path: Path) -> tuple[_Whole, dict[str, Any]]:
    """The published JSON, and the conventions of the family that it is of."""
    values, family = read_json(path), {}
    if isinstance(values.get("model"), dict):
        values, family = _stable_audio_section(values), STABLE_AUDIO
    return parse(_Whole, values, str(path)), family


def _stable_audio_section(values: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's part of a stable-audio-tools config, in the form of εar-VAE's JSON."""
    section = values["model"]
    if values.get("model_type") != "autoencoder":
        pretransform = section.get("pretransform")
        section = pretransform.get("config") if isinstance(pretransform, dict) else None
    if not isinstance(section, dict):
        return {}  # the check of the keys says what is missing
    return {**section, "sample_rate": values.get("sample_rate")}
