"""The example of a generator: a few steps of everything, and what can be known beforehand."""

from __future__ import annotations

import csv
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from earvae.cli.main import app
from tests.small import CLIPS

pytest.importorskip("matplotlib")
FOLDER = Path(__file__).parents[2] / "examples" / "diffusion"
NAMES = ("model", "train", "sample", "excerpts", "score", "look")
TINY = ["--frames", "48", "--width", "16", "--heads", "2", "--depth", "1", "--batch", "2",
        "--every", "2", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def example(monkeypatch):
    """Its modules, whose names are too plain to be left behind."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield SimpleNamespace(**{name: import_module(name) for name in NAMES})
    for name in NAMES:
        sys.modules.pop(name)


def given(*arguments: object) -> list[str]:
    return [str(argument) for argument in arguments]


def earvae(*arguments: object) -> None:
    result = CliRunner().invoke(app, given(*arguments))
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Latents of two clips in folders of their own, which are their classes."""
    folder = tmp_path_factory.mktemp("diffusion")
    for name in ("automat", "tutorial"):
        (folder / "music" / name).mkdir(parents=True)
        shutil.copy(CLIPS / f"{name}.flac", folder / "music" / name)
    earvae("library", folder / "music", "-o", folder / "latents")
    earvae("stats", folder / "latents")
    return folder / "latents"


def test_trains_goes_on_samples_and_is_scored(example, library, tmp_path):
    def train(run: str, steps: int) -> dict[str, torch.Tensor]:
        example.train.main(given(library, library, "-o", tmp_path / run, "--steps", steps) + TINY)
        return load_file(tmp_path / run / "model.safetensors")

    straight, _, in_two = train("straight", 4), train("run", 2), train("run", 4)
    assert all(torch.equal(straight[name], in_two[name]) for name in straight)
    log = (tmp_path / "run" / "loss.csv").read_text()
    assert log == (tmp_path / "straight" / "loss.csv").read_text()
    assert [row["step"] for row in csv.DictReader(log.splitlines())] == ["2", "4"]
    assert (tmp_path / "run" / "loss.png").stat().st_size > 5000

    heard = tmp_path / "heard"
    music, run, frames = library.parent / "music", tmp_path / "run", ["--frames", "48"]
    example.excerpts.main(given(library, library, "-o", heard, "--music", music, "--count", 2)
                          + frames)  # fmt: skip
    example.sample.main(given(run, library, "-o", heard / "latents/generated", "--steps", 2,
                              "--like", heard / "latents/decoded", "--device", "cpu"))  # fmt: skip
    earvae("decode", heard / "latents", "-o", heard, "--denormalise", library)
    found = {kind: sorted(path.name for path in (heard / kind).iterdir())
             for kind in ("original", "decoded", "generated", "noise")}  # fmt: skip
    assert len(found["original"]) == 2 and len({tuple(names) for names in found.values()}) == 1
    lengths = {soundfile.info(path).frames for path in heard.glob("*/*.wav")}
    assert lengths == {48 * 1024}

    sets = {kind: torch.cat([example.score.patches(p) for p in (heard / kind).iterdir()])
            for kind in found}  # fmt: skip
    distances = {name: sum(parts) for name, parts in
                 example.score.scores(sets.pop("original"), sets).items()}  # fmt: skip
    assert distances["decoded"] < distances["noise"]  # it is the same music

    example.look.main(given(heard / "latents", run, "-o", tmp_path / "latents.png"))
    assert (tmp_path / "latents.png").stat().st_size > 5000


def test_sampling_ends_where_the_velocities_lead(example):
    goals = torch.tensor([1.5, -0.5, 0.0]).view(3, 1, 1)  # of two classes, and of any
    model = SimpleNamespace(config=SimpleNamespace(classes=("a", "b")), expanded=lambda x: x)

    class Known:
        config = model.config
        expanded = staticmethod(model.expanded)

        def __call__(self, x, time, label):
            return (goals[label] - x) / (1 - time)[:, None, None]

    noise, label = torch.randn(2, 3, 4), torch.tensor([0, 1])
    found = example.model.sample(Known(), noise, label, steps=40)
    assert torch.allclose(found, goals[label].expand(2, 3, 4), atol=0.06)
    further = example.model.sample(Known(), noise, label, steps=40, guidance=2.0)
    assert torch.allclose(further, 2 * goals[label].expand(2, 3, 4), atol=0.06)


def test_companding_is_undone_and_a_model_that_knows_nothing_has_the_error_of_white_noise(example):
    config = example.model.Config(3, 8, ("a",), width=16, heads=2, depth=1)
    transformer = example.model.Transformer(config)
    latents = torch.randn(64, 3, 8) ** 3
    transformer.measure(latents)
    small = transformer.companded(latents)
    assert torch.allclose(small.std((0, 2)), torch.ones(3), atol=0.01)
    assert torch.allclose(transformer.expanded(small), latents, rtol=1e-3, atol=1e-3)
    assert transformer.expanded(100 * small).abs().amax() <= latents.abs().max() * 1.001

    even = torch.linspace(0, 1, 1001).double()
    drawn = torch.randn(200_000).double().sigmoid()
    for name, time in {"training": drawn, "validation": even}.items():
        mean = (1 / (time**2 + (1 - time) ** 2)).mean().item()
        assert mean == pytest.approx(example.model.NOTHING_LEARNED[name], rel=2e-3)


def test_padding_counts_for_nothing(example):
    config = example.model.Config(3, 8, ("a",), width=16, heads=2, depth=1)
    transformer = example.model.Transformer(config)
    torch.nn.init.normal_(transformer.leave.weight)
    torch.nn.init.normal_(transformer.modulation.weight)
    x, noise = torch.randn(2, 1, 3, 8)
    mask = torch.arange(8)[None] < 4
    time, label = torch.tensor([0.3]), torch.tensor([0])
    found = example.model.errors(transformer, x, noise, time, label, mask)
    assert found[..., 4:].abs().max() == 0
    x[..., 4:] = noise[..., 4:] = 9.0
    again = example.model.errors(transformer, x, noise, time, label, mask)
    assert torch.allclose(found[..., :4], again[..., :4], atol=1e-5)


def test_distances_of_known_gaussians(example):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 4, generator=random).double()
    means, spread = example.score.frechet(x, 3 * x + torch.tensor([2.0, 0, 0, 0]))
    assert means == pytest.approx(4, rel=0.05)
    assert spread == pytest.approx(4 * (3 - 1) ** 2, rel=0.05)
    shares = example.score.scores(x, {"same": x, "further": x + 2})
    assert sum(shares["same"]) == pytest.approx(0, abs=1e-6)
    assert sum(shares["further"]) == pytest.approx(4, rel=0.05)


def test_levels_of_the_lower_and_the_upper_bands(example):
    levels = torch.zeros(3, 2, 64, 8)
    levels[:, :, :32] += 6
    assert example.score.louder(torch.zeros(5, 1024), levels.flatten(1)) == [6, 0]


def test_classes_are_folders(example):
    assert example.train.class_of("album/cd1/song.flac", 0) == "album"
    assert example.train.class_of("album/cd1/song.flac", 1) == "cd1"
    assert example.train.class_of("song.flac", 0) == ""
