"""A recipe on other music than its own: what ``earvae train --data`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from earvae import tracks
from earvae.config import ConfigError, SourceConfig, TrainConfig, parse
from earvae.tracks import FEWEST, TRAIN, VALIDATION
from earvae.training.sources import list_tracks

UNKNOWN_RATE = 44_100  # Hz; the lowest of any model, so that a crop is not longer than is thought


class _Place(NamedTuple):
    """One folder, manifest or index: what to train on, what to validate on."""

    train: SourceConfig
    validation: SourceConfig | None
    longest: float = 0.0  # seconds, of the tracks to validate on


def with_data(config: TrainConfig, places: Sequence[str]) -> tuple[TrainConfig, str]:
    """The configuration with ``places`` as the sources of every stage, and a line on validation.

    Places are folders, ``.jsonl`` manifests or the ``index.json`` of packs; crops come from each
    equally often. If the recipe has a validation, it is of the split of that name of a folder or
    manifest (:func:`earvae.tracks.find`); where there is none, of nothing. Crops to validate on are
    as long as those to train on where no such track holds a longer one.

    Raises ConfigError, naming the place, if one holds no music.
    """
    found = [_look_into(place, hold_out=config.validation is not None) for place in places]
    values = config.model_dump(exclude_unset=True)
    for stage in values["stages"]:
        stage["data"]["sources"] = [place.train for place in found]
    if config.validation is None:
        return parse(TrainConfig, values, "--data"), "this recipe has no validation"
    rate = config.model.sample_rate if config.model else UNKNOWN_RATE
    held = [place for place in found if place.validation is not None]
    crop = config.validation.crop_samples
    if held and crop > min(place.longest for place in held) * rate:
        crop = config.stages[0].data.crop_samples
    held_out = [place.validation for place in held if place.longest * rate >= crop]
    if not held_out:
        values["validation"] = None
        reason = "no track held out is as long as a crop" if held else _why_none(places)
        return parse(TrainConfig, values, "--data"), f"no validation: {reason}"
    values["validation"] |= {"sources": held_out, "crop_samples": crop}
    return parse(TrainConfig, values, "--data"), "validation on tracks kept out of training"


def _look_into(place: str, hold_out: bool) -> _Place:
    """What to train and to validate on. Raises what :func:`list_tracks` raises.

    Unless tracks are to be held out, a folder is trained on whole, but of a manifest still only
    what it means for training.
    """
    train = SourceConfig(tracks=place, split=TRAIN)
    validation = SourceConfig(tracks=place, split=VALIDATION)
    path = Path(place).expanduser()
    if (path.is_dir() and hold_out) or path.suffix == tracks.MANIFEST:
        if all(tracks.find([path], split=split).files for split in (TRAIN, VALIDATION)):
            list_tracks(train)
            try:
                held = list_tracks(validation)[0]
                return _Place(train, validation, max(track.duration for track in held))
            except ConfigError:  # none of them can be used
                return _Place(train, None)
    whole = SourceConfig(tracks=place)
    list_tracks(whole)
    return _Place(whole, None)


def _why_none(places: Sequence[str]) -> str:
    if any(Path(place).expanduser().is_dir() for place in places):
        return f"a folder of fewer than {FEWEST} tracks is trained on whole"
    return "only folders and manifests with a split have tracks to hold out"
