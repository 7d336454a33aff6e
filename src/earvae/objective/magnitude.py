"""Multi-scale magnitude loss: L1 on linear plus L1 on log magnitude, on Mid, Side, Left, Right."""

from __future__ import annotations

from torch import Tensor

from earvae.objective.spectrum import power


def magnitude_terms(
    reconstruction: Tensor, target: Tensor, log_floor: float, level_floor: float
) -> dict[str, Tensor]:
    """The two magnitude terms of one resolution (paper section 3.3, after EnCodec).

    Magnitudes are sqrt(|X|^2 + log_floor^2), smooth at 0.

    Args:
        reconstruction, target: complex [batch, channels, frames, bins].
        log_floor: magnitude that counts as silence.
        level_floor: smallest mean magnitude to normalise by.
    Returns: scalars ``magnitude_linear`` (L1 over the target's mean magnitude, per item: it does
        not change with level) and ``magnitude_log`` (L1 of natural logarithms, in nepers).
    """
    ours = power(reconstruction) + log_floor**2
    theirs = power(target) + log_floor**2
    level = theirs.sqrt().mean(dim=(1, 2, 3)).clamp(min=level_floor)
    linear = (ours.sqrt() - theirs.sqrt()).abs().mean(dim=(1, 2, 3)) / level
    log = 0.5 * (ours / theirs).log().abs().mean()
    return {"magnitude_linear": linear.mean(), "magnitude_log": log}
