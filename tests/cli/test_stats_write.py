"""`earvae stats --write`: what latents have by channel, in the configuration of their model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from earvae import EarVAE
from earvae.cli.main import app
from earvae.latents import statistics
from tests.small import RATE, compact, white


def earvae(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture
def made(tmp_path):
    """A model's folder, and a folder of its latents."""
    compact().save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "noise.wav", white(0.5), RATE)
    out = ["-o", tmp_path / "latents", "--weights", tmp_path / "model"]
    assert earvae("library", tmp_path / "noise.wav", *out).exit_code == 0
    return tmp_path / "model", tmp_path / "latents"


def test_the_statistics_are_in_the_model_that_is_loaded_next(made):
    model, latents = made
    before = EarVAE.from_pretrained(model)
    assert before.config.latents_mean is None and "latents_mean" not in before.config.model_dump()
    done = earvae("stats", latents, "--write", model)
    assert done.exit_code == 0, done.output
    after = EarVAE.from_pretrained(model)
    measured = json.loads((latents / "latent_stats.json").read_text())
    assert list(after.config.latents_mean) == measured["mean"]
    assert list(after.config.latents_std) == measured["std"]
    assert after.identity == before.identity == measured["model"]
    known = statistics.of_config(after.config, after.identity)
    assert known.digest == measured["digest"]
    values = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    assert np.array_equal(known.normalise(values), statistics.read(latents).normalise(values))
    assert statistics.of_config(before.config, before.identity) is None


def test_a_fine_tuned_model_does_not_inherit_them(made):
    pytest.importorskip("lightning_fabric")
    from earvae.training.set_up import initial_model

    model, latents = made
    assert earvae("stats", latents, "--write", model).exit_code == 0
    given = EarVAE.from_pretrained(model).config  # as a recipe may have it under `model`
    start = SimpleNamespace(seed=0, initial_weights=str(model), model=given)
    assert initial_model(start).config == given.without_statistics() != given


@pytest.mark.parametrize("other", ["another model", "no model", "ranks", "normalised"])
def test_nothing_is_written_where_it_would_be_wrong(made, tmp_path, other):
    model, latents = made
    place, more = model, []
    if other == "another model":
        place, expected = tmp_path / "other", "but these latents are of model"
        compact(seed=1).save_pretrained(place)
    elif other == "no model":
        place, expected = tmp_path / "nothing", "nothing"
        place.mkdir()
    elif other == "ranks":
        more, expected = ["--rank", 0, "--world-size", 2], "merge those of the ranks first"
    else:
        stats = latents / "latent_stats.json"
        assert earvae("stats", latents).exit_code == 0
        out = ["-o", tmp_path / "unit", "--weights", model, "--normalise", stats]
        assert earvae("library", tmp_path / "noise.wav", *out).exit_code == 0
        latents, expected = tmp_path / "unit", "normalised already"
    done = earvae("stats", latents, "--write", place, *more)
    assert done.exit_code != 0 and expected in done.output, done.output
    assert "latents_mean" not in (model / "config.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [{"latents_mean": [0.0] * 8}, {"latents_mean": [0.0] * 8, "latents_std": [1.0] * 7},
     {"latents_mean": [0.0] * 8, "latents_std": [1.0] * 7 + [0.0]},
     {"latents_mean": [float("nan")] * 8, "latents_std": [1.0] * 8}],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_refused_by_name(tmp_path, changes):
    compact().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(Exception, match="latents_|NaN"):
        EarVAE.from_pretrained(tmp_path)
