"""The equations of Skill-It: what is drawn, and who helps whom.

    p[i] ~ exp(eta * sum_j A[i, j] * L[j])          L: the evaluation losses, summed over the last checks
    A[i, i] = 1;  A[i, j] = 1/2 where i helps j     by pairs: half of i with half of j ends with less loss on j than j alone
    A[i, j] = max(0, (L0[j] - Li[j]) / L0[j])       alone: the share of j's loss that training on i alone takes away

Every update starts from the even prior again: nothing is compounded beyond the window of losses.
Source: Chen et al. 2023, arXiv 2307.14430, algorithm 1; authors' code HazyResearch/skill-it at 807b3bf, trainer/mw_trainer.py, which
the weights were held against. It holds no code that learns a graph: pairs are as its README says, and "alone" is our reading of the
graphs in its ni_graphs (shares of a loss, none below 0).
Shapes: K skills trained on, M measured. Their k is our K, their m our M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from etude.engine.arguments import shown
from etude.errors import BadInput

HELPS = 0.5
"""The weight of an edge between two skills."""


def mixture(graph: np.ndarray, losses: np.ndarray, eta: float) -> np.ndarray:
    """p [K], sums to 1, of graph [K, M] and summed losses [M], without overflow. Raises BadInput for a loss that is not finite."""
    if not np.isfinite(losses).all():
        raise BadInput("loss", f"{losses[~np.isfinite(losses)][0]}", "a finite number")
    scores = eta * (graph @ losses)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def windowed(checks: Sequence[np.ndarray], window: int, mean: bool = False) -> np.ndarray:
    """[M] of the last `window` checks [M] each: their sum, or their mean (theirs where targets are set)."""
    if not len(checks):
        raise BadInput("checks", "none", "at least one")
    last = np.stack(checks[-window:])
    return last.mean(0) if mean else last.sum(0)


def by_pairs(alone: np.ndarray, together: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """The graph [K, K] of which skill helps which.

    alone:    [K] loss of skill j after training on j alone.
    together: [K, K] loss of skill j after as many steps half on i and half on j. The diagonal is not read.
    margin:   the share of j's loss that help must take away; 0 is the paper's.
    """
    graph = np.where(together < (1 - margin) * alone, HELPS, 0.0)
    np.fill_diagonal(graph, 1.0)
    return graph


def by_gains(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The graph [K, M] of before [M] and after [K, M], losses of j before any training and after training on i alone."""
    return np.maximum(0.0, (before - after) / np.maximum(before, 1e-12))


def checked(graph: Any, trained: int, measured: int) -> np.ndarray:
    """As float64 [K, M]. Raises BadInput for another shape, a weight below 0 or not finite, or nothing above 0."""
    try:
        array = np.asarray(graph, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput("graph", shown(graph), "rows of numbers >= 0, one a skill trained on") from error
    if array.shape != (trained, measured):
        expected = f"{trained} rows (skills trained on) of {measured} numbers (skills measured)"
        raise BadInput("graph", f"numbers of shape {list(array.shape)}", expected)
    wrong = np.argwhere(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        i, j = wrong[0]
        raise BadInput("graph", f"{array[i, j]:g} in row {i}, column {j}", "finite numbers >= 0")
    if not array.any():
        raise BadInput("graph", "only zeros", "at least one number > 0")
    return array


def exchanged(graph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The control: the graph's rows at other places, none at its own, so that a skill is drawn by what another one helps.

    It differs from the graph even where no skill helps another, which edges moved off the diagonal would not.
    """
    order = rng.permutation(len(graph))
    places = np.empty_like(order)
    places[order] = np.roll(order, 1)  # one cycle through all of them
    return graph[places]
