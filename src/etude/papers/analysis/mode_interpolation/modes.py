"""Mixtures of narrow Gaussians whose support is known, and what can be said of samples against the truth.

Shapes: N samples, M modes, D coordinates, E edges. Everything is in the units that a model sees: raw points divided by the
mixture's total standard deviation. Nothing here looks at the detector's score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from etude.errors import BadInput

HALF_OF_A_CELL = (1 - math.sqrt(0.5)) / 2
"""Of a unit square, half the area lies within this distance of its border."""


@dataclass(frozen=True, eq=False)
class Modes:
    """means: [M, D] float64. sd: of each mode, the same in every coordinate."""

    means: Tensor
    sd: float

    def sample(self, num_samples: int, rng: torch.Generator) -> Tensor:
        """[num_samples, D] float32, modes in turn, so that each has its fair share to within one sample."""
        which = torch.arange(num_samples) % len(self.means)
        noise = torch.randn(num_samples, self.means.shape[1], generator=rng, dtype=torch.float64)
        return (self.means[which] + self.sd * noise).float()

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(distance [N] to the nearest mean, which one [N])."""
        distance, which = torch.cdist(x.double(), self.means).min(1)
        return distance, which


def grid(coordinates: Sequence[float], dims: int = 2, sd: float = 0.05) -> Modes:
    """A mode at every combination of the coordinates, all divided by the total standard deviation (one of all axes alike).

    The paper's: (-4, -2, 0, 2, 4) in two dimensions; (1, 2, 3) or (1, 2, 4, 5) in one (there it does not divide).
    """
    if len(set(coordinates)) < 2:
        raise BadInput("coordinates", repr(tuple(coordinates)), "at least two different numbers")
    if not sd > 0 or dims < 1:
        raise BadInput("grid", f"sd {sd!r} in {dims} dimensions", "sd > 0 and at least one dimension")
    axis = torch.tensor(sorted(coordinates), dtype=torch.float64)
    means = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
    scale = math.sqrt(sd**2 + float(axis.var(correction=0)))
    return Modes(means / scale, sd / scale)


def off_support(x: Tensor, modes: Modes, radius: float = 6.0) -> Tensor:
    """[N] bool: farther than `radius` standard deviations from every mode, where the true density is negligible.

    In two dimensions a true sample lies there with probability exp(-18) = 1.5e-8. Raises BadInput for NaN, which is
    neither near a mode nor far from one.
    """
    if not bool(torch.isfinite(x).all()):
        raise BadInput("samples", f"{int((~torch.isfinite(x)).flatten(1).any(1).sum())} with NaN or Inf", "finite samples")
    return modes.nearest(x)[0] > radius * modes.sd


def edges(modes: Modes) -> Tensor:
    """[E, 2] indices of the pairs of modes that stand next to each other along one axis of their grid."""
    found: list[tuple[int, int]] = []
    for axis in range(modes.means.shape[1]):
        others = [k for k in range(modes.means.shape[1]) if k != axis]
        lines: dict[tuple[float, ...], list[int]] = {}
        for i, mean in enumerate(modes.means.tolist()):
            lines.setdefault(tuple(mean[k] for k in others), []).append(i)
        for line in lines.values():
            line.sort(key=lambda i: float(modes.means[i, axis]))
            found.extend(pairwise(line))
    return torch.tensor(found)


def nearest_edge(x: Tensor, modes: Modes) -> tuple[Tensor, Tensor, Tensor]:
    """(distance [N] to the nearest edge, as a line from mode to mode; its number [N]; all edges' lengths [E])."""
    pairs = edges(modes)
    start, along = modes.means[pairs[:, 0]], modes.means[pairs[:, 1]] - modes.means[pairs[:, 0]]
    length = along.norm(dim=1)
    offset = x.double()[:, None] - start  # [N, E, D]
    share = ((offset * along).sum(2) / length**2).clamp(0, 1)
    distance, which = (offset - share[..., None] * along).norm(dim=2).min(1)
    return distance, which, length


def beside_edges(x: Tensor, modes: Modes) -> float:
    """Share of x [N, 2] nearer to a line between neighbouring modes of an even grid than half of the plane between them is.

    Points scattered evenly give 0.5, points at the middle of four modes (between diagonal neighbours) 0. NaN for no points.
    """
    if not len(x):
        return math.nan
    distance, _, length = nearest_edge(x, modes)
    return float((distance < HALF_OF_A_CELL * length.min()).double().mean())


def narrow_share(x: Tensor, modes: Modes) -> float:
    """Share of x [N, D] whose nearest edge is one of the shortest. NaN for no points."""
    if not len(x):
        return math.nan
    _, which, length = nearest_edge(x, modes)
    return float((length[which] < 1.01 * length.min()).double().mean())


def coverage(x: Tensor, modes: Modes, radius: float = 6.0) -> tuple[float, float, float]:
    """What filtering and recursion may lose: (share of modes kept, total variation, width), over the samples on the support.

    Kept: with at least a tenth of their fair share. Total variation: of the modes' shares from equal ones, 0 to 1.
    Width: standard deviation within modes over the true one. NaN where nothing is on the support.
    """
    distance, which = modes.nearest(x)
    near = distance <= radius * modes.sd
    if not bool(near.any()):
        return 0.0, 1.0, math.nan
    counts = np.bincount(which[near].numpy(), minlength=len(modes.means))
    shares = counts / counts.sum()
    fair = 1 / len(shares)
    width = (x[near].double() - modes.means[which[near]]).square().mean().sqrt() / modes.sd
    return float((shares >= 0.1 * fair).mean()), float(np.abs(shares - fair).sum() / 2), float(width)
