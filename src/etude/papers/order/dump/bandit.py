"""The equations of DUMP: how much each distribution can still teach, and how likely that makes it to be drawn.

    L[d] = mean |A| over the window of d         A: a rollout's advantage, mean over its tokens
    u[d] = L[d] + b sqrt(2 ln(N + 1) / (n[d] + 1)),    N = sum of n; theirs has b = 1
    p[d] = exp(u[d] / tau) / sum of exp(u / tau)

Groups' advantages sum to zero, so that the mean of A itself is always 0 and tells nothing. A group whose rewards are all equal
has |A| = 0 and counts.
Source: Wang et al. 2025, arXiv 2504.09710; authors' code ZhentingWang/DUMP at 235e85d, verl/utils/curriculum_learning.py,
which the equations were held against.
Shapes: K distributions. Our temperature is their tau, our counts n, our bonus the weight b of the second term.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.errors import BadInput


def learnability(windows: Sequence[np.ndarray], absolute: bool = True) -> np.ndarray:
    """L [K] from each distribution's recent advantages; 0 where there are none. absolute False: the mean of A, the control."""
    return np.array([float((np.abs(w) if absolute else w).mean()) if len(w) else 0.0 for w in windows])


def upper_bounds(learnabilities: np.ndarray, counts: np.ndarray, bonus: float = 1.0) -> np.ndarray:
    """u [K] from L [K] and how many rollouts of each distribution there have been, [K]."""
    counts = np.asarray(counts, dtype=np.float64)
    return learnabilities + bonus * np.sqrt(2 * np.log(counts.sum() + 1) / (counts + 1))


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of scores [K] / temperature, without overflow. An infinite temperature: all alike. Raises BadInput for one <= 0 or NaN."""
    if not temperature > 0:
        raise BadInput("temperature", repr(temperature), "a number > 0")
    weights = np.exp((scores - scores.max()) / temperature)
    return weights / weights.sum()
