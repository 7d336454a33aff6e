"""Typed configuration of models, objective and training; YAML and JSON in and out.

Every default of the project lives here and only here. A file says what differs from the
defaults; an unknown key is refused by name. All classes are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from earvae import config_sizes
from earvae.config_files import Document, load, merged
from earvae.config_problems import problems
from earvae.errors import ConfigError


class Config(BaseModel):
    """Base of all configurations: immutable; unknown keys, infinity and NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _refuse(kind: str, wrong: Mapping[tuple[str | int, ...], str]) -> None:
    """Raise ValidationError if anything is wrong: by the keys that lead to it, a message."""
    problems: list[InitErrorDetails] = [
        {"type": PydanticCustomError(kind, message), "loc": place, "input": None}
        for place, message in wrong.items()
    ]
    if problems:
        raise ValidationError.from_exception_data(kind, problems)


# --------------------------------------------------------------------------- models

# Bounds far beyond any model that makes sense: a file cannot ask for a loop without end or for an
# array that no machine holds. ``MOST_NUMBERS`` bounds what they ask for together.
SampleRate = Annotated[int, Field(ge=1_000, le=1_000_000)]  # Hz
Channels = Annotated[int, Field(ge=1, le=65_536)]
Blocks = Annotated[int, Field(ge=0, le=256)]
Depth = Annotated[int, Field(ge=1, le=256)]
Frames = Annotated[int, Field(ge=1, le=4_095)]
LONGEST_HOP = 32_768  # samples
# A transform has the square of its block in numbers. A field cannot narrow the bounds of its type:
# of two on one side pydantic takes the type's. So each has a type of its own.
LappedHop = Annotated[int, Field(ge=16, le=4_096)]  # samples
Block = Annotated[int, Field(ge=8, le=4_096)]  # samples
Width = Annotated[int, Field(ge=8, le=65_536)]  # channels
HeadChannels = Annotated[int, Field(ge=2, le=4_096, multiple_of=2)]
Multiples = Annotated[tuple[Annotated[int, Field(ge=1, le=4_096)], ...], Field(max_length=16)]
Strides = Annotated[tuple[Annotated[int, Field(ge=1, le=4_096)], ...], Field(max_length=16)]
Expansion = Annotated[int, Field(ge=1, le=256)]
LatentsMean = Annotated[tuple[float, ...], Field(max_length=65_536)]
LatentsStd = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=65_536)]
MOST_NUMBERS = 2**32  # of a model: 17 GB; the paper's has 2**27


def _refuse_giant(numbers: int) -> None:
    if numbers > MOST_NUMBERS:
        raise ValueError(
            f"such a model would have {numbers / 1e9:.0f} billion parameters; make it smaller than "
            f"{MOST_NUMBERS / 1e9:.1f} billion"
        )


class TransformerConfig(Config):
    """The rotary transformer in front of the paper's decoder (docs/paper.md)."""

    depth: Depth = 2
    head_channels: HeadChannels = Field(32, description="channels per attention head")


class _ModelConfig(Config):
    """What the architectures have in common: the statistics of their latents, once measured.

    Diffusion code subtracts ``latents_mean`` and divides by ``latents_std``, as with diffusers'
    models; ``earvae stats --write`` puts them there. They tell nothing of how the model computes,
    and are no part of its identity.
    """

    latents_mean: LatentsMean | None = Field(None, description="by channel; earvae stats --write")
    latents_std: LatentsStd | None = Field(None, description="by channel; earvae stats --write")

    ADDED: ClassVar[dict[str, Any]] = {"latents_mean": None, "latents_std": None}
    """Defaults of keys that came later, which are then not written: files and identities stay what
    they were."""

    @model_validator(mode="after")
    def _check_statistics(self) -> _ModelConfig:
        given = [values for values in (self.latents_mean, self.latents_std) if values is not None]
        if given and [len(values) for values in given] != 2 * [self.latent_channels]:
            raise ValueError(
                f"latents_mean and latents_std must both be there, {self.latent_channels} numbers "
                "each, or neither"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_was_added(self, write: Any) -> dict[str, Any]:
        values = write(self)
        added = {name: values.pop(name) for name in self.ADDED if name in values}
        return values | {n: value for n, value in added.items() if value != self.ADDED[n]}

    def without_statistics(self) -> _ModelConfig:
        """The same architecture, of whose latents nothing is known."""
        return self.model_copy(update={"latents_mean": None, "latents_std": None})


class OobleckConfig(_ModelConfig):
    """The paper's convolutional architecture (147.83 M parameters with these defaults)."""

    architecture: Literal["oobleck"] = "oobleck"
    sample_rate: SampleRate = Field(44_100, description="Hz")
    audio_channels: Channels = 2
    latent_channels: Channels = 64
    channels: Channels = Field(128, description="width of the first block")
    multiples: Multiples = (1, 2, 4, 8, 16)
    strides: Strides = (2, 4, 4, 4, 8)
    transformer: TransformerConfig | None = TransformerConfig()
    shared_snake: bool = Field(
        True,
        description="a residual unit uses one activation in both places; in Stable Audio's layout "
        "it has two",
    )
    std_floor: float = Field(
        0.0,
        ge=0,
        le=1,
        description="added to the posterior's std, in place of the floor of its variance; 1e-4 in "
        "Stable Audio's layout",
    )

    ADDED: ClassVar[dict[str, Any]] = _ModelConfig.ADDED | {"shared_snake": True, "std_floor": 0.0}

    @model_validator(mode="after")
    def _check(self) -> OobleckConfig:
        if len(self.multiples) != len(self.strides):
            raise ValueError(
                f"multiples ({len(self.multiples)}) and strides ({len(self.strides)}) "
                "differ in length"
            )
        if not self.strides or min(self.strides) < 2:
            raise ValueError("strides must be at least 2: the published padding assumes it")
        if self.hop_length > LONGEST_HOP:
            raise ValueError(
                f"strides: a latent frame would be {self.hop_length} samples, more than "
                f"{LONGEST_HOP}"
            )
        if self.transformer and self.latent_channels % self.transformer.head_channels:
            raise ValueError("transformer.head_channels must divide latent_channels")
        _refuse_giant(self.numbers)
        return self

    @property
    def numbers(self) -> int:
        """About how many numbers a model saves: no fewer than it does, at most three times that."""
        return config_sizes.oobleck(self)

    @property
    def hop_length(self) -> int:
        """Samples per latent frame: the product of the strides."""
        return math.prod(self.strides)


class CompactConfig(_ModelConfig):
    """The plain small architecture: MDCT frames, ConvNeXt blocks, all trained (docs/compact.md).

    16 M parameters with these defaults.
    """

    architecture: Literal["compact"] = "compact"
    std_floor: ClassVar[float] = 0.0
    sample_rate: SampleRate = Field(44_100, description="Hz")
    audio_channels: Literal[2] = 2
    latent_channels: Channels = 64
    hop_length: LappedHop = Field(1024, description="samples per latent frame; even")
    split_hz: float = Field(
        2000.0, ge=0, le=1_000_000, description="below, blocks of a hop: finer in frequency; Hz"
    )
    short_length: Block = Field(
        256, description="samples per block above split_hz: finer in time; divides hop_length"
    )
    tones_hz: float = Field(
        4000.0, ge=0, le=1_000_000, description="up to it there are tones beside the noise; Hz"
    )
    width: Width = Field(496, description="channels of the blocks")
    expansion: Expansion = Field(3, description="hidden width of a block over its width")
    kernel: Frames = Field(7, description="frames that a block's convolution sees; odd")
    encoder_blocks: Blocks = 3
    decoder_blocks: Blocks = 5

    @model_validator(mode="after")
    def _check(self) -> CompactConfig:
        if self.hop_length % self.short_length or self.short_length % 2:
            raise ValueError("short_length must divide hop_length and be even")
        if self.latent_channels > 2 * self.hop_length:
            raise ValueError("latent_channels must not exceed 2·hop_length, the values of a frame")
        if self.kernel % 2 == 0:
            raise ValueError("kernel must be odd")
        _refuse_giant(self.numbers)
        return self

    @property
    def numbers(self) -> int:
        """About how many numbers a model saves: no fewer than it does, at most three times that."""
        return config_sizes.compact(self)


class RefinerConfig(Config):
    """The refiner of εar-VAE2: ConvNeXt blocks over decoded spectra."""

    width: Channels = 256
    hidden: Channels = Field(1024, description="hidden width of a block")
    blocks: Blocks = 12
    norm_epsilon: float = Field(1e-5, gt=0, le=1, description="of its first and last LayerNorm")


class EarVAE2Config(_ModelConfig):
    """εar-VAE2 (arXiv 2608.19843): complex spectra at 48 kHz, a latent frame of 1920 samples.

    178.36 M parameters with these defaults.
    """

    architecture: Literal["earvae2"] = "earvae2"
    std_floor: ClassVar[float] = 0.0
    sample_rate: Literal[48_000] = Field(48_000, description="Hz")
    audio_channels: Literal[2] = 2
    latent_channels: Channels = 128
    hop_length: Literal[1920] = Field(1920, description="samples per latent frame")
    channels: Channels = Field(64, description="width of the encoder's first convolution")
    decoder_channels: Channels | None = Field(
        None, description="the same of the decoder; null = twice the encoder's"
    )
    refiner: RefinerConfig | None = RefinerConfig()

    @model_validator(mode="after")
    def _check(self) -> EarVAE2Config:
        _refuse_giant(self.numbers)
        return self

    @property
    def decoder_width(self) -> int:
        """Channels of the decoder's last convolution."""
        return self.decoder_channels or 2 * self.channels

    @property
    def numbers(self) -> int:
        """About how many numbers a model saves: no fewer than it does, at most three times that."""
        return config_sizes.earvae2(self)


ModelConfig = Annotated[
    OobleckConfig | CompactConfig | EarVAE2Config,
    Field(discriminator="architecture"),
]


# --------------------------------------------------------------------------- objective

# Bounds of what a recipe may ask for, far beyond any that makes sense: what overflows poisons the
# weights, and what is endless never comes to its first step.
Factor = Annotated[float, Field(ge=0, le=1e6)]
Floor = Annotated[float, Field(ge=1e-12, le=1)]
Decibels = Annotated[float, Field(ge=-200, le=60)]
Hertz = Annotated[float, Field(gt=0, le=500_000)]
Beta = Annotated[float, Field(ge=0, lt=1)]
MOST_STEPS = 10**9
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
AnySteps = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Crops = Annotated[int, Field(ge=1, le=65_536)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LONGEST_WINDOW = 65_536  # samples
Lengths = Annotated[tuple[int, ...], Field(min_length=1, max_length=32)]  # of windows
LONGEST_CROP = 2**26  # samples
MOST_SAMPLES = 2**31  # that are held at once, and of all crops of a step


class ObjectiveWeights(Config):
    """Factor of each named term in the sum; a term of weight 0 is not computed.

    The paper (section 3) gives the KL weight only. Every raw term is of order one in value, but
    not in gradient, so equal weights do not mean equal shares (docs/objective.md).
    """

    magnitude_linear: Factor = 1.0
    magnitude_log: Factor = 1.0
    magnitude_mel: Factor = Field(0.0, description="not in the paper; log mel magnitudes")
    correlation_intra: Factor = 1.0
    correlation_inter: Factor = 1.0
    instantaneous_frequency: Factor = 0.5
    group_delay: Factor = 0.5
    waveform: Factor = Field(0.0, description="not in the paper; time domain, unweighted audio")
    kl: Factor = 1e-6
    nll: Factor = Field(
        0.0, description="not in the paper; likelihood of a compact model (model/likelihood.py)"
    )


class ObjectiveConfig(Config):
    """The perceptual objective (docs/objective.md): what is compared, and how it counts."""

    weighting: Literal["k", "a", "none"] = Field("k", description="filter ahead of spectral terms")
    resolutions: Lengths = Field(
        (4096, 2048, 1024, 512, 256, 128), description="window lengths, samples"
    )
    resolutions_per_step: int | None = Field(
        None, ge=1, description="in training, this many drawn at random each step; none = all"
    )
    magnitude_channels: Literal["mslr", "lr", "ms"] = "mslr"
    phase_channels: Literal["lr", "ms", "mslr"] = "lr"
    phase_weighting: Literal["none", "amplitude", "energy"] = Field(
        "energy",
        description="weight of a bin in correlation and phase terms: its energy, the square root "
        "of that, or none as in the authors' released losses",
    )
    phase_wrap: bool = Field(
        True,
        description="wrap differences of phase derivatives into one turn; the released losses "
        "do not",
    )
    log_floor: Floor = Field(
        1e-5, description="magnitude below which spectra are taken as silence; full scale = 1"
    )
    level_floor: Floor = Field(
        1e-4, description="smallest level a term is normalised by; full scale = 1"
    )
    weights: ObjectiveWeights = Field(
        ObjectiveWeights(), description="null = the defaults, also of what is extended"
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _defaults_for_null(cls, weights: Any) -> Any:
        return ObjectiveWeights() if weights is None else weights

    @classmethod
    def released(cls) -> ObjectiveConfig:
        """The correlation and phase losses as the authors released them (docs/paper.md).

        Their weights and window lengths are not published: weights of 1, the lengths ours.
        """
        return cls(
            resolutions=(2048, 1024, 512),
            phase_channels="lr",
            phase_weighting="none",
            phase_wrap=False,
            weights=ObjectiveWeights(
                correlation_intra=1.0,
                correlation_inter=0.0,
                instantaneous_frequency=1.0,
                group_delay=1.0,
            ),
        )

    @model_validator(mode="after")
    def _check(self) -> ObjectiveConfig:
        if len(set(self.resolutions)) != len(self.resolutions):
            raise ValueError("resolutions holds a length twice")
        _check_resolutions(self.resolutions, self.resolutions_per_step)
        return self


def _check_resolutions(lengths: Sequence[int], per_step: int | None) -> None:
    if any(not 16 <= n <= LONGEST_WINDOW or n % 4 for n in lengths):
        raise ValueError(
            f"resolutions must be multiples of 4, at least 16, at most {LONGEST_WINDOW}"
        )
    if per_step and per_step > len(lengths):
        raise ValueError("resolutions_per_step is larger than the number of resolutions")


# --------------------------------------------------------------------------- data


class AugmentationConfig(Config):
    """Random changes of training crops, each off by default and each logged as a share."""

    gain_db: tuple[Decibels, Decibels] = Field((0.0, 0.0), description="range of a random gain, dB")
    swap_channels: float = Field(0.0, ge=0, le=1, description="probability")
    flip_polarity: float = Field(0.0, ge=0, le=1, description="probability, both channels")
    mono: float = Field(0.0, ge=0, le=1, description="probability of folding both channels down")
    bass_db: tuple[Decibels, Decibels] = Field(
        (0.0, 0.0), description="range of a random first-order shelf below 150 Hz, dB"
    )
    treble_db: tuple[Decibels, Decibels] = Field(
        (0.0, 0.0), description="range of a random first-order shelf above 6 kHz, dB"
    )
    equaliser_db: float = Field(
        0.0,
        ge=0,
        le=20,
        description="a random curve, of this many dB (standard deviation) every octave",
    )
    width_db: tuple[Decibels, Decibels] = Field(
        (0.0, 0.0), description="range of a random gain of Side against Mid, dB"
    )
    mix: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of adding another crop, up to 12 dB less loud",
    )
    resample: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="most by which a crop is played faster or slower, pitch and all: 0.2 is ±20 %",
    )
    compress: float = Field(
        0.0, ge=0, le=1, description="probability of a compressor, 1.5:1 to 5:1, on both channels"
    )
    saturate: float = Field(
        0.0, ge=0, le=1, description="probability of bending loud samples by tanh"
    )
    limit: float = Field(
        0.0, ge=0, le=1, description="probability of limiting to a loudness of -14 to -7 LUFS"
    )

    @model_validator(mode="after")
    def _check(self) -> AugmentationConfig:
        for name in ("gain_db", "bass_db", "treble_db", "width_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first value must not exceed the second")
        return self


class FilterConfig(Config):
    """Which crops are good enough to train on; any other is drawn again, and counted by reason.

    Without a cache every crop is judged by itself, also for true peak and bandwidth, since nothing
    else of its track is read. With one (``DataConfig.cache``), and by ``earvae pack``, these two
    are judged over the whole track, as in the paper.
    """

    silence_db: Decibels = Field(-60.0, description="smallest peak, dB of full scale; ours")
    true_peak_db: Decibels | None = Field(
        None,
        description="largest true peak, dBTP; the paper keeps mastering clips up to +1; none = any",
    )
    bandwidth_hz: Hertz | None = Field(
        None,
        description="frequency that the spectrum must reach, for instance 14000 against lossy or "
        "resampled copies; none = any",
    )


class SourceConfig(Config):
    """One place that crops are drawn from."""

    tracks: str = Field(
        min_length=1,
        description="a folder, searched recursively; a .jsonl manifest; an audio file; or the "
        "index.json, local or remote, that `earvae pack` wrote",
    )
    split: str | None = Field(
        None,
        description="train or validation of a folder, or one of a manifest's; none = every track",
    )
    weight: float = Field(
        1.0, gt=0, le=1e6, description="share of the crops, relative to other sources"
    )


class DataConfig(Config):
    """Random crops of one or several sources of audio files."""

    sources: tuple[SourceConfig, ...] = Field(max_length=1_000)
    crop_samples: int = Field(
        65_536, ge=1, le=LONGEST_CROP, description="samples at the model's rate"
    )
    batch_size: Crops = Field(8, description="crops per device and forward pass")
    workers: int = Field(
        1, ge=0, le=1_024, description="processes that decode; 0 = in the main process"
    )
    cache: Literal["none", "ram", "device"] = Field(
        "none",
        description="where all tracks are held decoded, 4 bytes for each stereo sample, so that a "
        "crop costs no decoding: nowhere, in memory, or on the device that trains; every process "
        "holds its own. `filters` then judge true peak and bandwidth of whole tracks, as the "
        "paper does, and not of crops",
    )
    short_tracks: Literal["leave_out", "pad"] = Field(
        "leave_out",
        description="what becomes of tracks shorter than a crop; `pad` = followed by silence",
    )
    crops_per_fetch: Crops = Field(
        1,
        description="neighbouring crops that are cut from one decoded stretch of this many crops' "
        "length: less decoding, but fewer tracks in a batch. Without a cache only",
    )
    seed: Seed = 0
    filters: FilterConfig = FilterConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if not self.sources:
            raise ValueError("sources: at least one is needed")
        for name in ("batch_size", "crops_per_fetch"):
            if getattr(self, name) * self.crop_samples > MOST_SAMPLES:
                raise ValueError(f"{name}: so many crops are more than {MOST_SAMPLES} samples")
        if self.cache != "none" and self.crops_per_fetch > 1:
            raise ValueError("crops_per_fetch: nothing is fetched from a cache; leave it out")
        return self


# --------------------------------------------------------------------------- discriminator


class DiscriminatorConfig(Config):
    """The multi-scale STFT discriminator; the defaults are EnCodec's."""

    signals: Literal["lr", "ms", "mslr"] = Field(
        "lr", description="channels whose complex spectra it sees, all at once"
    )
    resolutions: Lengths = Field((2048, 1024, 512, 256, 128), description="window lengths, samples")
    channels: int = Field(32, ge=1, le=4_096, description="width of the layers")
    dilations: tuple[Annotated[int, Field(ge=1, le=4_096)], ...] = Field(
        (1, 2, 4), max_length=16, description="in time, one layer each"
    )
    compression: float = Field(
        1.0,
        gt=0,
        le=1,
        description="exponent of the magnitudes; below 1, quiet treble weighs more (ours)",
    )
    resolutions_per_step: int | None = Field(
        None, ge=1, description="this many drawn at random each step; none = all"
    )
    crop_samples: int | None = Field(
        None,
        ge=1,
        le=LONGEST_CROP,
        description="it judges a random stretch of this length of each crop; none = all",
    )

    @model_validator(mode="after")
    def _check(self) -> DiscriminatorConfig:
        _check_resolutions(self.resolutions, self.resolutions_per_step)
        return self


# --------------------------------------------------------------------------- training


class MuonConfig(Config):
    """Muon for matrices (torch's): the direction of a step has no dominant part.

    Matrices are the weights of linear layers and the kernels of convolutions but depthwise ones.
    """

    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="peak; none = AdamW's, for steps are scaled to the size of AdamW's",
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="customary")


class OptimiserConfig(Config):
    """AdamW with linear warm-up and a half-cosine decay over the steps of a stage."""

    learning_rate: float = Field(3e-4, gt=0, le=1, description="peak; the paper's")
    betas: tuple[Beta, Beta] = Field((0.5, 0.9), description="the paper's")
    weight_decay: float = Field(0.01, ge=0, le=10, description="customary; the paper is silent")
    warmup_steps: AnySteps = Field(200, description="ours")
    final_fraction: float = Field(0.05, ge=0, le=1, description="of the peak, at the end; ours")
    gradient_clip: float = Field(
        1.0, gt=0, le=1e6, description="largest norm of the whole gradient; ours"
    )
    muon: MuonConfig | None = Field(
        None, description="for the matrices in place of AdamW; none = AdamW for all"
    )


class AdversarialConfig(Config):
    """The discriminator's part in a stage: least-squares GAN and feature matching."""

    adversarial: Factor = Field(1.0, description="weight of the generator's adversarial term; ours")
    feature_matching: Factor = Field(2.0, description="weight; ours")
    optimiser: OptimiserConfig = Field(OptimiserConfig(), description="the discriminator's own")
    discriminator_only_steps: AnySteps = Field(
        0, description="first steps of the stage, in which the generator stays as it is"
    )


ADVERSARIAL = ("adversarial", "feature_matching")
"""The terms that the discriminator gives."""

OF_THE_MODEL = ("kl", "nll")  # terms that do not pass through the audio
BALANCED = (*(n for n in ObjectiveWeights.model_fields if n not in OF_THE_MODEL), *ADVERSARIAL)
"""The terms that reach the reconstruction, which can have shares of the gradient."""


class BalanceConfig(Config):
    """Weights that follow from gradients: each term gets a share of the gradient's norm.

    The terms named here are the ones that are on, with ``kl`` and ``nll``, which keep their
    weights: they do not pass through the reconstruction. Those of the discriminator wait for a
    stage that has one.
    """

    shares: dict[str, Annotated[float, Field(le=1e6)]] = Field(
        description="of each term, relative to each other; 0 turns one off that is shared"
    )
    total: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="sum of the weighted norms, of one item's gradient by its audio",
    )
    every: Steps = Field(10, description="steps between measurements")
    memory: float = Field(
        0.9, ge=0, lt=1, description="of the moving average of norms, from one to the next"
    )

    @model_validator(mode="after")
    def _check(self) -> BalanceConfig:
        for name, share in self.shares.items():
            if name not in BALANCED:
                nearest = get_close_matches(name, BALANCED, 1)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                raise ValueError(f"shares: there is no term {name}{hint}")
            if share < 0:
                raise ValueError(f"shares: {name} must not be below 0, which turns a term off")
        if not any(share for name, share in self.shares.items() if name not in ADVERSARIAL):
            raise ValueError("shares: needs a term of the objective")
        return self

    def has(self, name: str) -> bool:
        """Whether the term is on."""
        return self.shares.get(name, 0) > 0


Network = Annotated[str, Field(min_length=1, max_length=200)]


class StageConfig(Config):
    """One stage of a run. What it does not say is as the run's shared blocks say."""

    name: str = Field(min_length=1, max_length=100)
    steps: Steps = Field(description="optimiser steps")
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    balance: BalanceConfig | None = Field(
        None, description="weights from shares of the gradient; none = the weights as they stand"
    )
    shares_every: AnySteps = Field(
        50, description="steps between logs of the terms' shares of the gradient; 0 = never"
    )
    optimiser: OptimiserConfig = Field(OptimiserConfig(), description="the generator's")
    accumulate: Crops = Field(1, description="forward passes whose gradients make one step")
    only: tuple[Network, ...] = Field(
        (),
        max_length=100,
        description="networks of the model that alone are trained, by their dotted names, such as "
        "decoder.refiner; none = all",
    )
    freeze: tuple[Network, ...] = Field(
        (),
        max_length=100,
        description="networks that stay as they are, such as encoder, bit for bit",
    )
    adversarial: AdversarialConfig | None = Field(None, description="none = generator only")

    @model_validator(mode="after")
    def _check(self) -> StageConfig:
        if not self.name.isprintable():
            raise ValueError("name: holds what cannot be shown on a terminal")
        if self.accumulate * self.data.batch_size * self.data.crop_samples > MOST_SAMPLES:
            raise ValueError(f"accumulate: a step would take more than {MOST_SAMPLES} samples")
        if self.adversarial and self.adversarial.discriminator_only_steps > self.steps:
            raise ValueError("adversarial.discriminator_only_steps is larger than steps")
        if self.balance:
            self._refuse_weights()
        return self

    def _refuse_weights(self) -> None:
        """Refuse weights beside ``balance``."""
        weights = {("objective", "weights"): self.objective.weights}
        if self.adversarial:
            weights[("adversarial",)] = self.adversarial
        wrong = {}
        for place, block in weights.items():
            names = [
                name
                for name, field in type(block).model_fields.items()
                if name in BALANCED and getattr(block, name) != field.default
            ]
            if names:
                wrong[place] = (
                    f"{', '.join(names)}: of no effect beside `balance`, which has shares in place "
                    "of weights; leave it out"
                )
        _refuse("no_effect", wrong)

    def term_weights(self) -> dict[str, float]:
        """The factor of every term that is on, by name; with ``balance``, 1 until it is known."""
        weights = self.balanced_objective().weights.model_dump()
        for name in ADVERSARIAL if self.adversarial else ():
            own = getattr(self.adversarial, name)
            weights[name] = float(self.balance.has(name)) if self.balance else own
        return {name: weight for name, weight in weights.items() if weight > 0}

    def balanced_objective(self) -> ObjectiveConfig:
        """The objective with the terms on that ``balance`` names, if there is one."""
        if self.balance is None:
            return self.objective
        names = [name for name in BALANCED if name not in ADVERSARIAL]
        weights = {name: float(self.balance.has(name)) for name in names}
        kept = {name: getattr(self.objective.weights, name) for name in OF_THE_MODEL}
        weights = ObjectiveWeights(**kept, **weights)
        return self.objective.model_copy(update={"weights": weights})

    def crops(self, world_size: int) -> int:
        """Crops that one step takes from all processes together."""
        return self.data.batch_size * self.accumulate * world_size


SHARED = ("data", "objective", "balance", "shares_every", "optimiser")


class TrainConfig(Config):
    """A training run: its stages one after another (paper, section 3).

    A file may give ``data``, ``objective``, ``balance``, ``shares_every`` and ``optimiser`` once,
    beside ``stages``; every stage starts from these and says only what differs.
    """

    model: ModelConfig | None = Field(
        None,
        description="none = that of `initial_weights`; without these, the compact model's defaults",
    )
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    stages: tuple[StageConfig, ...] = Field(max_length=100)
    validation: DataConfig | None = Field(
        None, description="fixed crops to measure on; none = no validation"
    )
    initial_weights: str | None = Field(
        None,
        description="what to start from: a run folder (with its discriminator, if it has one), or "
        "any source of EarVAE.from_pretrained, or `shipped`; none = from scratch",
    )
    seed: Seed = 0
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="of the averaged weights, once there are enough; ours"
    )
    compile: bool = Field(
        False, description="torch.compile encoder, decoder, discriminator and, on a GPU, the terms"
    )
    recompute: bool = Field(
        False,
        description="compute the layers of the paper's model and of εar-VAE2 again for the "
        "gradient in place of keeping activations: less memory for a third more arithmetic",
    )
    linear_code_crops: int = Field(
        1_500,
        ge=0,
        le=10**7,
        description="training crops that a compact model's linear start is fitted on; 0 = not "
        "fitted, the lowest bins stand in",
    )
    validation_items: int = Field(32, ge=1, le=10**7, description="validation crops to measure on")
    log_every: Steps = Field(10, description="steps")
    validate_every: Steps = Field(500, description="steps")
    checkpoint_every: Steps = Field(250, description="steps")
    keep: int = Field(
        1,
        ge=1,
        le=10_000,
        description="checkpoints; above 1, the last ones are kept under their step, too",
    )
    best_by: str | None = Field(
        None,
        description="validation figure, such as validation/si_sdr, by which the best averaged "
        "weights are kept in the run's folder `best`; none = not kept",
    )
    best: Literal["highest", "lowest"] = Field("highest", description="which value is best")

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: Any) -> Any:
        """Hand the blocks given once on to every stage."""
        if not isinstance(values, dict):
            return values
        shared = {name: values[name] for name in SHARED if values.get(name) is not None}
        rest = {name: value for name, value in values.items() if name not in SHARED}
        if rest.get("model") is None and rest.get("initial_weights") is None:
            rest["model"] = CompactConfig()
        stages = rest.get("stages")
        if isinstance(stages, (list, tuple)):
            rest["stages"] = [merged(shared, stage) for stage in stages]
        return rest

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if not self.stages:
            raise ValueError("stages: at least one is needed")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("stages: a name is used twice")
        self._refuse_half_muon()
        if self.model is not None:
            self._check_crops(self.model.hop_length)
            self._check_likelihood()
        if self.validation is not None and self.validation.cache != "none":
            raise ValueError("validation.cache: crops to validate on are decoded; leave it out")
        if self.best_by is not None and self.validation is None:
            raise ValueError("best_by: needs `validation`, which gives the figures")
        return self

    def _refuse_half_muon(self) -> None:
        """Refuse Muon in some stages only: what one optimiser remembers is of no use to another."""
        blocks = {
            "optimiser": [stage.optimiser for stage in self.stages],
            "adversarial.optimiser": [
                stage.adversarial.optimiser for stage in self.stages if stage.adversarial
            ],
        }
        for name, optimisers in blocks.items():
            if len({optimiser.muon is None for optimiser in optimisers}) > 1:
                raise ValueError(f"stages: {name}.muon must be in all of them or in none")

    def _check_likelihood(self) -> None:
        """Refuse the likelihood of a model that has none."""
        if not isinstance(self.model, CompactConfig):
            wrong = {
                ("stages", i, "objective", "weights", "nll"): f"{self.model.architecture}: this "
                "architecture has no likelihood of music; leave it out, or take --recipe "
                "finetune_published"
                for i, stage in enumerate(self.stages)
                if stage.objective.weights.nll
            }
            _refuse("no_likelihood", wrong)

    def _check_crops(self, hop: int) -> None:
        """Refuse crops whose last latent frame would hold padding: it would be learnt as music."""
        crops = [(("stages", i, "data"), stage.data) for i, stage in enumerate(self.stages)]
        if self.validation is not None:
            crops.append((("validation",), self.validation))
        wrong = {}
        for place, data in crops:
            if rest := data.crop_samples % hop:
                below = data.crop_samples - rest
                sizes = f"{below} or {below + hop}" if below else f"{hop}"
                wrong[(*place, "crop_samples")] = (
                    f"{data.crop_samples} is not a whole number of latent frames of {hop} "
                    f"samples; use {sizes}"
                )
        _refuse("whole_frames", wrong)

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def adversarial(self) -> bool:
        """Whether any stage needs the discriminator."""
        return any(stage.adversarial for stage in self.stages)

    @property
    def muon(self) -> bool:
        """Whether the generator's matrices are Muon's."""
        return any(stage.optimiser.muon is not None for stage in self.stages)

    @property
    def discriminator_muon(self) -> bool:
        """Whether the discriminator's matrices are Muon's."""
        blocks = [stage.adversarial for stage in self.stages if stage.adversarial]
        return any(block.optimiser.muon is not None for block in blocks)


# --------------------------------------------------------------------------- files


def read(kind: Any, path: str | Path) -> Any:
    """Read a YAML or JSON file, and what it extends, as ``kind``. Raises ConfigError."""
    return _validated(kind, *load(path))


def parse(kind: Any, values: Any, source: str) -> Any:
    """Validate ``values`` as ``kind`` (a config class or ``ModelConfig``).

    Raises ConfigError with one line per problem, each naming ``source`` and the key.
    """
    return _validated(kind, values, [Document(source)])


def _validated(kind: Any, values: Any, documents: Sequence[Document]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        shared = SHARED if kind is TrainConfig else ()
        raise ConfigError("\n".join(problems(kind, error, values, documents, shared))) from None
    except RecursionError:
        raise ConfigError(f"{documents[0].name}: is nested too deep") from None
