"""Any Python function as a system."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earvae.errors import LOG, EarvaeError
from earvae.evaluation.excerpts import SAMPLE_RATE
from earvae.evaluation.systems.system import System, UnusableSystem

RoundTrip = Callable[[np.ndarray, int], "np.ndarray | Tensor"]
"""Audio, float32 ``[2, samples]``, and its rate in Hz, to audio of the same kind and rate; an
array or a tensor on any device, of about as many samples."""


class Function(System):
    """A function as a codec (``RoundTrip``).

    What it may tell of itself stands in attributes of the function: ``kbps``,
    ``floats_per_second``, ``parameters`` (numbers for the table) and ``settings``, a dict of plain
    values that identify it. With ``settings``, earlier results of equal settings are kept; without,
    nobody can know whether it still does the same, and it is run anew each time.
    """

    def __init__(self, function: RoundTrip, name: str) -> None:
        self.function, self.name = function, name
        lines = (inspect.getdoc(function) or "").splitlines()
        place = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', name)}"
        self.description = lines[0] if lines else f"the Python function {place}"
        for key in ("kbps", "floats_per_second", "parameters"):
            setattr(self, key, getattr(function, key, None))
        own = getattr(function, "settings", None) or {"once": secrets.token_hex(16)}
        self.settings = {"codec": "python", "function": place, "settings": own}

    def round_trip(self, audio: Tensor) -> Tensor:
        with torch.inference_mode():
            made = self.function(audio.numpy().copy(), SAMPLE_RATE)
        if isinstance(made, Tensor):
            made = made.detach().float().cpu()
        else:
            made = torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))
        if made.ndim != 2 or made.shape[0] != 2 or not made.shape[1]:
            shape = " × ".join(map(str, made.shape))
            raise UnusableSystem(f"{self.name}: returned {shape or 'a number'}, not 2 × samples")
        return made


def function_of(place: str) -> RoundTrip:
    """The function at ``package.module:name`` or ``path/file.py:name``.

    Raises UnusableSystem where there is none, or where importing it fails.
    """
    module, _, name = place.rpartition(":")
    try:
        found: Any = _module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except EarvaeError:
        raise
    except AttributeError:
        raise UnusableSystem(f"{place}: there is no {name} in {module}") from None
    if not callable(found):
        raise UnusableSystem(f"{place}: is no function")
    return found


def _module(name: str) -> Any:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).expanduser()
        if not path.is_file():
            raise UnusableSystem(f"{name}: no such file")
        spec = importlib.util.spec_from_file_location(f"earvae_codec_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # as dataclasses and pickles expect
        spec.loader.exec_module(module)
        return module
    except EarvaeError:
        raise
    except ModuleNotFoundError as error:
        raise UnusableSystem(f"{name}: there is no module {error.name}") from None
    except Exception as error:  # other people's code
        LOG.debug("%s", name, exc_info=True)
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UnusableSystem(f"{name}: {type(error).__name__}: {reason}") from None
