"""The equations of INGENIOUS: how much each sample adds to what covers its part of the data, and how likely that makes it to be drawn.

    g(e | S) = f(S + e) - f(S),    f(S) = sum_i max_{j in S} s_ij           s: cosines, those below 0 taken for 0
    p[e] = (1 + g/T + (g/T)^2 / 2) / sum of the same                        in each random part of the data

Greedy choice runs through all of a part, so that every sample has a gain: that at the moment of its choice. Each choice is the best
of (n / n) ln(1 / eps) samples drawn at random (lazier than lazy greedy): gains do not fall all the way, and depend on the draw.
Source: Renduchintala et al. 2023, arXiv 2305.06677; authors' code Efficient-AI/ingenious at 932ddde, helper_fns.py and
selectionstrategies/submodstrategy.py. Shapes: n samples in a part. Our temperature is their T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from etude.data.samplers import draw_without_replacement
from etude.data.submodular import (
    FacilityLocation,
    Selection,
    SetFunction,
    budgets,
    positive_cosines,
    select_in_partitions,
    stochastic_greedy,
)
from etude.errors import BadInput


def taylor_softmax(gains: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """p [n] from gains [n]: the softmax with exp cut after its second-order term. Above 0 for every gain: the last ones stay in reach.

    An infinite temperature: all alike. Raises BadInput for one that is not above 0.
    """
    if not temperature > 0:
        raise BadInput("temperature", repr(temperature), "a number > 0")
    scaled = np.asarray(gains, dtype=np.float64) / temperature
    weights = 1 + scaled + scaled**2 / 2
    return weights / weights.sum()


def ranked(
    vectors: np.ndarray,
    partition_size: int,
    rng: np.random.Generator,
    eps: float = 0.01,
    make: Callable[[np.ndarray], SetFunction] = FacilityLocation,
) -> list[Selection]:
    """Every sample with its gain, in random parts of at most `partition_size`, each in its order of choice.

    vectors: [N, D] embeddings. make: the set function of a part's similarities; the authors' code may take a graph cut instead.
    Raises BadInput for parts of fewer than two, or embeddings that are not finite.
    """
    check_partition(partition_size)
    parts = min(-(-len(vectors) // partition_size), max(1, len(vectors) // 2))
    choose = partial(stochastic_greedy, rng=rng, eps=eps)
    return select_in_partitions(vectors, 1.0, parts, rng, make, choose, positive_cosines)


def counts(ranking: Sequence[Selection], share: float) -> list[int]:
    """How many to take of each part, so that they add up to ceil(share x all)."""
    return budgets([len(part.items) for part in ranking], share)


def drawn(ranking: Sequence[Selection], share: float, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """A subset of `share` of the samples: in each part its count, one after another without replacement, likelier by importance."""
    pairs = [(part, count) for part, count in zip(ranking, counts(ranking, share), strict=True) if count]
    found = [part.items[draw_without_replacement(taylor_softmax(part.gains, temperature), count, rng)] for part, count in pairs]
    return np.concatenate(found)


def largest(ranking: Sequence[Selection], share: float) -> np.ndarray:
    """The samples of the largest gains in each part, its count of them: what the method would be without its draw."""
    pairs = zip(ranking, counts(ranking, share), strict=True)
    return np.concatenate([part.items[np.argsort(-part.gains, kind="stable")[:count]] for part, count in pairs])


def check_partition(size: int) -> None:
    """Raises BadInput for parts that nothing can be chosen from."""
    if size < 2:
        raise BadInput("partition_size", repr(size), "two samples at least")


def similarity_flops(ranking: Sequence[Selection], width: int) -> int:
    """Of the cosines inside parts: 2 n^2 D each. What greedy choice does with them is element-wise, which counts as nothing."""
    return sum(2 * len(part.items) ** 2 * width for part in ranking)
