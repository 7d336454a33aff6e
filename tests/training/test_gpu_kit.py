"""What tools/gpu_kit.py brings home is a run folder that the next run starts from."""

import importlib.util
from pathlib import Path

import torch

from earvae.config import TrainConfig
from earvae.training import checkpoint
from earvae.training.set_up import initial_discriminator, initial_model
from tests.training.recipes import start, state_of

TOOL = Path(__file__).parents[2] / "tools" / "gpu_kit.py"
spec = importlib.util.spec_from_file_location("gpu_kit", TOOL)
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)


def test_the_pieces_that_come_home_are_a_run_folder(staged, tmp_path, monkeypatch):
    """Joined again they give both networks, in half precision, also to a new run."""
    monkeypatch.setattr(kit, "PIECE", 20_000)
    start(staged, tmp_path / "there")
    out, home = tmp_path / "out", tmp_path / "home"
    out.mkdir()
    kit.pack_state(tmp_path / "there" / "checkpoint.pt", out)
    pieces = sorted(out.glob("state.pt.*"))
    assert len(pieces) > 1
    home.mkdir()
    (home / "checkpoint.pt").write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    there = state_of(tmp_path / "there")
    generator = checkpoint.read(home).generator()
    generator.save_pretrained(home / "ema")  # as export-weights does
    loaded = generator.state_dict()
    assert all(torch.equal(loaded[n], w.half().float()) for n, w in there["ema"].items())
    again = TrainConfig(**staged | {"initial_weights": str(home)})
    for name, weight in initial_model(again).state_dict().items():
        assert torch.equal(weight, loaded[name])
    for name, weight in initial_discriminator(again).state_dict().items():
        assert torch.equal(weight, there["discriminator"][name].half().float())
