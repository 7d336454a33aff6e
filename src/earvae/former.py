"""What earvae had before its first release and has no longer, and what to do about it."""

from __future__ import annotations

SPECTRAL = "spectral"  # an architecture, and the recipe of it
SHIPPED = "67fe72d61b90"  # the model of that architecture that came with the package
GONE = (
    f"the architecture {SPECTRAL} left earvae; commit 5e7e41c of its repository still has it, or "
    "train again with --recipe compact and encode again"
)
OPTIONS = (("linear_code_top_hz",), ("discriminator", "tile"), ("discriminator", "lowest"))
"""Of recipes, by their keys: only that architecture needed them."""


def without_options(values: object) -> object:
    """A run's configuration without OPTIONS: checkpoints of before have all of them, given or not.

    ``values`` is changed in place.
    """
    for *blocks, option in OPTIONS:
        block = values
        for name in blocks:
            block = block.get(name) if isinstance(block, dict) else None
        if isinstance(block, dict):
            block.pop(option, None)
    return values
