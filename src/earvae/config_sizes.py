"""How large a model is, by its configuration alone: known before anything is allocated.

Counts of the numbers that a model saves: never fewer than it does, and at most three times as
many.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earvae.config import CompactConfig, EarVAE2Config, OobleckConfig


def oobleck(config: OobleckConfig) -> int:
    """About how many numbers a model of the paper's architecture saves."""
    widths = [config.channels, *(config.channels * multiple for multiple in config.multiples)]
    total = (14 * config.audio_channels + 4) * widths[0]
    for (narrow, wide), stride in zip(pairwise(widths), config.strides, strict=True):
        units = 3 * (8 * narrow**2 + 8 * narrow)
        total += 2 * (units + 2 * stride * narrow * wide + 6 * (narrow + wide))
    latent = config.latent_channels
    total += (13 * latent + 10) * widths[-1] + 6 * latent
    if config.transformer:
        total += config.transformer.depth * (16 * latent**2 + 16 * latent)
        total += config.transformer.head_channels
    return total


def compact(config: CompactConfig) -> int:
    """About how many numbers a compact model saves."""
    features, latent, width = 2 * config.hop_length, config.latent_channels, config.width
    block = 2 * config.expansion * width**2 + (config.kernel + config.expansion + 6) * width
    # As if a frame had as many levels as features; it has fewer, in up to three layers.
    ends = 5 * features * width + 5 * (latent + 1) * width + 2 * features + 2 * latent
    long_bins = 2 * config.split_hz / config.sample_rate * config.hop_length + 1
    tones = 8 * min(round(long_bins), config.hop_length)  # four to a bin of Mid and of Side
    high_bins = 2 * config.tones_hz / config.sample_rate * config.hop_length
    high_bins = min(high_bins, config.hop_length) - long_bins + 2  # half a bin more at both ends
    if config.tones_hz > config.split_hz:  # two to a bin
        tones += 4 * max(0, math.ceil(high_bins))
    overlap = 8 * config.hop_length // config.short_length  # four bins of every short block
    more = (tones + 5 * overlap) * (width + 1) + 2 * features * latent
    return (config.encoder_blocks + config.decoder_blocks) * block + ends + more


def earvae2(config: EarVAE2Config) -> int:
    """About how many numbers a model of εar-VAE2 saves."""
    widths = (config.channels, config.decoder_width)
    total = sum(8_400 * width**2 + 2_600 * width + 3_000 for width in widths)
    total += 170 * config.latent_channels * sum(widths) + 8 * config.latent_channels
    if refiner := config.refiner:
        total += (7 * 960 + 540) * refiner.width + 600
        total += refiner.blocks * (2 * refiner.hidden + 16) * refiner.width
        total += refiner.blocks * refiner.hidden
    return total
