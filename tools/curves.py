"""Draw the curves of one or several runs side by side from their log.jsonl.

python tools/curves.py runs/coarse runs/twin -o curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402

PANELS = {
    "validation: objective": ("validation/total",),
    "validation: SI-SDR, dB": ("validation/si_sdr",),
    "validation: level error, dB": (
        "validation/level_1000_2000", "validation/level_4000_8000", "validation/level_8000_22050",
    ),
    "validation: repetition": ("validation/repetition_2-4", "validation/repetition_8-16"),
    "validation: evenness, dB": ("validation/evenness_2-4", "validation/evenness_8-16"),
    "validation: F1 of lines": ("validation/lines_f1_1-2", "validation/lines_f1_2-4"),
    "discriminator: mean score": ("discriminator/real_score", "discriminator/fake_score"),
    "discriminator: accuracy": ("discriminator/accuracy",),
    "generator: adversarial terms": ("raw/adversarial", "raw/feature_matching"),
    "training: log magnitude": ("raw/magnitude_log",),
    "training: phase terms": (
        "raw/correlation_intra", "raw/instantaneous_frequency", "raw/group_delay",
    ),
    "audio seconds a second": ("speed/audio_seconds_per_second",),
    "gradient norms before clipping": ("gradient_norm/generator", "gradient_norm/discriminator"),
}  # fmt: skip
SMOOTHING = 0.9  # of every curve that is logged at each step


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def smoothed(values: list[float]) -> list[float]:
    """Exponential moving average, started at the first value."""
    out, average = [], values[0]
    for value in values:
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        out.append(average)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    arguments = parser.parse_args()
    logs = {folder.name: read_log(folder) for folder in arguments.runs}
    there = {name for lines in logs.values() for line in lines for name in line}
    panels = {title: names for title, names in PANELS.items() if there & set(names)}
    columns = -(-len(panels) // 2)
    figure, axes = pyplot.subplots(2, columns, figsize=(3.75 * columns, 6), layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for number, (run, lines) in enumerate(logs.items()):
            for index, name in enumerate(names):
                points = [(d["step"], d[name]) for d in lines if d.get(name) is not None]
                if not points:
                    continue
                steps, values = zip(*points, strict=True)
                dense = not name.startswith("validation/")
                label = f"{run}: {name.split('/')[-1]}" if len(names) > 1 else run
                axis.plot(
                    steps, smoothed(list(values)) if dense else values,
                    color=f"C{number}", linestyle=("-", "--", ":")[index],
                    marker=None if dense else ".", label=label,
                )  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7)
    for axis in axes[1]:
        axis.set_xlabel("step")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=90)


if __name__ == "__main__":
    main()
