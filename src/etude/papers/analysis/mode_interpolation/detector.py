"""The detector: how much a sample's predicted clean version still moved at the end of its making.

    Hal(x) = mean over coordinates of  1/K sum_k (x0_hat[k] - mean_k x0_hat)^2        K recorded steps

Source: Aithal et al. 2024, arXiv 2406.09358, as in train_toy_filter.py of the authors' code, which keeps the samples of the
lowest scores and compares that with as many samples kept at random.
Shapes: N samples, K steps, D coordinates.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from etude.errors import BadInput


def trajectory_variance(clean: Tensor) -> Tensor:
    """Hal of each sample [N], from the predicted clean samples [N, K, ...] of the window.

    Raises BadInput for fewer than two steps or NaN.
    """
    if clean.ndim < 3 or clean.shape[1] < 2:
        raise BadInput("window", f"predictions of shape {list(clean.shape)}", "[N, K, D] with at least two steps K")
    if not bool(torch.isfinite(clean).all()):
        raise BadInput("predictions", "NaN or Inf", "finite numbers")
    return clean.double().var(1, correction=0).flatten(1).mean(1)


def keep_lowest(score: Tensor, num_kept: int) -> Tensor:
    """Indices [num_kept] of the lowest scores, in ascending order of index; ties go to the earlier sample."""
    _check(len(score), num_kept)
    return score.argsort(stable=True)[:num_kept].sort().values


def keep_random(num_samples: int, num_kept: int, rng: torch.Generator) -> Tensor:
    """Indices [num_kept] of a random subset of equal size, in ascending order: the matched control."""
    _check(num_samples, num_kept)
    return torch.randperm(num_samples, generator=rng)[:num_kept].sort().values


def num_drawn(num_kept: int, keep_fraction: float) -> int:
    """How many samples to draw so that the fraction `keep_fraction` of them is `num_kept`."""
    if not 0 < keep_fraction <= 1:
        raise BadInput("keep_fraction", repr(keep_fraction), "a share above 0 and at most 1")
    return max(num_kept, round(num_kept / keep_fraction))


def auroc(score: Tensor, bad: Tensor) -> float:
    """The chance that a bad sample scores higher than a good one (ties half): area under the ROC curve. NaN without both kinds."""
    labels = bad.numpy().astype(bool)
    ranks = rankdata(score.numpy())
    num_bad, num_good = int(labels.sum()), int((~labels).sum())
    if not num_bad or not num_good:
        return float("nan")
    return float((ranks[labels].sum() - num_bad * (num_bad + 1) / 2) / (num_bad * num_good))


def removed_at(score: Tensor, bad: Tensor, kept: float = 0.96) -> float:
    """Share of the bad samples above the threshold under which the share `kept` of the good ones lies. NaN without both kinds."""
    if not 0 < kept <= 1:
        raise BadInput("kept", repr(kept), "a share above 0 and at most 1")
    good, worse = score[~bad].numpy(), score[bad].numpy()
    if not len(good) or not len(worse):
        return float("nan")
    threshold = np.sort(good)[int(np.ceil(kept * len(good))) - 1]
    return float((worse > threshold).mean())


def _check(num_samples: int, num_kept: int) -> None:
    if not 0 < num_kept <= num_samples:
        raise BadInput("num_kept", repr(num_kept), f"from 1 to the {num_samples} samples drawn")
