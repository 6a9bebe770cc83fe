"""The coverage of the count intervals, enumerated: every table's probability, added where its interval holds the truth.

Nothing is simulated here. `benchmarks/calibration.py` writes the tables of docs/statistics.md with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

Limits = tuple[np.ndarray, np.ndarray]
GRID = np.concatenate([[0.001, 0.002, 0.005], np.arange(1, 100) / 100, [0.995, 0.998, 0.999]])
"""Proportions at which coverage is enumerated: every hundredth, and close to 0 and 1."""


@dataclass(frozen=True)
class Coverage:
    """lowest, mean: over the grid of true proportions; at: the true proportions of the lowest."""

    lowest: float
    mean: float
    at: tuple[float, ...]


def masses(n: int, p: np.ndarray) -> np.ndarray:
    """[P, n + 1] binomial probabilities."""
    k = np.arange(n + 1.0)
    choose = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.exp(choose + special.xlogy(k, p[:, None]) + special.xlog1py(n - k, -p[:, None]))


def _holds(limits: Limits, truth: float) -> np.ndarray:
    return (limits[0] <= truth + 1e-9) & (truth - 1e-9 <= limits[1])


def one_proportion(n: int, interval: Callable[[int, int], tuple[float, float]], grid: np.ndarray = GRID) -> Coverage:
    """Coverage of `interval(successes, n)`."""
    low, high = (np.array(side) for side in zip(*(interval(k, n) for k in range(n + 1)), strict=True))
    holds = (low[None] <= grid[:, None] + 1e-9) & (grid[:, None] - 1e-9 <= high[None])
    values = (masses(n, grid) * holds).sum(axis=1)
    worst = int(values.argmin())
    return Coverage(float(values[worst]), float(values.mean()), (float(grid[worst]),))


def table_of_limits(n1: int, n2: int, interval: Callable[[int, int], tuple[float, float]], paired: bool = False) -> Limits:
    """(low, high) [n1 + 1, n2 + 1] of `interval(first, second)`; impossible paired tables (first + second > n1) stay nan."""
    low, high = np.full((2, n1 + 1, n2 + 1), np.nan)
    for i in range(n1 + 1):
        for j in range(n2 + 1):
            if not paired or i + j <= n1:
                low[i, j], high[i, j] = interval(i, j)
    return low, high


def two_proportions(n1: int, n2: int, limits: Limits, grid: np.ndarray = GRID) -> Coverage:
    """Coverage of p1 - p2 over all pairs of the grid, for two independent samples; limits [n1 + 1, n2 + 1]."""
    first, second = masses(n1, grid), masses(n2, grid)
    differences = grid[:, None] - grid[None, :]
    values = np.empty_like(differences)
    for difference in np.unique(differences.round(9)):
        i, j = np.nonzero(np.abs(differences - difference) < 5e-10)
        values[i, j] = np.einsum("gx,gx->g", first[i] @ _holds(limits, difference).astype(float), second[j])
    i, j = np.unravel_index(int(values.argmin()), values.shape)
    return Coverage(float(values[i, j]), float(values.mean()), (float(grid[i]), float(grid[j])))


def paired_proportions(n: int, limits: Limits, step: float = 0.02) -> Coverage:
    """Coverage of p(only first) - p(only second) over n pairs, for limits [n + 1, n + 1] that depend on these two counts alone."""
    ticks = np.concatenate([[0.0, 0.002, 0.005], np.arange(step, 1 + step / 2, step)])
    p1, p2 = (side.ravel() for side in np.meshgrid(ticks, ticks, indexing="ij"))
    keep = p1 + p2 <= 1 + 1e-12
    p1, p2 = p1[keep], p2[keep]
    i, j = np.nonzero(~np.isnan(limits[0]))
    choose = special.gammaln(n + 1) - special.gammaln(i + 1) - special.gammaln(j + 1) - special.gammaln(n - i - j + 1)
    values = np.empty(len(p1))
    for g, (one, two) in enumerate(zip(p1, p2, strict=True)):
        rest = max(1 - one - two, 0.0)
        mass = np.exp(choose + special.xlogy(i, one) + special.xlogy(j, two) + special.xlogy(n - i - j, rest))
        values[g] = mass[_holds((limits[0][i, j], limits[1][i, j]), one - two)].sum()
    worst = int(values.argmin())
    return Coverage(float(values[worst]), float(values.mean()), (float(p1[worst]), float(p2[worst])))


def paired_tables(n: int, interval: Callable[[int, int, int, int], tuple[float, float]], step: float = 0.05) -> Coverage:
    """Coverage over n pairs of limits that use the whole table (both, only1, only2, neither), on a lattice of all four cells."""
    tables = np.array([(a, b, c, n - a - b - c) for a in range(n + 1) for b in range(n + 1 - a) for c in range(n + 1 - a - b)])
    low, high = np.array([interval(*map(int, t)) for t in tables]).T
    choose = special.gammaln(n + 1) - special.gammaln(tables + 1).sum(axis=1)
    m = round(1 / step)
    cells = np.array([(a, b, c, m - a - b - c) for a in range(m + 1) for b in range(m + 1 - a) for c in range(m + 1 - a - b)]) / m
    values = np.empty(len(cells))
    for g, p in enumerate(cells):
        mass = np.exp(choose + special.xlogy(tables, p).sum(axis=1))
        values[g] = mass[_holds((low, high), p[1] - p[2])].sum()
    worst = int(values.argmin())
    return Coverage(float(values[worst]), float(values.mean()), tuple(float(v) for v in cells[worst]))
