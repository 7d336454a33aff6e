"""Published checkpoints, εar-VAE's and Stable Audio's: files in, our configuration and names out.

Published weights are a bare ``.pyt`` state dict with a JSON config next to it. In the wild they
also come wrapped in a training checkpoint, prefixed by a parent module's name, in either of
torch's weight-norm namings, with the norms folded in, as safetensors, and without their JSON.

Checkpoints of stable-audio-tools' Oobleck autoencoders (Stable Audio Open's) have the same names
and shapes, but two activations in a residual unit instead of one that is shared, another floor of
the posterior, and no transformer. Their file may hold a whole diffusion model around it.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from earvae.config import ConfigError, OobleckConfig, TransformerConfig, parse
from earvae.model.layers import norm_over_first
from earvae.model.oobleck import OobleckDecoder, OobleckEncoder
from earvae.model.transformer import LatentTransformer, inverse_frequencies

WRAPPERS = (
    "gen",
    "generator",
    "state_dict",
    "model",
)  # keys that checkpoints nest the weights under
KNOWN_SAMPLE_RATES = {  # of published models, by total stride
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
WEIGHT_NORM_NAMES = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
SHOWN = 4  # names in an error message


class PublishedFormatError(ValueError):
    """A file that is not a whole published model; the message names the file and what differs."""


def load_published(
    weights: str | Path, config_json: str | Path | None = None, sample_rate: int | None = None
) -> tuple[OobleckConfig, dict[str, Tensor]]:
    """Read published weights as a configuration and a complete state dict.

    Args:
        weights: ``.safetensors``, or a PyTorch file (``.pyt``, ``.pt``, …), which is read without
            executing anything in it.
        config_json: the published JSON config, εar-VAE's or stable-audio-tools'; None reads the
            architecture off the shapes, and Stable Audio's conventions off residual units whose
            two activations differ (without a transformer).
        sample_rate: Hz. None takes the JSON's, or the one that the total stride is known for
            (``KNOWN_SAMPLE_RATES``).

    Returns:
        The configuration, and float32 CPU tensors under exactly the published names
        (``weight_g``/``weight_v``; a shared activation under both of its names).

    Raises:
        PublishedFormatError: unreadable, wrong or partial files, a config that contradicts the
            weights, or a sample rate that has to be given.
        OSError: a file that is missing or may not be read.
    """
    weights = Path(weights)
    state = with_our_names(_autoencoder_of(read_state(weights)), weights)
    if config_json is None:
        config = _infer_config(state, sample_rate, weights)
    else:
        config = _read_config(Path(config_json), sample_rate)
        _fill_in(state, config, expected_shapes(config))
        _check_agreement(config, Path(config_json), state, weights)
    return config, complete(state, config, weights)


def is_published_config(values: Mapping[str, Any]) -> bool:
    """Whether a JSON object is the config of a published autoencoder, or of a model with one."""
    return {"encoder", "decoder"} <= values.keys() or {"model_type", "model"} <= values.keys()


def two_activations(state: Mapping[str, Tensor]) -> bool:
    """Whether any residual unit has two activations that differ, as in Stable Audio's layout."""
    return any(not torch.equal(state[one], state[other]) for one, other in _unit_activations(state))


def complete(state: dict[str, Tensor], config: OobleckConfig, path: Path) -> dict[str, Tensor]:
    """Exactly the tensors of ``config``, float32, in the published order, out of those of a file.

    Adds constants and second names that files may leave out. Raises PublishedFormatError for
    names that are missing or too many, other shapes, and values this architecture cannot hold.
    """
    expected = expected_shapes(config)
    _fill_in(state, config, expected)
    _check_names(state, expected, path)
    _check_values(state, config, path)
    return {name: state[name] for name in expected}


def expected_shapes(config: OobleckConfig) -> dict[str, torch.Size]:
    """Every published name of this configuration with its shape, in the published order."""
    with torch.device("meta"):
        parts = nn.ModuleDict()
        if config.transformer is not None:
            parts["transformers"] = LatentTransformer(config)
        parts["encoder"] = OobleckEncoder(config)
        parts["decoder"] = OobleckDecoder(config)
    return {name: tensor.shape for name, tensor in parts.state_dict().items()}


def deduplicated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with each tensor under its first name only.

    Modules that are used in two places appear twice in a state dict, and safetensors refuses to
    store one memory twice. To load the result, copy into the tensors of a module that shares the
    same way: the other names follow. Tensors on the meta device have no memory and all stay.
    """
    kept: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in state.items():
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.data_ptr() == 0 or memory not in seen:
            kept[name] = tensor
        seen.add(memory)
    return kept


# --------------------------------------------------------------------------- reading weights


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, unwrapped from the dicts they are nested in.

    Raises PublishedFormatError; nothing that a file may carry is executed.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise PublishedFormatError(
                f"{path}: not a readable safetensors file: {error}"
            ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise PublishedFormatError(
            f"{path}: not loaded, and nothing in it was executed: "
            + (f"it refers to code ({code[1]})" if code else "it is not a file of plain tensors")
            + "; ask its author for safetensors or a bare state dict"
        ) from None
    except OSError:
        raise
    except Exception as error:  # damaged archives fail in many ways inside the reader
        reason = (str(error).splitlines() or [""])[0]
        raise PublishedFormatError(
            f"{path}: not a readable PyTorch file: {type(error).__name__}: {reason}"
        ) from None
    while isinstance(content, Mapping):
        inner = next(
            (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise PublishedFormatError(f"{path}: holds a {type(content).__name__}, not a state dict")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers or not content:
        raise PublishedFormatError(
            f"{path}: holds no state dict at its top level or under {', '.join(WRAPPERS)} "
            f"(entries that are not tensors: {_some(strangers)})"
        )
    return {str(name): tensor for name, tensor in content.items()}


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
            raise PublishedFormatError(f"{path}: holds {name} under both weight-norm namings")
        renamed[name] = tensor

    for name in [name for name in renamed if re.match(r"(encoder|decoder)\..*\.weight$", name)]:
        plain = renamed[name]
        stem = name.removesuffix(".weight")
        if plain.ndim != 3 or f"{stem}.weight_g" in renamed or f"{stem}.weight_v" in renamed:
            continue  # not a folded weight norm; the check of the names reports it
        del renamed[name]
        norm = norm_over_first(plain.float())
        renamed[f"{stem}.weight_g"] = norm
        renamed[f"{stem}.weight_v"] = torch.where(norm > 0, plain.float(), 1.0)  # 0 · 1/‖1‖ = 0
    return renamed


# --------------------------------------------------------------------------- configuration


def _infer_config(
    state: Mapping[str, Tensor], sample_rate: int | None, path: Path
) -> OobleckConfig:
    """The configuration read off names and shapes; the paper's where they do not tell it."""
    layout = _layout(state, path)
    if layout is None:
        return OobleckConfig()  # the check of the names will say what is missing
    rate = _sample_rate(math.prod(layout["strides"]), sample_rate, path)
    family = STABLE_AUDIO if layout["transformer"] is None and two_activations(state) else {}
    return _parse(OobleckConfig, {**layout, **family, "sample_rate": rate}, path)


def _layout(state: Mapping[str, Tensor], path: Path) -> dict[str, Any] | None:
    """The architecture as far as shapes tell it: no sample rate, no conventions.

    Where one of encoder and decoder lacks a layer, its mirror image in the other speaks. None if
    both do, or if this is some other network.
    """

    def shape(in_encoder: str, in_decoder: str) -> torch.Size | None:
        for name in (f"encoder.{in_encoder}.weight_v", f"decoder.{in_decoder}.weight_v"):
            if name in state and state[name].ndim == 3 and 0 not in state[name].shape:
                return state[name].shape
        return None

    indices = [int(i) for i in _matches(r"(?:encoder|decoder)\.layers\.(\d{1,3})\.", state)]
    blocks = max(indices, default=0) - 2  # ahead: a convolution; behind: Snake, a convolution
    audio = shape("layers.0", f"layers.{blocks + 2}")
    latent = shape(f"layers.{blocks + 2}", "layers.0")
    strided = [
        shape(f"layers.{i}.layers.4", f"layers.{blocks + 1 - i}.layers.1")
        for i in range(1, blocks + 1)
    ]
    if audio is None or latent is None or not strided or None in strided:
        return None
    from_encoder = "encoder.layers.0.weight_v" in state
    channels, audio_channels = audio[:2] if from_encoder else audio[1::-1]
    for index, (width, _, kernel) in enumerate(strided, start=1):
        if kernel % 2 or width % channels:
            raise PublishedFormatError(
                f"{path}: not an εar-VAE: the strided convolution of block {index} has kernel "
                f"{kernel} and width {width}; expected an even kernel (twice the stride) and a "
                f"multiple of {channels}"
            )
    from_encoder = f"encoder.layers.{blocks + 2}.weight_v" in state
    return {
        "audio_channels": audio_channels,
        "latent_channels": latent[0] // 2 if from_encoder else latent[1],
        "channels": channels,
        "multiples": tuple(width // channels for width, _, _ in strided),
        "strides": tuple(kernel // 2 for _, _, kernel in strided),
        "transformer": _transformer_layout(state),
    }


def _transformer_layout(state: Mapping[str, Tensor]) -> TransformerConfig | None:
    """Depth from the names, head width from the rotary buffer; None without any such name."""
    if not any(name.startswith("transformers.") for name in state):
        return None
    indices = [int(i) for i in _matches(r"transformers\.layers\.(\d{1,3})\.", state)]
    frequencies = state.get("transformers.rotary_pos_emb.inv_freq")
    values: dict[str, int] = {"depth": max(indices, default=0) + 1}
    if frequencies is not None:
        values["head_channels"] = max(2, 2 * frequencies.numel())
    return TransformerConfig(**values)


def _sample_rate(hop: int, given: int | None, source: Path) -> int:
    """Hz: the given one, or the one known for this total stride."""
    if given is None and hop not in KNOWN_SAMPLE_RATES:
        known = " or ".join(str(stride) for stride in KNOWN_SAMPLE_RATES)
        raise PublishedFormatError(
            f"{source}: does not tell its sample rate, and its total stride is {hop}, not {known}; "
            "give sample_rate"
        )
    return given if given is not None else KNOWN_SAMPLE_RATES[hop]


class _Published(BaseModel):
    """Parts of the published JSON. A key that is unknown could change the network: refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Convolutions(_Published):
    channels: int
    c_mults: tuple[int, ...]
    strides: tuple[int, ...]
    latent_dim: int
    use_snake: Literal[True]
    antialias_activation: Literal[False] = False


class _EncoderConvolutions(_Convolutions):
    in_channels: int


class _DecoderConvolutions(_Convolutions):
    out_channels: int
    final_tanh: Literal[False]
    use_nearest_upsample: Literal[False] = False


class _Encoder(_Published):
    config: _EncoderConvolutions
    type: Literal["oobleck"] = "oobleck"
    requires_grad: bool = True


class _Decoder(_Published):
    config: _DecoderConvolutions
    type: Literal["oobleck"] = "oobleck"
    requires_grad: bool = True


class _Bottleneck(_Published):
    type: Literal["vae"]


class _Attention(_Published):
    dim_heads: int
    rotary_pos_emb: Literal[True]


class _Transformer(_Published):
    depth: int
    config: _Attention


class _PublishedConfig(BaseModel):
    """The published JSON as a whole; other keys at its top level only describe."""

    encoder: _Encoder
    decoder: _Decoder
    transformer: _Transformer | None = None
    bottleneck: _Bottleneck | None = None
    soft_clip: Literal[False] = False
    pretransform: None = None
    downsampling_ratio: int | None = None
    sample_rate: int | None = None


def _read_config(path: Path, sample_rate: int | None) -> OobleckConfig:
    """The published JSON as our configuration."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise PublishedFormatError(f"{path}: not readable as JSON: {error}") from None
    family: dict[str, Any] = {}
    if isinstance(values, dict) and isinstance(values.get("model"), dict):
        values, family = _stable_audio_section(values), STABLE_AUDIO
    published: _PublishedConfig = _parse(_PublishedConfig, values, path)
    encoder, decoder = published.encoder.config, published.decoder.config
    hop = math.prod(encoder.strides)
    for what, one, other in (
        ("encoder and decoder channels", encoder.channels, decoder.channels),
        ("encoder and decoder c_mults", encoder.c_mults, decoder.c_mults),
        ("encoder and decoder strides", encoder.strides, decoder.strides),
        ("in_channels and out_channels", encoder.in_channels, decoder.out_channels),
        ("encoder latent_dim and twice the decoder's", encoder.latent_dim, 2 * decoder.latent_dim),
        ("product of the strides and downsampling_ratio", hop, published.downsampling_ratio or hop),
        ("sample_rate and the one asked for", published.sample_rate, sample_rate),
    ):
        if one != other and None not in (one, other):
            raise PublishedFormatError(f"{path}: {what} differ: {one} and {other}")
    values = {
        "sample_rate": _sample_rate(
            hop, published.sample_rate if sample_rate is None else sample_rate, path
        ),
        "audio_channels": encoder.in_channels,
        "latent_channels": decoder.latent_dim,
        "channels": encoder.channels,
        "multiples": encoder.c_mults,
        "strides": encoder.strides,
        "transformer": published.transformer
        and {
            "depth": published.transformer.depth,
            "head_channels": published.transformer.config.dim_heads,
        },
        **family,
    }
    return _parse(OobleckConfig, values, path)


def _stable_audio_section(values: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's part of a stable-audio-tools config, in the form of εar-VAE's JSON."""
    section = values["model"]
    if values.get("model_type") != "autoencoder":
        pretransform = section.get("pretransform")
        section = pretransform.get("config") if isinstance(pretransform, dict) else None
    if not isinstance(section, dict):
        return {}  # the check of the keys says what is missing
    return {**section, "sample_rate": values.get("sample_rate")}


def _parse(kind: type[BaseModel], values: Any, source: Path) -> Any:
    try:
        return parse(kind, values, str(source))
    except ConfigError as error:
        raise PublishedFormatError(str(error)) from None


# --------------------------------------------------------------------------- checks


def _check_agreement(
    config: OobleckConfig, config_path: Path, state: Mapping[str, Tensor], weights: Path
) -> None:
    """Refuse a JSON config that contradicts the weights."""
    for field, found in (_layout(state, weights) or {}).items():
        stated = getattr(config, field)
        if stated != found:
            raise PublishedFormatError(
                f"{config_path} says {field} = {stated or 'none'}, but {weights} holds "
                f"{found or 'none'}; give the config that belongs to it, or the weights alone"
            )


def _fill_in(
    state: dict[str, Tensor], config: OobleckConfig, expected: Mapping[str, torch.Size]
) -> None:
    """Add what a file may leave out: constant buffers, the second name of a shared activation."""
    if any(name.startswith("transformers.") for name in state) and config.transformer is not None:
        for name, buffer in LatentTransformer(config).named_buffers(prefix="transformers"):
            if not name.endswith("beta") or name.removesuffix("beta") + "gamma" in state:
                state.setdefault(name, buffer)
    for one, other in _unit_activations(expected) if config.shared_snake else ():
        for present, absent in ((one, other), (other, one)):
            if present in state and absent not in state:
                state[absent] = state[present]


def _check_names(
    state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], path: Path
) -> None:
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        raise PublishedFormatError(
            f"{path}: not a whole εar-VAE: {len(missing)} of {len(expected)} names missing "
            f"({_some(missing)}), {len(unexpected)} unexpected ({_some(unexpected)})"
        )
    different = [
        f"{name} is {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if state[name].shape != shape
    ]
    if different:
        raise PublishedFormatError(
            f"{path}: {len(different)} tensors of another shape than the rest implies: "
            f"{_some(different)}"
        )


def _check_values(state: dict[str, Tensor], config: OobleckConfig, path: Path) -> None:
    """Convert to float32; refuse values that this architecture cannot hold."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise PublishedFormatError(f"{path}: {name} holds {tensor.dtype}, not floating point")
        state[name] = tensor.float()
        if not state[name].isfinite().all():
            raise PublishedFormatError(f"{path}: {name} holds NaN or infinity")
    for one, other in _unit_activations(state):
        if config.shared_snake and not torch.equal(state[one], state[other]):
            raise PublishedFormatError(
                f"{path}: {one} and {other} differ; εar-VAE uses one activation in both places "
                "(Stable Audio's layout has two, and no transformer)"
            )
    if config.transformer is not None:
        ours = inverse_frequencies(config.transformer.head_channels)
        theirs = state["transformers.rotary_pos_emb.inv_freq"]
        if not torch.allclose(theirs, ours, rtol=1e-2, atol=0):  # files may be half precision
            raise PublishedFormatError(
                f"{path}: transformers.rotary_pos_emb.inv_freq is not of base 10 000 over "
                f"{config.transformer.head_channels} channels"
            )


def _unit_activations(names: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The names of each Snake parameter at the two places of a residual unit."""
    pairs = ((name, re.sub(r"\.0\.(alpha|beta)$", r".2.\1", name)) for name in names)
    return [(one, other) for one, other in pairs if one != other and other in names]


def _matches(pattern: str, names: Mapping[str, Any]) -> list[str]:
    return [match[1] for match in (re.match(pattern, name) for name in names) if match]


def _some(names: list[str]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"
