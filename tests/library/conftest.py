"""Fixtures of the library tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from earvae import tracks
from earvae.library.encode import Result, encode_library
from earvae.library.items import Library
from earvae.library.settings import Settings
from earvae.model.vae import EarVAE
from tests.library.small import RATE, geometry_of, settings_of, small_model, write_music


@pytest.fixture(scope="session")
def vae() -> EarVAE:
    return small_model()


@pytest.fixture(scope="session")
def music(tmp_path_factory) -> Path:
    """20 files of 1 ms to 1.2 s at three rates, mono and stereo, in three folders."""
    folder = tmp_path_factory.mktemp("music")
    lengths = [4410, 4410, 4410, 4411, 4600, 4700, 4800, 20_000, 53_000, 40, 64, 65, 1000, 4410,
               9000, 9050, 9900, 14_080, 14_081, 14_144]  # fmt: skip
    for number, samples in enumerate(lengths):
        name = f"{'abc'[number % 3]}/{number:02d}.{'flac' if number % 2 else 'wav'}"
        rate = (RATE, 48_000, 22_050)[number % 3] if number < 12 else RATE
        write_music(folder / name, samples, number, rate, 1 + number % 2)
    return folder


Encode = Callable[..., Result]


@pytest.fixture
def encode(vae) -> Encode:
    """Encode a folder into another: ``encode(music, out, store="sample", seed=1, rank=…)``."""

    def run(source: Path | list[Path], out: Path, model: EarVAE = vae, geometry=None, **how):
        names = Settings.__dataclass_fields__
        changes = {name: how.pop(name) for name in list(how) if name in names}
        block_items = how.pop("block_items", 7)
        files = tracks.find([source] if isinstance(source, Path) else source, out).files
        return encode_library(
            model,
            Library(files, changes.get("shard_items") or block_items),
            out,
            settings_of(model, **changes),
            geometry or geometry_of(model),
            **how,
        )

    return run
