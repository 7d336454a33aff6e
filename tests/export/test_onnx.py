"""The ONNX graphs and their runner give what the PyTorch model gives, at any length."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from earvae import codec
from earvae.model.posterior import Posterior
from tests.small import GOLDEN, compact, deviation, model, noise

onnx = pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
pytest.importorskip("onnxruntime", reason="the runner needs the package onnxruntime")

from earvae.export.onnx import UnsupportedLayerError, encoder_graph, export_onnx  # noqa: E402
from earvae.export.runner import Runner, RunnerError  # noqa: E402

TOLERANCE = 1e-4  # of the peak
EARVAE2 = ["tiny_earvae2_base", "tiny_earvae2"]  # without and with a refiner
MODELS = ["shipped", "tiny44k", "tiny44k_no_transformer", "tiny48k", "two_snakes", "compact"]
MODELS += EARVAE2


# --------------------------------------------------------------------------- parity


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        *((name, 1.0) for name in MODELS),
        *((name, 7.77) for name in MODELS[:4]),
        ("shipped", 61.0),
    ],
)
def test_same_as_the_pytorch_model(exported, name, seconds):
    vae, runner, _ = exported(name)
    samples = int(seconds * vae.sample_rate)
    audio = noise(samples)
    posterior = codec.encode(vae, audio)
    expected = codec.decode(vae, posterior.mode(), samples)
    mean, std = runner.encode(audio.numpy())
    decoded = runner.decode(mean, samples)
    assert decoded.shape[2] == samples
    assert deviation(mean, posterior.mean) < TOLERANCE
    assert deviation(std, posterior.std) < TOLERANCE
    assert deviation(decoded, expected) < TOLERANCE


@pytest.mark.parametrize("name", EARVAE2)
def test_graphs_give_what_the_published_code_of_earvae2_gives(exported, name):
    vae, runner, _ = exported(name)
    golden = load_file(GOLDEN / f"{name}_io.safetensors")
    latents = golden["latents"]
    mean, std = runner._run("encoder", golden["audio"].numpy(), latents.shape)
    assert deviation(mean, latents) < 1e-5
    assert deviation(std, Posterior(golden["posterior"]).std) < 1e-5
    given = golden["decoded"][..., : -vae.decoder.tail_deficit]
    (decoded,) = runner._run("decoder", latents.numpy(), given.shape)
    assert deviation(decoded, given) < 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", ["1", "hop-1", "hop", "hop+1", "40 frames"])
def test_chunked_equals_whole_for_a_batch(exported, name, length):
    vae, runner, _ = exported(name)
    hop = vae.hop_length
    samples = {"1": 1, "hop-1": hop - 1, "hop": hop, "hop+1": hop + 1}.get(length, 40 * hop - 7)
    audio = noise(samples, batch=3)
    expected = codec.reconstruct(vae, audio, chunk_frames=1000)
    assert deviation(runner.reconstruct(audio.numpy(), chunk_frames=11), expected) < TOLERANCE


def test_too_little_context_is_noticed(exported):
    """The comparison above can fail: with less context than the network needs, it does."""
    vae, _, folder = exported("tiny44k_no_transformer")
    runner = Runner(folder, threads=1)
    audio = noise(40 * vae.hop_length)
    expected = codec.reconstruct(vae, audio)
    assert deviation(runner.reconstruct(audio.numpy(), chunk_frames=11), expected) < TOLERANCE
    runner._context["decoder"] = 1
    assert deviation(runner.reconstruct(audio.numpy(), chunk_frames=11), expected) > TOLERANCE


@pytest.mark.parametrize("frames", [1, 255, 256, 257, 700])
def test_attention_by_blocks_is_full_attention(exported, frames):
    vae, runner, _ = exported("tiny44k")
    latents = torch.randn(2, 64, frames, generator=torch.Generator().manual_seed(frames))
    with torch.no_grad():
        expected = vae.transformers(latents)
    (ours,) = runner._run("transformer", latents.numpy(), latents.shape)
    assert deviation(ours, expected) < 1e-5
    assert deviation(latents, expected) > 0.01  # the transformer does something


def test_stored_noise_goes_by_the_place_in_the_file(exported):
    vae, runner, _ = exported("compact")
    latents = torch.randn(2, 8, 300, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = vae.decoder(latents)
        later = vae.decoder(latents, 7)
    (ours,) = runner._run("decoder", latents.numpy(), later.shape, 7)
    assert deviation(ours, later) < 1e-5
    assert deviation(whole, later) > 1e-3  # the noise is there


def test_one_block_per_frame_and_no_decoder_blocks(tmp_path):
    vae = compact(short_length=64, latent_channels=12, width=16, decoder_blocks=0)
    export_onnx(vae, tmp_path)
    runner = Runner(tmp_path, threads=1)
    for samples in (1, 64, 1000):
        audio = noise(samples)
        expected = codec.reconstruct(vae, audio)
        assert deviation(runner.reconstruct(audio.numpy(), 3), expected) < TOLERANCE


# --------------------------------------------------------------------------- half


def test_half_loses_nothing_of_the_shipped_weights(exported):
    vae, _, folder = exported("shipped")
    _, runner, half_folder = exported("shipped", half=True)
    audio = noise(50_000)
    expected = codec.reconstruct(vae, audio)
    assert deviation(runner.reconstruct(audio.numpy()), expected) < TOLERANCE
    for name in ("encoder.onnx", "decoder.onnx"):
        assert (half_folder / name).stat().st_size < 0.6 * (folder / name).stat().st_size


@pytest.mark.parametrize("name", ["tiny44k", "tiny_earvae2"])
def test_half_stays_close_where_weights_are_rounded(exported, name):
    vae, _, _ = exported(name)
    _, runner, _ = exported(name, half=True)
    audio = noise(20_000)
    found = deviation(runner.reconstruct(audio.numpy()), codec.reconstruct(vae, audio))
    assert TOLERANCE < found < 5e-3
    assert runner.metadata["weights"] == "float16"


# --------------------------------------------------------------------------- what a file holds


@pytest.mark.parametrize("name", ["shipped", "tiny48k"])
def test_every_file_says_what_it_is(exported, name):
    vae, runner, folder = exported(name)
    for path in folder.glob("*.onnx"):
        proto = onnx.load(path)
        found = {entry.key: entry.value for entry in proto.metadata_props}
        assert found["format"] == "earvae-onnx"
        assert found["part"] == path.stem
        assert found["model"] == vae.identity
        assert int(found["sample_rate"]) == vae.sample_rate
        assert int(found["hop_length"]) == vae.hop_length
        assert int(found["latent_channels"]) == 64
        assert int(found["tail_deficit"]) == vae.decoder.tail_deficit
        assert json.loads(found["config"])["architecture"] == vae.config.architecture
        context = {"encoder": vae.encoder.context_frames, "decoder": vae.decoder.context_frames}
        assert int(found["context_frames"]) == context.get(path.stem, -1)
        assert [opset.version for opset in proto.opset_import] == [17]
        onnx.checker.check_model(proto, full_check=True)
    assert runner.model == vae.identity
    assert runner.frames_for(12_345) == codec.frames_for(vae, 12_345)


def test_batch_and_length_are_free_and_weight_norm_is_folded(exported):
    vae, _, folder = exported("tiny44k")
    proto = onnx.load(folder / "encoder.onnx")
    (audio,) = proto.graph.input
    dimensions = [d.dim_param or d.dim_value for d in audio.type.tensor_type.shape.dim]
    assert dimensions == ["batch", 2, "samples"]
    assert [output.name for output in proto.graph.output] == ["mean", "std"]
    weights = {tensor.name for tensor in proto.graph.initializer}
    assert "encoder.layers.0.weight" in weights
    assert not [name for name in weights if name.endswith(("weight_g", "weight_v"))]
    assert "weight_g" in dict(vae.encoder.layers[0].named_parameters())  # the model stays its own


def test_an_earlier_models_transformer_does_not_stay(tmp_path):
    export_onnx(model("tiny44k"), tmp_path)
    assert (tmp_path / "transformer.onnx").is_file()
    files = export_onnx(model("tiny44k_no_transformer"), tmp_path)
    assert sorted(p for p in tmp_path.iterdir() if p.name[0] != ".") == sorted(files)
    Runner(tmp_path)


def test_a_layer_without_onnx_form_is_named():
    vae = model("tiny44k_no_transformer")
    vae.encoder.layers[2].layers[3] = nn.ELU()
    with pytest.raises(UnsupportedLayerError, match=r"encoder\.layers\.2\.layers\.3 is a ELU"):
        encoder_graph(vae)


def test_folders_that_are_no_whole_model_are_refused(tmp_path, exported):
    with pytest.raises(RunnerError, match=r"no encoder\.onnx"):
        Runner(tmp_path)
    for name, part in (("tiny44k", "encoder.onnx"), ("tiny48k", "decoder.onnx")):
        (tmp_path / part).write_bytes((exported(name)[2] / part).read_bytes())
    with pytest.raises(RunnerError, match="export both again"):
        Runner(tmp_path)
    (tmp_path / "encoder.onnx").unlink()
    with pytest.raises(RunnerError, match=r"transformer\.onnx is missing"):
        Runner(tmp_path)
    (tmp_path / "decoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(RunnerError, match="onnxruntime cannot load it"):
        Runner(tmp_path)


def test_bad_input_is_refused(exported):
    _, runner, _ = exported("shipped")
    with pytest.raises(ValueError, match="no samples"):
        runner.encode(noise(1).numpy()[..., :0])
    with pytest.raises(ValueError, match="audio must be"):
        runner.encode(noise(100).numpy()[:, :1])
    with pytest.raises(ValueError, match="cannot hold"):
        runner.decode(torch.zeros(1, 64, 3).numpy(), 4 * 1024)
