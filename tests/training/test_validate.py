"""Validation gives one set of figures, however many ranks share its items."""

import json

import pytest
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger

from earvae.config import TrainConfig
from earvae.training import run as training
from earvae.training.validate import validate


def one_rank(fabric, config, folder):
    state, objective = training.set_up(fabric, config, folder)
    figures = validate(fabric, config, state.ema.module, objective, 0)
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
        assert figures == pytest.approx(alone, rel=1e-4, abs=1e-5)
