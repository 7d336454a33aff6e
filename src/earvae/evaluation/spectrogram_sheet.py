"""Pictures for people: spectrograms side by side. Needs matplotlib (the eval extra)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RANGE_DB = 90.0


def spectrogram_db(audio: np.ndarray, length: int = 4096) -> np.ndarray:
    """Level in dB of ``[samples]`` audio, ``[length/2 + 1, frames]``: a full-scale sine reads 0."""
    hop = length // 4
    window = np.hanning(length + 1)[:-1]
    padded = np.pad(audio, (length // 2, length))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    spectrum = np.fft.rfft(frames * window, axis=1).T
    return 20 * np.log10(np.abs(spectrum) * 2 / window.sum() + 1e-10)


def spectrogram_comparison(signals: dict[str, np.ndarray], sample_rate: int, path: Path) -> Path:
    """Write a picture of Mid and Side of several signals, ``[2, samples]`` each; its path.

    One column a signal, under its name, and one colour scale for all.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(signals), figsize=(6 * len(signals), 6), sharex=True, sharey=True, squeeze=False
    )
    for column, (title, audio) in enumerate(signals.items()):
        mid, side = (audio[0] + audio[1]) / np.sqrt(2), (audio[0] - audio[1]) / np.sqrt(2)
        for row, (name, signal) in enumerate({"Mid": mid, "Side": side}.items()):
            image = axes[row, column].imshow(
                spectrogram_db(signal),
                origin="lower",
                aspect="auto",
                extent=(0, len(signal) / sample_rate, 0, sample_rate / 2000),
                vmin=-RANGE_DB - 10,
                vmax=-10,
                cmap="magma",
            )
            axes[row, column].set_title(f"{name}, {title}")
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz")
    for axis in axes[1]:
        axis.set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="dB of full scale", pad=0.01)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return path
