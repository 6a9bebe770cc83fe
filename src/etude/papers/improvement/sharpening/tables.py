"""Where all can be enumerated: a softmax table, whose need of samples is read off, and a linear softmax class at low coverage.

The table holds a distribution for each context; its exact maximum-likelihood fit on winners is their frequencies. So the mass that
SFT-sharpening puts on y* in a context is the share of the context's prompts whose winner is y*. That it needs samples in proportion to
the coverage coefficient then follows from counting draws until y* comes; it holds the code to the theorem and is no finding.

The linear class is pi(y | x) ~ exp <theta, f(x, y)> over the 2^F sign vectors, f the signs themselves up to a flip of each by the context.
Seen from its context's y* every context is the same, so one stands for all: y* is the vector of ones. The class is ours (the paper's
example J.1 is a sphere packing). Its self-rewards have no noise, so regression needs about F pairs that differ and no exploration.
Shapes: G contexts, n prompts of each, L samples of a prompt, Y responses, F features, B pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from etude.errors import BadInput
from etude.papers.improvement.sharpening.reward import stopping_parameter


def bases(inverse_mass: np.ndarray, num_responses: int, rng: np.random.Generator) -> np.ndarray:
    """[G, Y] distributions whose first response is y*, with mass 1 / inverse_mass [G]; the others share the rest unevenly, each below it.

    Raises BadInput where the rest does not fit below y*.
    """
    top = 1 / np.asarray(inverse_mass, dtype=np.float64)
    shares = rng.uniform(0.7, 1.3, (len(top), num_responses - 1))
    rest = shares / shares.sum(1, keepdims=True) * (1 - top[:, None])
    if (top > 1).any() or (rest.max(1) >= top).any():
        raise BadInput("coverage", f"1 / pi_base(y*) up to {1 / top.min():g}", f"1 to about {num_responses // 2}, so that y* is the mode")
    return np.concatenate((top[:, None], rest), 1)


@dataclass(frozen=True)
class Draws:
    """Samples of a table's prompts. best: [G, n, L] the highest pi_base among the first 1, 2, ... L samples. top: [G] pi_base(y*)."""

    best: np.ndarray
    top: np.ndarray

    @classmethod
    def of(cls, base: np.ndarray, num_prompts: int, length: int, rng: np.random.Generator) -> Draws:
        best = np.empty((len(base), num_prompts, length))
        for context, row in enumerate(base):
            picked = np.searchsorted(np.cumsum(row), rng.random((num_prompts, length))).clip(0, len(row) - 1)
            best[context] = np.maximum.accumulate(row[picked], axis=1)
        return cls(best, base[:, 0])

    def hits(self) -> np.ndarray:
        """[G, n, L] whether the winner of the first samples is y*."""
        return self.best >= self.top[:, None, None] * (1 - 1e-12)


Needed = tuple[float, float]
"""(samples m, share of contexts sharpened with them)"""


def needed_fixed(draws: Draws, epsilon: float, delta: float) -> Needed:
    """The smallest m = G n N after which SFT on the best of N is (epsilon, delta)-sharpened; infinite where L do not do."""
    mass = draws.hits().mean(1)  # [G, L]
    share = (mass >= 1 - delta).mean(0)
    reached = np.flatnonzero(share >= 1 - epsilon)
    if not len(reached):
        return float("inf"), float(share[-1])
    first = int(reached[0])
    return float((first + 1) * draws.best.shape[0] * draws.best.shape[1]), float(share[first])


MUS = np.geomspace(0.05, 12, 60)


def needed_adaptive(draws: Draws, epsilon: float, delta: float) -> Needed:
    """The same with N chosen for each prompt by eq. 10, at theorem D.1's stopping parameter; infinite where that does not do."""
    return needed_by_mu(draws, epsilon, delta, np.array([stopping_parameter(delta)]))


def needed_by_mu(draws: Draws, epsilon: float, delta: float, mus: np.ndarray = MUS) -> Needed:
    """The same, the smallest m over stopping parameters: an oracle, as the smallest N of `needed_fixed` is."""
    hits, counts = draws.hits(), np.arange(1, draws.best.shape[2] + 1)
    least: Needed = (float("inf"), 0.0)
    for mu in mus:
        stops = draws.best * counts >= mu  # [G, n, L]
        if not stops[:, :, -1].all():
            break
        at = stops.argmax(2)
        share = float((np.take_along_axis(hits, at[:, :, None], 2)[:, :, 0].mean(1) >= 1 - delta).mean())
        if share >= 1 - epsilon and float((at + 1).sum()) < least[0]:
            least = float((at + 1).sum()), share
    return least


def mean_needed(
    how: Callable[[Draws, float, float], Needed], inverse_mass: np.ndarray, responses: int, prompts: int, tables: int, epsilon: float,
    delta: float, rng: np.random.Generator,
) -> float:  # fmt: skip
    """Geometric mean of m over independent tables."""
    length = longest(inverse_mass)
    logs = [np.log(how(Draws.of(bases(inverse_mass, responses, rng), prompts, length, rng), epsilon, delta)[0]) for _ in range(tables)]
    return float(np.exp(np.mean(logs)))


def longest(inverse_mass: np.ndarray) -> int:
    """Samples that are drawn of each prompt, enough that y* is missed once in e^12."""
    return int(np.ceil(12 * np.max(inverse_mass)))


def even(coverage: float, contexts: int) -> np.ndarray:
    """[G] 1 / pi_base(y*) from half the coverage to one and a half times it, with that mean."""
    return coverage * np.linspace(0.5, 1.5, contexts)


def uneven(coverage: float, contexts: int) -> np.ndarray:
    """[G] the same mean, but a fifth of the contexts hold most of it: 0.2 and 4.2 times the coverage."""
    hard = np.arange(contexts) % 5 == 0
    values = np.where(hard, 4.2, 0.2)
    return coverage * values / values.mean()


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of log y over log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# --- the linear class -------------------------------------------------------------------------------------------------
def mass_on_ones(theta: np.ndarray) -> float:
    """pi_theta(y*), y* the vector of ones: the features are independent signs."""
    return float(np.exp(-np.logaddexp(0, -2 * np.asarray(theta, dtype=np.float64)).sum()))


def log_normaliser(theta: np.ndarray) -> float:
    """log of the sum of exp <theta, y> over all sign vectors."""
    return float(np.logaddexp(theta, -theta).sum())


def draw_signs(theta: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """[*shape, F] samples of pi_theta."""
    return np.where(rng.random((*shape, len(theta))) < 1 / (1 + np.exp(-2 * theta)), 1.0, -1.0)


def linear_sft(theta: np.ndarray, num: int, drawn: np.ndarray, bound: float) -> np.ndarray:
    """Maximum likelihood on the winners of groups of `num` among samples [m, F], each weight within +-bound."""
    groups = drawn[: len(drawn) // num * num].reshape(-1, num, len(theta))
    winners = np.take_along_axis(groups, (groups @ theta).argmax(1)[:, None, None], 1)[:, 0]
    with np.errstate(divide="ignore"):  # winners that all agree ask for an infinite weight
        return np.arctanh(winners.mean(0)).clip(-bound, bound)


def linear_regression(
    theta: np.ndarray, beta: float, optimism: float, rounds: int, samples: int, bound: float, rng: np.random.Generator
) -> np.ndarray:
    """Algorithm 1 over `rounds` (1 and optimism 0: the offline regression of eq. 8), each weight within +-bound.

    y comes from the present model, y' from the base. Each round solves its quadratic part exactly and then follows the gradient.
    """
    present, first, second = theta.copy(), np.empty((0, len(theta))), np.empty((0, len(theta)))
    each = samples // 2 // rounds
    for _ in range(rounds):
        first = np.concatenate((first, draw_signs(present, (each,), rng)))
        second = np.concatenate((second, draw_signs(theta, (each,), rng)))
        difference = first - second  # [B, F]
        # b <new - theta, d> = <theta, d>: least squares from the present weights, so that what no pair shows stays as it is.
        target = (1 + 1 / beta) * (difference @ theta)
        present = present + np.linalg.lstsq(difference, target - difference @ present, rcond=None)[0]
        present = present.clip(-bound, bound)
        if optimism:
            present = _descend(present, difference, target, beta, second, optimism, bound)
    return present


def explored(weights: np.ndarray, difference: np.ndarray, target: np.ndarray, beta: float, second: np.ndarray, optimism: float) -> float:
    """What algorithm 1 minimises: sum (b (<w, d> - target))^2 + a sum log pi_w(y')."""
    residual = difference @ weights - target
    return float((beta * residual) @ (beta * residual) + optimism * (second @ weights - log_normaliser(weights)).sum())


def _descend(
    weights: np.ndarray, difference: np.ndarray, target: np.ndarray, beta: float, second: np.ndarray, optimism: float, bound: float
) -> np.ndarray:
    """Projected gradient descent on `explored`, whose gradient changes by at most `curvature` times the way."""
    curvature = 2 * beta**2 * np.linalg.norm(difference, 2) ** 2 + optimism * len(second)
    for _ in range(500):
        residual = difference @ weights - target
        gradient = 2 * beta**2 * residual @ difference + optimism * (second.sum(0) - len(second) * np.tanh(weights))
        weights = (weights - gradient / curvature).clip(-bound, bound)
    return weights
