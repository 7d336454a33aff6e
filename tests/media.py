"""Files that libsndfile does not write, by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write(
    path: Path, audio: np.ndarray, rate: int, form: str, codec: str, layout: str = "stereo"
) -> Path:
    """``audio`` ``[samples, channels]`` in the container ``form``, coded by ``codec``."""
    with av.open(str(path), "w", format=form) as container:
        _add_sound(container, codec, rate, layout)(audio)
    return path


def write_video(path: Path, audio: np.ndarray | None, rate: int) -> Path:
    """A second of a black picture, in MP4, with this sound or none."""
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream("mpeg4", rate=10, width=64, height=64)
        sound = None if audio is None else _add_sound(container, "aac", rate, "stereo")
        for _ in range(10):
            black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(picture.encode(black))
        container.mux(picture.encode(None))
        if sound is not None:
            sound(audio)
    return path


def _add_sound(container, codec: str, rate: int, layout: str):
    """A soundtrack of a container; a function that encodes all of it."""
    stream = container.add_stream(codec, rate=rate, layout=layout)
    stream.time_base = Fraction(1, rate)
    if codec not in ("alac", "flac", "wavpack", "pcm_s16le"):
        stream.bit_rate = 192_000
    if codec == "wavpack":
        stream.codec_context.format = "s16p"  # of 8 bits unless told otherwise

    def encode(audio: np.ndarray) -> None:
        context = stream.codec_context
        context.open(strict=False)
        resampler = av.AudioResampler(
            format=context.format, layout=layout, rate=rate, frame_size=context.frame_size or 4096
        )
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(audio.reshape(1, -1), np.float32), format="flt", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))

    return encode
