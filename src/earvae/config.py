"""Typed configuration of models, objective and training; YAML and JSON in and out.

Every default of the project lives here and only here. A file says what differs from the
defaults; an unknown key is refused by name. All classes are frozen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line per problem."""


class Config(BaseModel):
    """Base of all configurations: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --------------------------------------------------------------------------- models


class TransformerConfig(Config):
    """The rotary transformer in front of the paper's decoder (docs/paper.md)."""

    depth: int = Field(2, ge=1)
    head_channels: int = Field(32, ge=2, description="channels per attention head")


class OobleckConfig(Config):
    """The paper's convolutional architecture (147.83 M parameters with these defaults)."""

    architecture: Literal["oobleck"] = "oobleck"
    sample_rate: int = Field(44_100, gt=0, description="Hz")
    audio_channels: int = Field(2, ge=1)
    latent_channels: int = Field(64, ge=1)
    channels: int = Field(128, ge=1, description="width of the first block")
    multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 4, 4, 8)
    transformer: TransformerConfig | None = TransformerConfig()

    @model_validator(mode="after")
    def _check(self) -> OobleckConfig:
        if len(self.multiples) != len(self.strides):
            raise ValueError(
                f"multiples ({len(self.multiples)}) and strides ({len(self.strides)}) "
                "differ in length"
            )
        if min(self.strides) < 2:
            raise ValueError("strides must be at least 2: the published padding assumes it")
        if self.transformer and self.latent_channels % self.transformer.head_channels:
            raise ValueError("transformer.head_channels must divide latent_channels")
        return self

    @property
    def hop_length(self) -> int:
        """Samples per latent frame: the product of the strides."""
        hop = 1
        for stride in self.strides:
            hop *= stride
        return hop


class SpectralConfig(Config):
    """The compact architecture: fixed MDCT frames, a protected linear code, ConvNeXt blocks."""

    architecture: Literal["spectral"] = "spectral"
    sample_rate: int = Field(44_100, gt=0, description="Hz")
    audio_channels: Literal[2] = 2
    latent_channels: int = Field(64, ge=2)
    hop_length: int = Field(1024, ge=16, description="samples per latent frame")
    mdct_length: int = Field(512, ge=8, description="samples per MDCT block; divides hop_length")
    linear_channels: int = Field(
        56, ge=1, description="latents that hold the fixed linear code of the low band"
    )
    width: int = Field(384, ge=8, description="channels of the blocks")
    expansion: int = Field(3, ge=1, description="hidden width of a block over its width")
    kernel: int = Field(7, ge=1, description="frames that a block's convolution sees; odd")
    encoder_blocks: int = Field(3, ge=0)
    decoder_blocks: int = Field(5, ge=0)
    level_frames: int = Field(
        9, ge=1, description="latent frames the local level is averaged over; odd"
    )

    @model_validator(mode="after")
    def _check(self) -> SpectralConfig:
        if self.hop_length % self.mdct_length:
            raise ValueError("mdct_length must divide hop_length")
        if self.linear_channels >= self.latent_channels:
            raise ValueError("linear_channels must be smaller than latent_channels")
        if self.kernel % 2 == 0 or self.level_frames % 2 == 0:
            raise ValueError("kernel and level_frames must be odd")
        return self


ModelConfig = Annotated[OobleckConfig | SpectralConfig, Field(discriminator="architecture")]


# --------------------------------------------------------------------------- objective


class ObjectiveWeights(Config):
    """Factor of each named term in the sum; a term of weight 0 is not computed.

    The paper (section 3) gives the KL weight only; the others are set so that each idea
    contributes about equally, as every raw term is of order one.
    """

    magnitude_linear: float = Field(1.0, ge=0)
    magnitude_log: float = Field(1.0, ge=0)
    correlation_intra: float = Field(1.0, ge=0)
    correlation_inter: float = Field(1.0, ge=0)
    instantaneous_frequency: float = Field(0.5, ge=0)
    group_delay: float = Field(0.5, ge=0)
    waveform: float = Field(
        0.0, ge=0, description="not in the paper; time domain, unweighted audio"
    )
    kl: float = Field(1e-6, ge=0)


class ObjectiveConfig(Config):
    """The perceptual objective (docs/objective.md): what is compared, and how it counts."""

    weighting: Literal["k", "a", "none"] = Field("k", description="filter ahead of spectral terms")
    resolutions: tuple[int, ...] = Field(
        (4096, 2048, 1024, 512, 256, 128), min_length=1, description="window lengths, samples"
    )
    resolutions_per_step: int | None = Field(
        None, ge=1, description="in training, this many drawn at random each step; none = all"
    )
    magnitude_channels: Literal["mslr", "lr", "ms"] = "mslr"
    phase_channels: Literal["lr", "mslr"] = "lr"
    log_floor: float = Field(
        1e-5, gt=0, description="magnitude below which spectra are taken as silence; full scale = 1"
    )
    level_floor: float = Field(
        1e-4, gt=0, description="smallest level a term is normalised by; full scale = 1"
    )
    weights: ObjectiveWeights = ObjectiveWeights()

    @model_validator(mode="after")
    def _check(self) -> ObjectiveConfig:
        if any(n < 16 or n % 4 for n in self.resolutions):
            raise ValueError("resolutions must be multiples of 4, at least 16")
        if len(set(self.resolutions)) != len(self.resolutions):
            raise ValueError("resolutions holds a length twice")
        if self.resolutions_per_step and self.resolutions_per_step > len(self.resolutions):
            raise ValueError("resolutions_per_step is larger than the number of resolutions")
        return self


# --------------------------------------------------------------------------- data


class AugmentationConfig(Config):
    """Random changes of training crops, each off by default."""

    gain_db: tuple[float, float] = Field((0.0, 0.0), description="range of a random gain, dB")
    swap_channels: float = Field(0.0, ge=0, le=1, description="probability")
    flip_polarity: float = Field(0.0, ge=0, le=1, description="probability, both channels")
    bass_db: tuple[float, float] = Field(
        (0.0, 0.0), description="range of a random first-order shelf below 150 Hz, dB"
    )
    limit: float = Field(
        0.0, ge=0, le=1, description="probability of driving the crop loud into a soft limiter"
    )

    @model_validator(mode="after")
    def _check(self) -> AugmentationConfig:
        for name in ("gain_db", "bass_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first value must not exceed the second")
        return self


class DataConfig(Config):
    """Random crops of a folder of audio files, or of a manifest (``earvae corpus`` makes one)."""

    tracks: str = Field(description="a folder, searched recursively, or a .jsonl manifest")
    split: str | None = Field(None, description="of a manifest; none = every track")
    crop_samples: int = Field(65_536, ge=1, description="samples at the model's rate")
    batch_size: int = Field(8, ge=1, description="crops per device and step")
    workers: int = Field(1, ge=0, description="processes that decode; 0 = in the main process")
    silence_db: float = Field(
        -60.0, description="a crop whose peak is below this (dB of full scale) is drawn again"
    )
    seed: int = Field(0, ge=0)
    augmentation: AugmentationConfig = AugmentationConfig()


# --------------------------------------------------------------------------- training


class OptimiserConfig(Config):
    """AdamW with linear warm-up and a half-cosine decay."""

    learning_rate: float = Field(3e-4, gt=0, description="peak; the paper's")
    betas: tuple[float, float] = Field((0.5, 0.9), description="the paper's")
    weight_decay: float = Field(0.01, ge=0, description="customary; the paper is silent")
    warmup_steps: int = Field(200, ge=0, description="ours")
    final_fraction: float = Field(0.05, ge=0, le=1, description="of the peak, at the end; ours")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient; ours")


class TrainConfig(Config):
    """A generator-only training run (the paper's stage 1)."""

    model: ModelConfig = SpectralConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    data: DataConfig
    validation: DataConfig | None = Field(
        None, description="fixed crops to measure on; none = no validation"
    )
    optimiser: OptimiserConfig = OptimiserConfig()
    initial_weights: str | None = Field(
        None, description="any source of EarVAE.from_pretrained to start from; none = from scratch"
    )
    steps: int = Field(10_000, ge=1)
    seed: int = Field(0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the averaged weights; ours")
    linear_code_crops: int = Field(
        1_500, ge=1, description="training crops the compact model's linear code is fitted on"
    )
    validation_items: int = Field(32, ge=1, description="validation crops to measure on")
    log_every: int = Field(10, ge=1, description="steps")
    validate_every: int = Field(500, ge=1, description="steps")
    checkpoint_every: int = Field(250, ge=1, description="steps")


# --------------------------------------------------------------------------- files


def parse(kind: Any, values: Any, source: str) -> Any:
    """Validate ``values`` as ``kind`` (a config class or ``ModelConfig``).

    Raises ConfigError with one line per problem, each naming ``source`` and the key.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
            lines.append(f"{source}: {key}: {problem['msg']}")
        raise ConfigError("\n".join(lines)) from None


def read(kind: Any, path: str | Path) -> Any:
    """Read a YAML or JSON file as ``kind``. Raises ConfigError or OSError."""
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from None
    return parse(kind, values or {}, str(path))
