"""A model as a web page: a static folder in which a browser encodes and decodes by itself.

``index.html`` and its scripts take a song, ``worker.js`` computes with the graphs of
:mod:`earvae.export.onnx` in ONNX Runtime Web, which lies in the folder too, and the player is the
listening report's. ``model.json`` says what the scripts have to know of the model.
"""

from __future__ import annotations

import html
import json
import string
from pathlib import Path

import torch

from earvae import atomic
from earvae.export.onnx import graphs
from earvae.export.web import onnxruntime_web
from earvae.export.web.onnxruntime_web import BACKENDS, Runtime
from earvae.model.vae import EarVAE
from earvae.owned import EXPORT, Owned

__all__ = ["export_web", "onnxruntime_web"]

STATIC = Path(__file__).parent / "static"
SHARED = Path(__file__).parents[2] / "evaluation" / "report" / "static"
FROM_THE_REPORT = ("player.js", "report.css", "theme.js", "timeline.js")
PAGE, MODEL, HEADERS, TRANSFORMER = "index.html", "model.json", "_headers", "transformer.onnx"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' blob: 'wasm-unsafe-eval'",
        "worker-src 'self' blob:",
        "connect-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""What the page may load and reach: its own folder, and nothing else."""
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
"""Headers with which browsers give a page threads."""

CHECK_FRAMES = 24
CHECK_FRAME = 11  # whose latents are compared
CHECK_EVERY = 97  # samples
TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2  # of the largest value


def export_web(vae: EarVAE, folder: str | Path, runtime: Runtime, half: bool = False) -> list[Path]:
    """Write the page of a model into ``folder``; the paths of the files.

    Args:
        vae: on the CPU, in float32, in evaluation mode.
        runtime: what :func:`onnxruntime_web.find` found.
        half: store weight matrices in float16. Without it, those are that lose nothing by it.

    Files appear when all are complete; those of an earlier export are replaced, files of these
    names that are not on its list are refused. Raises UnsupportedLayerError, WriteError.
    """
    folder = Path(folder)
    models = {name: m.SerializeToString() for name, m in graphs(vae, half or None).items()}
    about = _about(vae, {name: len(data) for name, data in models.items()}, runtime, half)
    scripts = {_name(name): data for name, data in runtime.files.items()}
    files: dict[str, bytes] = models | scripts | {MODEL: json.dumps(about).encode()}
    for place, names in (
        (STATIC, sorted(p.name for p in STATIC.iterdir())),
        (SHARED, FROM_THE_REPORT),
    ):
        files |= {name: (place / name).read_bytes() for name in names}
    page = string.Template(files[PAGE].decode())
    megabytes = round(sum(map(len, models.values())) / 1e6)
    files[PAGE] = page.substitute(
        policy=POLICY,
        model=vae.identity,
        latents=vae.latent_channels,
        hop=vae.hop_length,
        megabytes=megabytes,
        runtime=html.escape(runtime.version),
    ).encode()
    headers = "".join(f"  {name}: {value}\n" for name, value in ISOLATION.items())
    files[HEADERS] = f"/*\n{headers}".encode()
    owned = Owned(folder, EXPORT)
    owned.claim(*files)
    with atomic.files(folder) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
    if TRANSFORMER not in files:
        owned.remove(TRANSFORMER)
    return [folder / name for name in files]


def _name(name: str) -> str:
    """What a file of ONNX Runtime Web is called in the folder: many servers do not know that .mjs
    is a script, and browsers refuse it then."""
    return name.removesuffix(".mjs") + ".js" if name.endswith(".mjs") else name


def _about(vae: EarVAE, sizes: dict[str, int], runtime: Runtime, half: bool) -> dict:
    """The content of model.json."""
    parts = {}
    for name, size in sizes.items():
        part = name.partition(".")[0]
        context = -1 if part == "transformer" else getattr(vae, part).context_frames
        parts[part] = {"file": name, "bytes": size, "context_frames": context}
    return {
        "format": "earvae-web",
        "format_version": "1",
        "model": vae.identity,
        "architecture": vae.config.architecture,
        "sample_rate": vae.sample_rate,
        "hop_length": vae.hop_length,
        "audio_channels": vae.config.audio_channels,
        "latent_channels": vae.latent_channels,
        "tail_deficit": vae.decoder.tail_deficit,
        "parts": parts,
        "onnxruntime": {
            backend: {role: _name(name) for role, name in names.items()}
            for backend, names in BACKENDS.items()
        },
        "check": _check(vae) | {"tolerance": HALF_TOLERANCE if half else TOLERANCE},
    }


@torch.inference_mode()
def _check(vae: EarVAE) -> dict:
    """What PyTorch makes of a short signal, for browsers to compare with: a graphics driver may
    compute wrongly, and nobody would know."""
    samples = CHECK_FRAMES * vae.hop_length - vae.decoder.tail_deficit
    n = torch.arange(samples, dtype=torch.float64)
    channels = [
        0.5 * torch.sin(5e-6 * n * n + channel) for channel in range(vae.config.audio_channels)
    ]
    mean = vae.encode(torch.stack(channels).float()[None]).mode()
    audio = vae.decode(mean)[0, :, :samples:CHECK_EVERY]
    return {
        "samples": samples,
        "frame": CHECK_FRAME,
        "every": CHECK_EVERY,
        "mean": mean[0, :, CHECK_FRAME].tolist(),
        "audio": audio.T.flatten().tolist(),
    }
