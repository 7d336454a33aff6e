"""The averaged weights that did best by one figure of a run's validations, in a folder."""

from __future__ import annotations

import difflib
import json
import math
import sys
from pathlib import Path

from lightning_fabric import Fabric

from earvae import atomic, json_files
from earvae.config import ConfigError, TrainConfig
from earvae.errors import EarvaeError, WriteError
from earvae.training.checkpoint import plain_model
from earvae.training.fsdp import gathered
from earvae.training.state import State, refuse_not_finite
from earvae.training.validate import figure_names

BEST = "best"
RECORD = "best.json"


class Best:
    """Keeps ``RUN/best`` (for ``EarVAE.from_pretrained``) by ``config.best_by``; nothing if that
    is None. ``best.json`` in it tells figure, value and step.

    Raises ConfigError for a figure that validation does not give.
    """

    def __init__(self, fabric: Fabric, config: TrainConfig, run_dir: Path) -> None:
        self._fabric, self._config = fabric, config
        self._folder = run_dir / BEST
        self._value: float | None = None
        name = config.best_by
        if name is None:
            return
        known = figure_names(config)
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.3)
            raise ConfigError(f"best_by: no figure {name!r}; the nearest are {', '.join(near)}")
        self._value = fabric.broadcast(self._recorded())

    def consider(self, state: State, figures: dict[str, float | list[float]]) -> None:
        """Keep the present averaged weights if no validation gave a better figure before.

        Raises TrainingError if they are not finite; those that were kept stay.
        """
        value = figures.get(self._config.best_by)
        if not isinstance(value, float) or not math.isfinite(value):
            return
        sign = 1 if self._config.best == "highest" else -1
        if self._value is not None and sign * value <= sign * self._value:
            return
        weights = gathered(state.ema.state_dict())  # on every rank: each may hold a part
        refuse_not_finite({"ema": weights}, state.step, self._folder)
        self._value = value
        if not self._fabric.is_global_zero:
            return
        record = {"figure": self._config.best_by, "value": value, "step": state.step}
        try:
            plain_model(self._config, weights).save_pretrained(self._folder)
            atomic.write(self._folder / RECORD, json.dumps(record) + "\n")
        except (OSError, WriteError) as error:
            print(f"{self._folder}: could not be written: {error}", file=sys.stderr)

    def _recorded(self) -> float | None:
        """The value to beat, of an earlier part of this run."""
        try:
            record = json_files.read(self._folder / RECORD)
            return float(record["value"]) if record["figure"] == self._config.best_by else None
        except (EarvaeError, ValueError, KeyError, TypeError):
            return None
