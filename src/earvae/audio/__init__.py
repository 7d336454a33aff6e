"""Audio files and streams: any format libsndfile reads, any rate, any length, in blocks.

A block is float32 ``[channels, samples]``, nominal full scale ±1. Nothing here knows the model,
and nothing holds more than a few blocks at a time.
"""

from earvae.audio.channels import downmix_matrix, to_mono, to_stereo
from earvae.audio.containers import Part
from earvae.audio.reading import (
    BLOCK_SAMPLES,
    RATES,
    AudioFileError,
    AudioInfo,
    AudioSource,
    Layout,
    inspect,
    layout_of,
    no_sound_in,
    read_audio,
    read_stretch,
    sha256_of,
)
from earvae.audio.resampling import resample, resampled_length
from earvae.audio.writing import (
    ClipPolicy,
    OutputFormat,
    OutputFormatError,
    Written,
    output_format,
    write,
)

__all__ = [
    "BLOCK_SAMPLES",
    "RATES",
    "AudioFileError",
    "AudioInfo",
    "AudioSource",
    "ClipPolicy",
    "Layout",
    "OutputFormat",
    "OutputFormatError",
    "Part",
    "Written",
    "downmix_matrix",
    "inspect",
    "layout_of",
    "no_sound_in",
    "output_format",
    "read_audio",
    "read_stretch",
    "resample",
    "resampled_length",
    "sha256_of",
    "to_mono",
    "to_stereo",
    "write",
]
