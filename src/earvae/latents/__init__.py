"""Latents on disk: their file format (``file``), their statistics and normalisation
(``statistics``), and training on them (``LatentDataset``, of ``dataset``)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earvae.latents.dataset import LatentDataset

__all__ = ["LatentDataset"]


def __getattr__(name: str) -> object:
    """``LatentDataset`` when it is first used: the files of latents need no torch."""
    if name == "LatentDataset":
        from earvae.latents.dataset import LatentDataset

        return LatentDataset
    raise AttributeError(f"module 'earvae.latents' has no attribute {name!r}")
