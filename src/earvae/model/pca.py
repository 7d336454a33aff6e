"""Principal components."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_components(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` strongest components of a covariance ``[n, n]``, strongest first, in float64.

    Returns orthonormal columns ``[n, count]`` and their variances ``[count]``. A column's largest
    entry is positive, so that a fit is repeatable.
    """
    variances, vectors = torch.linalg.eigh(covariance.double())
    vectors = vectors.flip(1)[:, :count]
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign(), variances.flip(0)[:count]
