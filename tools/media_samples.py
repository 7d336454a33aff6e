"""A clip as M4A, WebM, WMA and as a video, for trying what reads them; needs PyAV.

    python tools/media_samples.py tests/clips/automat.flac phone/

writes song.flac (a copy), song.m4a, song.webm, song.wma and video.mp4 into the folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import media  # noqa: E402


def main(clip: Path, folder: Path) -> None:
    """Write the files."""
    audio, rate = soundfile.read(clip, dtype="float32", always_2d=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(clip, folder / "song.flac")
    media.write(folder / "song.m4a", audio, rate, "ipod", "aac")
    media.write(folder / "song.webm", soxr.resample(audio, rate, 48_000), 48_000, "webm", "libopus")
    media.write(folder / "song.wma", audio, rate, "asf", "wmav2")
    media.write_video(folder / "video.mp4", audio, rate)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
