"""Choosing subsets that cover: submodular functions, and greedy ways to maximise them.

Facility location f(S) = sum_i max_{j in S} s_ij; graph cut f(S) = sum_{i, j in S} s_ij - lambda sum_{i, j both in S} s_ij; log
determinant f(S) = log det(s_SS + ridge I). Greedy choice reaches (1 - 1/e) of the best subset's value where f is monotone
(Nemhauser, Wolsey and Fisher 1978); the lazy order of evaluation finds the same picks (Minoux 1978); drawing candidates at
random loses eps of it in expectation (lazier than lazy greedy, arXiv 1409.7938).
Shapes: N items, D width of an embedding, K picks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from etude.errors import BadInput


def checked_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """[N, D] as float64. Raises BadInput for another shape, entries that are not finite, and rows of zeros, which have no direction."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    if embeddings.ndim != 2 or not embeddings.size:
        raise BadInput("embeddings", f"shape {list(embeddings.shape)}", "one row of numbers an item")
    if not np.isfinite(embeddings).all():
        raise BadInput("embeddings", f"NaN or Inf in row {int(np.flatnonzero(~np.isfinite(embeddings).all(1))[0])}", "finite numbers")
    zeros = ~embeddings.any(1)
    if zeros.any():
        raise BadInput("embeddings", f"only zeros in row {int(np.flatnonzero(zeros)[0])}", "a direction")
    return embeddings


def cosine_similarities(embeddings: np.ndarray) -> np.ndarray:
    """embeddings [N, D] -> [N, N] float64 in [0, 1]: (1 + cosine) / 2, so that none is negative, which monotony needs.

    Raises BadInput as `checked_embeddings` does.
    """
    return ((1 + _cosines(embeddings)) / 2).clip(0, 1)


def positive_cosines(embeddings: np.ndarray) -> np.ndarray:
    """embeddings [N, D] -> [N, N] float64 in [0, 1]: cosines, with 0 for those below: who is opposite serves nobody.

    In a facility location that is what negative similarities come to where an item that nobody serves counts 0.
    """
    return _cosines(embeddings).clip(0, 1)


def _cosines(embeddings: np.ndarray) -> np.ndarray:
    embeddings = checked_embeddings(embeddings)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit.T


class SetFunction(Protocol):
    """f of the set chosen so far, which begins empty with f = 0."""

    def __len__(self) -> int:
        """N."""
        ...

    def gains(self, items: np.ndarray) -> np.ndarray:
        """items [M] not chosen yet -> [M]: how much each would add to f."""
        ...

    def add(self, item: int) -> None:
        """Chooses it."""
        ...


def checked(similarities: np.ndarray) -> np.ndarray:
    """A symmetric [N, N] of finite numbers as float64. Raises BadInput for another."""
    similarities = np.asarray(similarities, dtype=np.float64)
    if similarities.ndim != 2 or similarities.shape[0] != similarities.shape[1] or not len(similarities):
        raise BadInput("similarities", f"shape {list(similarities.shape)}", "a square of one row and one column an item")
    if not np.isfinite(similarities).all():
        row = int(np.flatnonzero(~np.isfinite(similarities).all(1))[0])
        raise BadInput("similarities", f"NaN or Inf in row {row}", "finite numbers")
    if not np.allclose(similarities, similarities.T, atol=1e-9):
        raise BadInput("similarities", "two that differ between (i, j) and (j, i)", "a symmetric matrix")
    return similarities


class FacilityLocation:
    """Every item is served by the chosen one most similar to it. similarities: symmetric [N, N], >= 0."""

    def __init__(self, similarities: np.ndarray) -> None:
        self.similarities = checked(similarities)
        if (self.similarities < 0).any():
            raise BadInput("similarities", f"{self.similarities.min():g}", "numbers >= 0")
        self.served = np.zeros(len(similarities))

    def __len__(self) -> int:
        return len(self.served)

    def gains(self, items: np.ndarray) -> np.ndarray:
        return np.maximum(self.similarities[items] - self.served, 0).sum(1)

    def add(self, item: int) -> None:
        np.maximum(self.served, self.similarities[item], out=self.served)


class GraphCut:
    """Similar to all, and little to each other. penalty: lambda, monotone up to 0.5."""

    def __init__(self, similarities: np.ndarray, penalty: float = 0.4) -> None:
        if not penalty >= 0:
            raise BadInput("GraphCut.penalty", repr(penalty), "a number >= 0")
        self.similarities, self.penalty = checked(similarities), penalty
        self.totals = self.similarities.sum(1)
        self.near = np.zeros(len(self.totals))  # to the chosen ones

    def __len__(self) -> int:
        return len(self.totals)

    def gains(self, items: np.ndarray) -> np.ndarray:
        own = self.similarities[items, items]
        return self.totals[items] - self.penalty * (2 * self.near[items] + own)

    def add(self, item: int) -> None:
        self.near += self.similarities[item]


class LogDeterminant:
    """The volume that the chosen ones span. similarities: positive semi-definite; ridge > 0 is added to the diagonal.

    One row of the Cholesky factor a pick (greedy inference for determinantal processes, arXiv 1709.05135, section 3).
    """

    def __init__(self, similarities: np.ndarray, ridge: float = 1.0) -> None:
        if not ridge > 0:
            raise BadInput("LogDeterminant.ridge", repr(ridge), "a number > 0")
        self.kernel = checked(similarities) + ridge * np.eye(len(similarities))
        self.left = self.kernel.diagonal().copy()  # of each item's variance, once the chosen ones are known
        self.factor = np.zeros((0, len(self.left)))

    def __len__(self) -> int:
        return len(self.left)

    def gains(self, items: np.ndarray) -> np.ndarray:
        left = self.left[items]
        if not (left > 0).all():
            raise BadInput("similarities", "a matrix with a negative eigenvalue", "one that is positive semi-definite")
        return np.log(left)

    def add(self, item: int) -> None:
        row = (self.kernel[item] - self.factor[:, item] @ self.factor) / np.sqrt(self.left[item])
        self.factor = np.vstack([self.factor, row])
        self.left = self.left - row**2


@dataclass(frozen=True)
class Selection:
    """items [K] in the order of choice, and gains [K]: what each added to f when it was chosen."""

    items: np.ndarray
    gains: np.ndarray


def check_budget(budget: int, size: int) -> None:
    """Raises BadInput where `budget` of `size` items cannot be chosen."""
    if not 1 <= budget <= size:
        raise BadInput("subset", f"{budget} of {size} items", f"from 1 to {size}")


def lazy_greedy(function: SetFunction, budget: int) -> Selection:
    """The item of the largest gain, `budget` times; equal gains go to the lower number. Gains are evaluated again only where an
    old one, which they cannot exceed, is still the largest.

    Raises BadInput for a budget outside 1 to N.
    """
    check_budget(budget, len(function))
    # Rounding may lift a gain that should have stayed: an item is taken only with the gain of this very round.
    queue = [(-float(gain), i, 0) for i, gain in enumerate(function.gains(np.arange(len(function))))]
    heapq.heapify(queue)
    items, gains = [], []
    while len(items) < budget:
        old, item, round_ = queue[0]
        if round_ < len(items):
            heapq.heapreplace(queue, (-float(function.gains(np.array([item]))[0]), item, len(items)))
            continue
        heapq.heappop(queue)
        function.add(item)
        items.append(item)
        gains.append(-old)
    return Selection(np.array(items), np.array(gains))


def stochastic_greedy(function: SetFunction, budget: int, rng: np.random.Generator, eps: float = 0.01) -> Selection:
    """The best of (N / budget) ln(1 / eps) items drawn anew from those left, `budget` times (arXiv 1409.7938, algorithm 1).

    Raises BadInput for a budget outside 1 to N, or eps outside (0, 1).
    """
    check_budget(budget, len(function))
    if not 0 < eps < 1:
        raise BadInput("eps", repr(eps), "a number between 0 and 1")
    size = int(np.ceil(len(function) / budget * np.log(1 / eps)))
    left = np.arange(len(function))
    items, gains = [], []
    for _ in range(budget):
        places = rng.choice(len(left), min(size, len(left)), replace=False)
        found = function.gains(left[places])
        best = int(found.argmax())
        function.add(int(left[places[best]]))
        items.append(left[places[best]])
        gains.append(found[best])
        left[places[best]] = left[-1]
        left = left[:-1]
    return Selection(np.array(items), np.array(gains))


def partitions(size: int, parts: int, rng: np.random.Generator) -> list[np.ndarray]:
    """`size` items at random into `parts` of even size (they differ by one at most). Raises BadInput for parts of fewer than two."""
    if not 1 <= parts <= size // 2:
        raise BadInput("partitions", f"{parts} of {size} items", f"from 1 to {size // 2}: two items at least in each")
    return np.array_split(rng.permutation(size), parts)


def budgets(sizes: list[int], share: float) -> list[int]:
    """Items to choose in parts of these sizes, adding up to ceil(share x all): largest remainders take what is left over.

    Raises BadInput for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise BadInput("share", repr(share), "a number above 0 and at most 1")
    total = int(np.ceil(round(share * sum(sizes), 9)))
    exact = np.array(sizes) * (total / sum(sizes))
    counts = np.floor(exact + 1e-9).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    return counts.tolist()


def select_in_partitions(
    embeddings: np.ndarray,
    share: float,
    parts: int,
    rng: np.random.Generator,
    make: Callable[[np.ndarray], SetFunction] = FacilityLocation,
    choose: Callable[[SetFunction, int], Selection] = lazy_greedy,
    similarities: Callable[[np.ndarray], np.ndarray] = cosine_similarities,
) -> list[Selection]:
    """A selection in each of `parts` random parts, of `share` of the items in all; one part's similarities in memory at a time.

    embeddings: [N, D]. make: of a part's similarities. choose: the way of choosing. Raises BadInput as these and `partitions` do.
    """
    embeddings = checked_embeddings(embeddings)
    members = partitions(len(embeddings), parts, rng)
    found = []
    for part, budget in zip(members, budgets([len(p) for p in members], share), strict=True):
        if not budget:
            found.append(Selection(part[:0], np.zeros(0)))
            continue
        inside = choose(make(similarities(embeddings[part])), budget)
        found.append(Selection(part[inside.items], inside.gains))
    return found
