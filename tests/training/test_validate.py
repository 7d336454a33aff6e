"""Validation gives one set of figures, however many ranks share its items."""

import json

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger

from earvae.config import TrainConfig
from earvae.model.posterior import Posterior
from earvae.objective.perceptual import PerceptualLoss
from earvae.training.crops import CropDataset
from earvae.training.log import RunLog
from earvae.training.set_up import set_up
from earvae.training.validate import channel_figures, channel_sums, heard_figures, validate


def one_rank(fabric, config, folder):
    state = set_up(fabric, config, folder)
    dataset = CropDataset(config.validation, config.model.sample_rate)
    objective = PerceptualLoss(config.stages[0].objective, config.model.sample_rate)
    log = RunLog(fabric, folder)
    figures = validate(fabric, log, dataset, config.validation_items, state.ema, objective, 0)
    (folder / f"rank{fabric.global_rank}.json").write_text(json.dumps(figures))


@pytest.mark.parametrize("items", [1, 5])
def test_two_ranks_measure_what_one_does_even_if_one_of_them_has_nothing(recipe, tmp_path, items):
    config = TrainConfig(**recipe | {"validation_items": items})
    for devices, strategy in ((1, "auto"), (2, "ddp_fork")):
        folder = tmp_path / strategy
        logger = TensorBoardLogger(folder, name="logs", version="")
        fabric = Fabric(accelerator="cpu", devices=devices, strategy=strategy, loggers=logger)
        fabric.launch(one_rank, config, folder)
    alone = json.loads((tmp_path / "auto" / "rank0.json").read_text())
    assert len(alone) > 10
    for rank in (0, 1):
        figures = json.loads((tmp_path / "ddp_fork" / f"rank{rank}.json").read_text())
        assert figures.keys() == alone.keys()
        for name, value in alone.items():
            assert figures[name] == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True), name


def test_items_that_buzz_are_heard_and_those_too_short_or_broken_do_not_count():
    noise = 0.1 * torch.randn(3, 2, 44_100, generator=torch.Generator().manual_seed(0))
    buzz = noise[:, :, :512].repeat(1, 1, 87)[..., :44_100]
    buzz[2] = torch.nan
    values, counted = heard_figures(buzz, noise, 44_100, 512)["repetition_4-8"]
    assert counted.tolist() == [True, True, False] and values[:2].min() > 0.8
    assert not heard_figures(noise, noise, 44_100, 512)["panning_1-2"][1].any()  # nothing is panned
    short = heard_figures(noise[..., :8000], noise[..., :8000], 44_100, 512)
    assert not any(counted.any() for _, counted in short.values())


def test_the_figures_of_latent_channels_are_those_of_numpy():
    """Over all items and frames, however they come in batches."""
    parameters = torch.randn(6, 8, 10, generator=torch.Generator().manual_seed(0))
    sums = {}
    for batch in parameters.split([4, 2]):
        for name, value in channel_sums(Posterior(batch)).items():
            sums[name] = sums[name] + value if name in sums else value
    figures = channel_figures(sums)
    means = parameters[:, :4].double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(figures["latent_mean"], means.mean(1), atol=1e-6)
    np.testing.assert_allclose(figures["latent_std"], means.std(1), atol=1e-6)
    whole = Posterior(parameters).kl_per_channel()
    np.testing.assert_allclose(figures["latent_kl"], whole, rtol=1e-5)
