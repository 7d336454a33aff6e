"""Files that libsndfile does not write, by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write(
    path: Path, audio: np.ndarray, rate: int, form: str, codec: str, layout: str = "stereo", **tags
) -> Path:
    """``audio`` ``[samples, channels]`` in the container ``form``, coded by ``codec``."""
    with av.open(str(path), "w", format=form) as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.time_base = Fraction(1, rate)
        if codec not in ("alac", "wavpack", "pcm_s16le"):
            stream.bit_rate = 192_000
        if codec == "wavpack":
            stream.codec_context.format = "s16p"  # of 8 bits unless told otherwise
        stream.codec_context.open(strict=False)
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate,
            frame_size=stream.codec_context.frame_size or 4096,
        )  # fmt: skip
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(audio.reshape(1, -1), np.float32), format="flt", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
    return path
