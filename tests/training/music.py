"""Files of noise, and data sets of them."""

import numpy as np
import soundfile
import torch

from earvae.config import DataConfig, SourceConfig
from earvae.training.crops import CropDataset
from earvae.training.loader import make_loader
from earvae.training.sources import list_tracks
from tests.small import RATE


def save(path, audio, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def dataset(*folders, **options):
    sources = tuple({"tracks": str(f)} if not isinstance(f, dict) else f for f in folders)
    return CropDataset(DataConfig(sources=sources, **{"crop_samples": 5000} | options), RATE)


def listed(path, split=None):
    return list_tracks(SourceConfig(tracks=str(path), split=split))


def joined(batches) -> dict[str, torch.Tensor]:
    batches = list(batches)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def same(one, other, rows=slice(None)):
    return one.keys() == other.keys() and all(torch.equal(one[k][rows], other[k]) for k in one)


def items(data, indices):
    return joined(make_loader(data, indices.start, indices.stop))


def within_four_deviations(count: int, of: int, share: float) -> bool:
    return abs(count - of * share) < 4 * np.sqrt(of * share * (1 - share))
