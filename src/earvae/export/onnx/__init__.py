"""A model as ONNX graphs: encoder, decoder and, where there is one, the transformer.

The graphs are written out node by node from the modules, not traced. That is quick, needs only
the ``onnx`` package whatever the version of torch, keeps batch and length dynamic everywhere, and
gives weights the names of the modules they come from. The price is that a new kind of layer needs
a function here; one that is missing is refused by name, and the tests hold the graphs to the
modules' numbers.

A folder holds

- ``encoder.onnx``: ``audio [batch, 2, samples]``, whole frames → ``mean``, ``std``
  ``[batch, latent, frames]``;
- ``transformer.onnx`` (only where the model has one): ``latents`` → ``decoder_latents`` of the same
  shape, over the whole sequence, ahead of the decoder. Memory grows with the frames, not with
  their square;
- ``decoder.onnx``: ``latents`` → ``audio [batch, 2, frames·hop − tail_deficit]``. One that adds
  noise has a second input, ``first_frame`` (int64 ``[1]``): where in their file the latents begin;
- ``runner.py``: reads and writes audio files with these three (``earvae.export.runner``).

Weight norm is folded into plain weights. :mod:`~earvae.export.onnx.graph` has the means to write
nodes, a module for each architecture its layers.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from earvae import atomic
from earvae.export import runner
from earvae.export.onnx import compact, earvae2, oobleck
from earvae.export.onnx.graph import Graph
from earvae.export.onnx.oobleck import UnsupportedLayerError
from earvae.export.standalone import standalone
from earvae.model.parts import draws_noise
from earvae.model.vae import EarVAE
from earvae.owned import EXPORT, Owned
from earvae.regular import ReadError, read_regular

__all__ = ["UnsupportedLayerError", "encoder_graph", "export_onnx", "graphs"]

RUNNER, TRANSFORMER = "runner.py", "transformer.onnx"
ARCHITECTURES = {"oobleck": oobleck, "compact": compact, "earvae2": earvae2}


def export_onnx(vae: EarVAE, folder: str | Path, half: bool = False) -> list[Path]:
    """Write a model's graphs and the runner into ``folder``; the paths of the files.

    Args:
        vae: on the CPU, in float32, weight norm not folded (its identity is of these weights).
        half: store weight matrices in float16, which halves the files. They are widened when a
            file is loaded; all computation and all audio stay float32. For weights that were kept
            in half precision anyway (the shipped model's) nothing is lost.

    Files appear when all are complete. Those of an earlier export are replaced, and its
    ``transformer.onnx`` is removed if this model has none; files of these names that are not on
    its list are refused. Raises UnsupportedLayerError, WriteError.
    """
    folder = Path(folder)
    models = graphs(vae, half)
    owned = Owned(folder, EXPORT, before=_earlier(folder))
    owned.claim(*models, RUNNER)
    with atomic.files(folder) as temporary:
        for name, model in models.items():
            onnx.save(model, temporary / name)
        (temporary / RUNNER).write_text(standalone(runner.__name__), encoding="utf-8")
    if vae.transformers is None:
        owned.remove(TRANSFORMER)
    return [folder / name for name in (*models, RUNNER)]


def graphs(vae: EarVAE, half: bool | None = False) -> dict[str, onnx.ModelProto]:
    """A model's graphs by the names of their files, with all that they say of themselves.

    ``half`` is as of :func:`export_onnx`; None stores in float16 what loses nothing by it. Raises
    UnsupportedLayerError.
    """
    parts = {"encoder": encoder_graph, "decoder": decoder_graph}
    if vae.transformers is not None:
        parts["transformer"] = transformer_graph
    properties = metadata(vae, half)
    models = {}
    for part, graph in parts.items():
        context = -1 if part == "transformer" else getattr(vae, part).context_frames
        own = {"part": part, "context_frames": str(context)}
        models[f"{part}.onnx"] = graph(vae, half).model(properties | own)
    return models


def _earlier(folder: Path) -> list[str]:
    """The names of an export from before there were lists: its runner tells."""
    try:
        text = read_regular(folder / RUNNER, 1_000_000)
    except ReadError:
        return []
    ours = f'FORMAT = "{runner.FORMAT}"'.encode() in text
    return ["encoder.onnx", "decoder.onnx", TRANSFORMER, RUNNER] if ours else []


def metadata(vae: EarVAE, half: bool | None) -> dict[str, str]:
    """What every file says of the model.

    A file adds its ``part`` and ``context_frames``, the frames that a chunk needs on each side to
    equal the whole; ``-1`` means all (the transformer). ``tail_deficit`` is how many samples the
    decoder ends short of whole frames, ``model`` is :attr:`EarVAE.identity`.
    """
    return {
        "format": runner.FORMAT,
        "format_version": runner.FORMAT_VERSION,
        "model": vae.identity,
        "architecture": vae.config.architecture,
        "sample_rate": str(vae.sample_rate),
        "hop_length": str(vae.hop_length),
        "audio_channels": str(vae.config.audio_channels),
        "latent_channels": str(vae.latent_channels),
        "tail_deficit": str(vae.decoder.tail_deficit),
        "has_transformer": str(vae.transformers is not None).lower(),
        "weights": {True: "float16", False: "float32", None: "exact"}[half],
        "config": vae.config.model_dump_json(),
    }


def encoder_graph(vae: EarVAE, half: bool | None = False) -> Graph:
    """``audio [batch, 2, frames·hop]`` → ``mean``, ``std [batch, latent, frames]``."""
    graph = Graph(vae, half)
    audio = graph.input("audio", ["batch", vae.config.audio_channels, "samples"])
    mean, scale = ARCHITECTURES[vae.config.architecture].encode(vae.encoder, audio)
    std = scale.op("Softplus")
    if vae.config.std_floor:
        std = std + vae.config.std_floor
    latents = ["batch", vae.latent_channels, "frames"]
    graph.output("mean", mean, latents)
    graph.output("std", std, latents)
    return graph


def transformer_graph(vae: EarVAE, half: bool | None = False) -> Graph:
    """``latents [batch, latent, frames]`` → ``decoder_latents`` of the same shape."""
    graph, shape = Graph(vae, half), ["batch", vae.latent_channels, "frames"]
    latents = oobleck.transformer(vae.transformers, graph.input("latents", shape))
    graph.output("decoder_latents", latents, shape)
    return graph


def decoder_graph(vae: EarVAE, half: bool | None = False) -> Graph:
    """``latents [batch, latent, frames]`` → ``audio [batch, 2, frames·hop − tail_deficit]``."""
    graph = Graph(vae, half)
    latents = graph.input("latents", ["batch", vae.latent_channels, "frames"])
    at_frame = ()
    if draws_noise(vae.decoder):
        at_frame = (graph.input(runner.FIRST_FRAME, [1], onnx.TensorProto.INT64),)
    audio = ARCHITECTURES[vae.config.architecture].decode(vae.decoder, latents, *at_frame)
    graph.output("audio", audio, ["batch", vae.config.audio_channels, "samples"])
    return graph
