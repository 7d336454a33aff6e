"""Any source of a model, straight down: where it lies, what form it has, (config, state).

A form of weights is a function that gives a configuration and tensors under our names, or None for
a path that is not of its form; ``_read`` asks them one after another. ``fill`` then puts the
tensors into a new model, and checks names, shapes and values alike for all. A configuration that
asks for far more than the tensors hold is refused before a model of it is built.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from earvae.config import ConfigError, ModelConfig
from earvae.errors import WeightsError
from earvae.model import diffusers, hub, published, saved
from earvae.model.weight_files import SUFFIXES, is_plain, same, some
from earvae.regular import ReadError, check_regular

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ROUGHLY = 3  # times what is there: how far an estimate of a model's size may be off
SMALL = 2**22  # numbers that are no matter

SHIPPED = Path(__file__).parent / "weights"
SHIPPED_NAME = "shipped"
AVERAGED = "ema"  # the folder of a run with its averaged weights


def load(
    source: str | Path | None = None,
    config: str | Path | None = None,
    sample_rate: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration of a model and the tensors that lie there, for :func:`fill`.

    Arguments and errors are those of ``EarVAE.from_pretrained``.
    """
    try:
        path = locate(source, revision, token)
        if not path.is_dir():
            check_regular(path)
        found, state = _read(path, config and Path(config), sample_rate)
        if sample_rate not in (None, found.sample_rate):
            raise WeightsError(
                f"{path}: says {found.sample_rate} Hz, but {sample_rate} Hz was asked for"
            )
        held = sum(tensor.numel() for tensor in state.values())
        if found.numbers > ROUGHLY * held + SMALL:
            raise WeightsError(
                f"{path}: its configuration asks for about {found.numbers} numbers, but its "
                f"weights hold {held}; they do not belong together"
            )
        return found, state
    except (ConfigError, ReadError) as error:
        raise WeightsError("; ".join(str(error).splitlines())) from None
    except OSError as error:
        raise WeightsError(f"{error.filename or source}: {error.strerror or error}") from None


def locate(
    source: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """The file or folder that ``source`` stands for, downloaded where that is of the hub.

    What lies here goes before what the hub has. Arguments and errors are those of
    ``EarVAE.from_pretrained``.
    """
    if source is None or str(source) == SHIPPED_NAME:
        path = SHIPPED
    else:
        try:
            path = Path(source).expanduser()
        except RuntimeError:
            raise WeightsError(f"{source}: there is no such user here") from None
    if not path.exists():
        return hub.download(_place(str(source), revision), token)
    if revision is not None:
        raise WeightsError(f"{path}: not of the hub, so it has no revision {revision}")
    averaged = path / AVERAGED
    if not saved.is_model(path) and saved.is_model(averaged):  # a run folder of training
        return averaged
    return path


def _place(source: str, revision: str | None) -> hub.Place:
    place = hub.place_of(source)
    if place is None:
        near = difflib.get_close_matches(source, hub.KNOWN, n=1)
        if (
            source[0].isalnum()
            and source.count("/") > 1
            and not Path(source.split("/")[0]).exists()
        ):
            near = [f"{hub.PREFIX}{source}"]  # a file of a repository, without what says so
        raise WeightsError(
            f"{source}: no such file or folder"
            + (f"; did you mean {near[0]}?" if near else
               f", and not of the hub: that is {' or '.join(hub.KNOWN)}, owner/name, {hub.FORMS}")
        )  # fmt: skip
    owner = place.repository.split("/")[0]
    if source == place.repository and Path(owner).is_dir() and revision is None:
        raise WeightsError(  # a stranger may own the name that one's own folder has
            f"{source}: no such file or folder in {owner}, which is a folder here; "
            f"{hub.PREFIX}{source} asks the hub all the same"
        )
    if revision and place.revision and revision != place.revision:
        raise WeightsError(
            f"{source}: is of revision {place.revision}, but {revision} was asked for"
        )
    return replace(place, revision=revision or place.revision)


def weight_file(path: Path) -> Path | None:
    """The file that the tensors of a located file or folder are read from, for showing it."""
    if not path.is_dir():
        return path
    names = (saved.WEIGHTS_NAME, *diffusers.WEIGHTS_NAMES)
    known = [path / part / name for part in ("", "vae") for name in names]
    other = (entry for entry in sorted(path.iterdir()) if entry.suffix in SUFFIXES)
    return next((file for file in (*known, *other) if file.is_file()), None)


def _read(
    path: Path, config_json: Path | None, sample_rate: int | None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What lies there, by the first form that it is of; published files are the last."""
    if config_json is not None:
        return published.read(path, config_json, sample_rate)
    return (
        saved.read(path)
        or diffusers.read(path)
        or diffusers.read(path / "vae")
        or published.read(path, None, sample_rate)
    )


def fill(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Put ``state`` into a model of its configuration; a tensor with two names needs one of them.

    Raises what :func:`check` raises.
    """
    first_names = saved.first_names(model)
    for name, first in first_names.items():
        for absent, present in ((name, first), (first, name)):
            if absent not in state and present in state:
                state[absent] = state[present]
    check(model, state, source)
    model.load_state_dict(state)


def check(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare ``state`` with a model of its configuration, which may lie on the meta device.

    Raises WeightsError for names that are missing or too many, other shapes, values that are not
    finite, and two values of what is one tensor.
    """
    expected = model.state_dict()
    first_names = saved.first_names(model)
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        raise WeightsError(
            f"{source}: not a whole εar-VAE: {len(missing)} of {len(expected)} names missing "
            f"({some(missing)}), {len(unexpected)} unexpected ({some(unexpected)})"
        )
    for name, own in expected.items():
        tensor = state[name]
        if tensor.shape != own.shape:
            raise WeightsError(
                f"{source}: {name} is {list(tensor.shape)} instead of {list(own.shape)}"
            )
        if tensor.dtype not in DTYPES:
            raise WeightsError(f"{source}: {name} holds {tensor.dtype}, not floating point")
        if not is_plain(tensor):
            raise WeightsError(f"{source}: {name} does not hold all its values")
        if not tensor.to(own.dtype).isfinite().all():
            raise WeightsError(
                f"{source}: {name} holds NaN or infinity, or values beyond {own.dtype}"
            )
        first = first_names[name]
        if first != name and not same(tensor, state[first]):
            raise WeightsError(
                f"{source}: {first} and {name} differ, but are one tensor in two places"
            )
