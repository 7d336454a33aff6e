"""The node pack for ComfyUI, imported as ComfyUI does, with stand-ins of its modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from earvae import codec
from earvae.audio import read_audio
from earvae.latents import file
from tests.small import CLIPS, compact, noise

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    """ComfyUI's modules that the nodes ask, its folders below ``tmp_path``."""
    folders = ModuleType("folder_paths")
    folders.get_output_directory = lambda: str(tmp_path)
    folders.get_input_directory = lambda: str(tmp_path)

    def place(prefix, folder):
        whole = Path(folder) / Path(prefix).parent
        whole.mkdir(parents=True, exist_ok=True)
        return str(whole), Path(prefix).name, len(list(whole.iterdir())) + 1, "", prefix

    folders.get_save_image_path = place
    management = ModuleType("comfy.model_management")
    management.get_torch_device = lambda: torch.device("cpu")
    for module in (folders, management, ModuleType("comfy")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return tmp_path


@pytest.fixture
def nodes(comfy, monkeypatch):
    """The pack's nodes by name, checked as ComfyUI's server does when it lists them."""
    init = PACK / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "earvae_pack", init, submodule_search_locations=[str(PACK)]
    )
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "earvae_pack", pack)
    spec.loader.exec_module(pack)
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in pack.NODE_CLASS_MAPPINGS.values():
        assert node.CATEGORY and node.DESCRIPTION and isinstance(node.RETURN_TYPES, tuple)
        for kind, *options in node.INPUT_TYPES()["required"].values():
            assert isinstance(kind, str) and all(isinstance(each, dict) for each in options)
        assert callable(getattr(node(), node.FUNCTION))
    return pack.NODE_CLASS_MAPPINGS


def run(node, *given):
    """What a node gives for its inputs, in their order."""
    names = node.INPUT_TYPES()["required"]
    found = getattr(node(), node.FUNCTION)(**dict(zip(names, given, strict=True)))
    return found[0] if isinstance(found, tuple) and found else found


@pytest.fixture
def model(nodes, tmp_path):
    compact().save_pretrained(tmp_path / "model")
    return run(nodes["EarVAELoad"], f" {tmp_path / 'model'} ")


def test_nothing_named_is_the_model_that_comes_along(nodes):
    assert run(nodes["EarVAELoad"], "").latent_channels == 64


def test_audio_goes_through_as_by_the_codec(nodes, model):
    audio = {"waveform": noise(30_000, 2), "sample_rate": 44_100}
    latent = run(nodes["EarVAEEncode"], model, audio, False, 0)
    assert latent["type"] == "audio" and latent["samples"].shape == (2, 8, 469)
    decoded = run(nodes["EarVAEDecode"], model, latent, False)
    assert decoded["sample_rate"] == 44_100
    assert torch.equal(decoded["waveform"], codec.reconstruct(model, audio["waveform"]))
    drawn = [run(nodes["EarVAEEncode"], model, audio, True, seed)["samples"] for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize(("channels", "rate"), [(1, 22_050), (2, 48_000)])
def test_rate_length_and_channels_come_back(nodes, model, channels, rate):
    audio = {"waveform": noise(9_999)[:, :channels], "sample_rate": rate}
    latent = run(nodes["EarVAEEncode"], model, audio, False, 0)
    decoded = run(nodes["EarVAEDecode"], model, latent, False)
    assert decoded["waveform"].shape == (1, channels, 9_999) and decoded["sample_rate"] == rate


def test_generated_latents_decode_at_full_length(nodes, model):
    latent = {"samples": torch.randn(1, 8, 10), "type": "audio"}
    decoded = run(nodes["EarVAEDecode"], model, latent, False)
    assert decoded["waveform"].shape == (1, 2, 640) and decoded["sample_rate"] == 44_100
    with pytest.raises(ValueError, match="earvae stats LATENTS --write"):
        run(nodes["EarVAEDecode"], model, latent, True)
    mean, std = tuple(range(8)), (2.0,) * 8
    model.config = model.config.model_copy(update={"latents_mean": mean, "latents_std": std})
    put_back = run(nodes["EarVAEDecode"], model, latent, True)["waveform"]
    latent["samples"] = latent["samples"] * 2 + torch.arange(8.0)[:, None]
    assert torch.equal(put_back, run(nodes["EarVAEDecode"], model, latent, False)["waveform"])


def test_what_is_saved_is_what_earvae_decode_reads(nodes, model, comfy):
    sound = read_audio(CLIPS / "automat.flac", 44_100)[None, :, :9_000]
    audio = {"waveform": sound.repeat(2, 1, 1), "sample_rate": 44_100}
    latent = run(nodes["EarVAEEncode"], model, audio, False, 0)
    run(nodes["EarVAESaveLatents"], model, latent, "sub/name")
    paths = sorted((comfy / "sub").iterdir())
    assert [path.name for path in paths] == ["name_00001_.safetensors", "name_00002_.safetensors"]
    assert file.read(paths[0]).metadata.samples == 9_000
    loaded = run(nodes["EarVAELoadLatents"], "sub/name_00002_.safetensors")
    assert loaded["earvae"] == latent["earvae"]
    assert torch.equal(loaded["samples"], latent["samples"][1:])
    assert nodes["EarVAELoadLatents"].IS_CHANGED(str(paths[0])) == paths[0].stat().st_mtime
    run(nodes["EarVAESaveLatents"], model, {"samples": torch.randn(1, 8, 10)}, "sub/made")
    assert file.read(comfy / "sub" / "made_00003_.safetensors").metadata.samples == 640


def test_what_does_not_belong_together_is_refused(nodes, model):
    latent = run(nodes["EarVAEEncode"], model, {"waveform": noise(640), "sample_rate": 44_100},
                 False, 0)  # fmt: skip
    with pytest.raises(ValueError, match="are of model .*, the one loaded is"):
        run(nodes["EarVAEDecode"], compact(seed=1), latent, False)
    with pytest.raises(ValueError, match=r"mono and stereo, .* got \[1, 6, 640\]"):
        run(nodes["EarVAEEncode"], model,
            {"waveform": torch.zeros(1, 6, 640), "sample_rate": 44_100}, False, 0)  # fmt: skip
