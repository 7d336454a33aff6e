"""A recipe on other music than its own: what ``earvae train --data`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from earvae.config import SourceConfig, TrainConfig, parse
from earvae.training.data import Track, list_tracks, manifest_splits
from earvae.training.held_out import FEWEST, TRAIN, VALIDATION, held_out

UNKNOWN_RATE = 44_100  # Hz; the lowest of any model, so that a crop is not longer than is thought


class _Place(NamedTuple):
    """One folder, manifest or index: what to train on, what to validate on."""

    train: SourceConfig
    validation: SourceConfig | None
    longest: float = 0.0  # seconds, of the tracks to validate on


def with_data(config: TrainConfig, places: Sequence[str]) -> tuple[TrainConfig, str]:
    """The configuration with ``places`` as the sources of every stage, and a line on validation.

    Places are folders, ``.jsonl`` manifests or the ``index.json`` of shards; crops come from each
    equally often. If the recipe has a validation, it is of the tracks of a folder that
    :func:`~earvae.training.held_out.held_out` keeps out of training, or of a manifest's own split;
    where there are none, of nothing. Crops to validate on are as long as those to train on where
    no such track holds a longer one.

    Raises ConfigError, naming the place, if one holds no music.
    """
    found = [_look_into(place) for place in places]
    values = config.model_dump(exclude_unset=True)
    sources = [_plain(place.train if config.validation else _whole(place)) for place in found]
    for stage in values["stages"]:
        stage["data"]["sources"] = sources
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
    values["validation"] |= {"sources": [_plain(s) for s in held_out], "crop_samples": crop}
    return parse(TrainConfig, values, "--data"), "validation on tracks kept out of training"


def _look_into(place: str) -> _Place:
    whole = SourceConfig(tracks=place)
    train = SourceConfig(tracks=place, split=TRAIN)
    validation = SourceConfig(tracks=place, split=VALIDATION)
    path = Path(place).expanduser()
    if path.suffix == ".jsonl" and {TRAIN, VALIDATION} <= manifest_splits(path):
        list_tracks(train)
        return _Place(train, validation, _longest(list_tracks(validation)[0]))
    tracks, _ = list_tracks(whole)
    if not path.is_dir():
        return _Place(whole, None)
    held = held_out([track.path for track in tracks], path)
    if not any(held):
        return _Place(train, None)
    return _Place(
        train, validation, _longest([t for t, out in zip(tracks, held, strict=True) if out])
    )


def _longest(tracks: Sequence[Track]) -> float:
    return max(track.duration for track in tracks)


def _whole(place: _Place) -> SourceConfig:
    """All tracks of a folder; of a manifest still only those meant for training."""
    is_folder = Path(place.train.tracks).expanduser().is_dir()
    return SourceConfig(tracks=place.train.tracks) if is_folder else place.train


def _plain(source: SourceConfig) -> dict:
    return source.model_dump(exclude_unset=True)


def _why_none(places: Sequence[str]) -> str:
    if any(Path(place).expanduser().is_dir() for place in places):
        return f"a folder of fewer than {FEWEST} tracks is trained on whole"
    return "only folders and manifests with a split have tracks to hold out"
