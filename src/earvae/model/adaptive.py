"""A linear code that follows the music: the best of several fixed bases, frame by frame.

One PCA basis has to serve all music. Music at one moment is narrower: a mono mix leaves Side
empty, a bass solo leaves everything else empty. So the code holds one orthonormal basis for each
of ``classes`` kinds of frames, chooses for each frame the one that keeps most of its energy,
and says which in two latents. (Clusters of data around subspaces: Bradley and Mangasarian,
"k-Plane Clustering", 2000.) docs/spectral.md has what that gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae.model.layers import Constants
from earvae.model.pca import AUDIBLE, at_unit_level, principal_components

ROUNDS = 8  # turns of each clustering; the last one gains a hundredth of a decibel
PRIOR_FRAMES = 200  # how many frames of all music each class's statistics are mixed with


class AdaptiveCode(Constants):
    """``channels`` components of frames with ``features`` values, in the best of several bases.

    All bases lie in one ``subspace`` of the frames, the strongest principal components of music,
    and are turned within themselves so that a component means about the same in each. Buffers,
    fitted once by :func:`fit_adaptive_code` and never trained:

    - ``subspace [features, subspace]`` (orthonormal columns; rows of features that it does not
      cover are zero, as are columns beyond the number of those that it does);
    - ``basis [subspace, classes·channels]`` (orthonormal columns within a class);
    - ``std [classes, channels]`` of the components, ``residual_std [classes, features]`` of what
      the code leaves, and ``explained [classes, features]``, the share of the variance that it
      keeps (0…1): each for frames of that class, at the same overall level.
    """

    subspace: Tensor
    basis: Tensor
    std: Tensor
    residual_std: Tensor
    explained: Tensor
    codewords: Tensor

    def __init__(self, features: int, channels: int, classes: int, subspace: int) -> None:
        super().__init__()
        self.channels, self.classes = channels, classes
        self.register_buffer("subspace", torch.eye(features, subspace))
        # Before a fit, class n keeps the values from the n-th on, so that no two are alike.
        unfitted = [
            torch.eye(subspace).roll(-index, dims=1)[:, :channels] for index in range(classes)
        ]
        self.register_buffer("basis", torch.cat(unfitted, dim=1))
        self.register_buffer("std", torch.ones(classes, channels))
        self.register_buffer("residual_std", torch.ones(classes, features))
        self.register_buffer("explained", torch.zeros(classes, features))
        self.register_buffer("codewords", grid(classes), persistent=False)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, frames, features]`` to latents of unit variance, ``[batch, frames,
        channels]``, and the class of each frame, one-hot ``[batch, frames, classes]``."""
        every = (frames @ self.subspace @ self.basis).unflatten(-1, (self.classes, self.channels))
        kept = every.square().sum(dim=-1)  # energy, [batch, frames, classes]
        chosen = F.one_hot(kept.argmax(dim=-1), self.classes).to(frames.dtype)
        components = (every * chosen.unsqueeze(-1)).sum(dim=-2)
        return components / (chosen @ self.std), chosen

    def decode(self, latents: Tensor, chosen: Tensor) -> Tensor:
        """Latents and classes as of :meth:`encode` to ``[batch, frames, features]``."""
        components = (latents * (chosen @ self.std)).unsqueeze(-2)
        every = (chosen.unsqueeze(-1) * components).flatten(-2)  # zero but in the chosen class
        return every @ self.basis.T @ self.subspace.T

    def points_of(self, chosen: Tensor) -> Tensor:
        """Classes, one-hot ``[…, classes]``, as latents ``[…, 2]`` within ±1.5: points
        of a square grid, where like classes are neighbours."""
        return chosen @ self.codewords

    def nearest(self, latents: Tensor) -> Tensor:
        """The classes, one-hot, whose points are nearest to latents ``[…, 2]``."""
        distance = (latents.unsqueeze(-2) - self.codewords).square().sum(dim=-1)
        return F.one_hot(distance.argmin(dim=-1), self.classes).to(latents.dtype)


def grid(classes: int) -> Tensor:
    """Points of the smallest square grid that holds ``classes``, ``[classes, 2]``, column by
    column, at most 1.5 from zero in each direction."""
    side = math.ceil(math.sqrt(classes))
    line = torch.linspace(-1.5, 1.5, side) if side > 1 else torch.zeros(1)
    index = torch.arange(classes)
    return torch.stack([line[index // side], line[index % side]], dim=1)


# ------------------------------------------------------------------------------------- fitting


@torch.no_grad()
def fit_adaptive_code(code: AdaptiveCode, batches: list[Tensor], covered: Tensor) -> None:
    """Set ``code`` to what suits excerpts of music, batches ``[batch, frames, features]``.

    Each excerpt counts the same, whatever its level; a draw has a fixed seed. The code is exactly
    zero in features that are not ``covered`` (bool ``[features]``), and leaves all of them. Raises
    ValueError where nothing is audible, or where fewer features are covered than components kept.
    """
    if int(covered.sum()) < code.channels:
        raise ValueError(
            f"the linear code has {code.channels} components, but only {int(covered.sum())} values "
            "of a frame lie in the band it may use; raise linear_code_top_hz"
        )

    def audible() -> Iterator[Tensor]:  # [frames, features]
        return (at_unit_level(frames * covered).flatten(0, 1) for frames in batches)

    covariance = sum((frames.T @ frames).double() for frames in audible())
    if not covariance.any():
        raise ValueError("no audible excerpt to fit the linear code on")
    vectors, _ = principal_components(covariance, code.subspace.shape[1])
    code.subspace.copy_(vectors * covered[:, None])
    frames = torch.cat([frames @ code.subspace for frames in audible()])
    start = _first_classes(frames, code.classes)
    bases = _subspaces(frames, start, code.classes, code.channels)
    bases = _aligned(bases)[_grid_order(frames, start, bases)]
    code.basis.copy_(bases.permute(1, 0, 2).flatten(1))
    measure_classes(code, batches)


def _shapes(frames: Tensor) -> Tensor:
    """Square roots of the share of a frame's energy in each component, ``[frames, n]``."""
    energy = frames.square()
    return (energy / energy.sum(dim=1, keepdim=True).clamp_min(1e-20)).sqrt()


def _first_classes(frames: Tensor, classes: int) -> Tensor:
    """A first class of each frame, ``[frames]``: k-means of how energy is spread."""
    shapes = _shapes(frames)
    draw = torch.Generator().manual_seed(0)
    centres = shapes[torch.randperm(len(shapes), generator=draw)[:classes]]
    for _ in range(ROUNDS):
        nearest = torch.cdist(shapes, centres).argmin(dim=1)
        member = F.one_hot(nearest, len(centres)).to(shapes.dtype)
        count = member.sum(dim=0)[:, None]
        centres = torch.where(count > 0, member.T @ shapes / count.clamp_min(1), centres)
    return nearest


def _subspaces(frames: Tensor, classes: Tensor, count: int, channels: int) -> Tensor:
    """Orthonormal bases, ``[count, n, channels]``, by turns: the best basis for each class's
    frames, then the best class for each frame. ``classes`` is where to start, changed in place.
    """
    prior = frames.T @ frames / len(frames) * PRIOR_FRAMES
    for _ in range(ROUNDS):
        bases = []
        for index in range(count):
            own = frames[classes == index]
            bases.append(torch.linalg.eigh((own.T @ own + prior).double())[1][:, -channels:])
        every = torch.stack(bases).to(frames.dtype)
        joined = every.permute(1, 0, 2).flatten(1)
        for some, best in zip(frames.split(4096), classes.split(4096), strict=True):
            kept = (some @ joined).square().unflatten(-1, (count, channels)).sum(dim=2)
            best.copy_(kept.argmax(dim=1))
    return every


def _aligned(bases: Tensor) -> Tensor:
    """Each basis turned within its span so that its components come closest to the strongest
    ones of all music, which are the first unit vectors (orthogonal Procrustes)."""
    left, _, right = torch.linalg.svd(bases[:, : bases.shape[2]].transpose(1, 2).double())
    return (bases.double() @ left @ right).to(bases.dtype)


def _grid_order(frames: Tensor, classes: Tensor, bases: Tensor) -> Tensor:
    """An order of the classes in which neighbours on the grid have spectra alike: by the first
    principal component of mean spectra over columns, by the second within each."""
    if len(bases) < 3:  # nothing to arrange
        return torch.arange(len(bases))
    member = F.one_hot(classes, len(bases)).to(frames.dtype)
    means = member.T @ _shapes(frames) / member.sum(dim=0)[:, None].clamp_min(1)
    means = means - means.mean(dim=0)
    first, second = (means @ torch.linalg.svd(means, full_matrices=False)[2][:2].T).T
    side = math.ceil(math.sqrt(len(bases)))
    columns = first.argsort().split(side)
    return torch.cat([column[second[column].argsort()] for column in columns])


@torch.no_grad()
def measure_classes(code: AdaptiveCode, batches: list[Tensor]) -> None:
    """Set the statistics of each class, over frames that the code itself gives to it.

    Batches ``[batch, frames, features]`` of excerpts, all brought to the level of the median one.
    """
    energies = torch.cat([frames.square().mean(dim=(1, 2)) for frames in batches])
    level = energies[energies > AUDIBLE].median().sqrt()
    code.std.fill_(1)
    components = kept = residual = count = torch.zeros((), dtype=torch.float64)
    for frames in (at_unit_level(frames) * level for frames in batches):
        latents, chosen = code.encode(frames)
        decoded = code.decode(latents, chosen)
        member = chosen.flatten(0, 1).T.double()  # [classes, frames]
        components = components + member @ latents.flatten(0, 1).square().double()
        kept = kept + member @ decoded.flatten(0, 1).square().double()
        residual = residual + member @ (frames - decoded).flatten(0, 1).square().double()
        count = count + member.sum(dim=1, keepdim=True)
    power = (kept + residual).sum(dim=1, keepdim=True)  # of all features, by class
    overall = power.sum() / count.sum()
    # All classes at the level of all music, mixed with the mean of all classes.
    gain = overall / (power / count.clamp_min(1)).clamp_min(1e-20)
    for square in (components, kept, residual):
        mean = (square * gain).sum(dim=0) / count.sum()
        square.copy_((square * gain + PRIOR_FRAMES * mean) / (count + PRIOR_FRAMES))
    code.std.copy_(components.clamp_min(1e-12).sqrt())
    code.residual_std.copy_(residual.clamp_min(1e-12).sqrt())
    code.explained.copy_(kept / (kept + residual).clamp_min(1e-20))
