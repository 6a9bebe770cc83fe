"""Intervals over seeds: Student's t, Holm's levels, bands for plots, and the effect that a design can detect.

Each value is one seed's (items are averaged inside a seed), so n is the number of seeds. Counts are in `proportions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

from etude.errors import BadInput
from etude.evidence.proportions import clopper_pearson, newcombe, paired_newcombe

__all__ = ["clopper_pearson", "holm_levels", "mean_band", "newcombe", "paired_newcombe", "smallest_detectable", "t_bounds", "t_interval"]

Curve = tuple[Sequence[float], Sequence[float]]


def t_bounds(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean along the last axis: [..., n] -> low [...], high [...].

    One value bounds nothing: (-inf, inf). Equal values give a point. A value that is not finite gives (nan, nan).
    Raises BadInput without values or for a level outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[-1] if values.ndim else 0
    if n == 0:
        raise BadInput("interval", "no values", "at least one")
    if not 0 < level < 1:
        raise BadInput("interval: level", repr(level), "a number between 0 and 1")
    finite = np.asarray(np.isfinite(values).all(axis=-1))
    safe = np.where(finite[..., None], values, 0.0)
    mean = safe.mean(axis=-1)
    if n == 1:
        half = np.full_like(mean, np.inf)
    else:
        spread = safe.max(axis=-1) > safe.min(axis=-1)  # equal values may differ from their mean by rounding
        mean = np.where(spread, mean, safe[..., 0])
        half = np.where(spread, special.stdtrit(n - 1, (1 + level) / 2) * safe.std(axis=-1, ddof=1) / math.sqrt(n), 0.0)
    return np.where(finite, mean - half, np.nan), np.where(finite, mean + half, np.nan)


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval (low, high) of the mean of [n] values; `t_bounds` says what happens at the edges."""
    low, high = t_bounds(np.asarray(values, dtype=np.float64).reshape(-1), level)
    return float(low), float(high)


def t_tail(values: Sequence[float] | np.ndarray, bound: float) -> float:
    """One-sided p value of "the mean is at most `bound`". It is below (1 - level) / 2 exactly where `t_interval` lies above `bound`."""
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(values) < 2 or not np.isfinite(values).all():
        return 1.0
    if values.max() == values.min():  # a point
        return 0.0 if values[0] > bound else 1.0
    t = (values.mean() - bound) / (values.std(ddof=1) / math.sqrt(len(values)))
    return float(special.stdtr(len(values) - 1, -t))


def holm_levels(p: Sequence[float], level: float = 0.95) -> list[float]:
    """The confidence level of each claim's interval, in the order given, so that the family errs with 1 - `level` in all.

    p: [m] two-sided p values of the claims' own nulls (a claim holds at a level where p < 1 - level).
    Step down: the smallest p is tried at 1 - alpha / m, the next at 1 - alpha / (m - 1), and so on. At the first that fails
    the trying stops, and it and all behind it keep that level. Ties keep their order. Source: Holm 1979, Scand. J. Stat. 6:65-70.
    """
    if not 0 < level < 1:
        raise BadInput("Holm: level", repr(level), "a number between 0 and 1")
    for i, value in enumerate(p):
        if not 0 <= value <= 1:
            raise BadInput(f"Holm: p[{i}]", repr(value), "a number from 0 to 1")
    alpha, divisor, failed = 1 - level, len(p), False
    levels = [0.0] * len(p)
    for i in sorted(range(len(p)), key=lambda i: p[i]):
        levels[i] = 1 - alpha / divisor
        failed = failed or not p[i] < alpha / divisor
        if not failed:
            divisor = max(divisor - 1, 1)
    return levels


def mean_band(curves: Sequence[Curve], level: float = 0.95, points: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean curve over seeds with its t interval at each x: (x, mean, low, high), each [P].

    curves: (xs, ys) per seed, xs rising. Where all share their xs these are kept; otherwise all are read by linear interpolation
    at `points` places of the range that every seed covers. With one seed low and high are nan (nothing to draw).
    Raises BadInput without curves, for an empty one, unequal lengths, xs that fall, or ranges that do not overlap.
    """
    if not curves:
        raise BadInput("curves", "none", "one a seed")
    pairs = [(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for x, y in curves]
    for i, (x, y) in enumerate(pairs):
        if len(x) == 0 or x.shape != y.shape:
            raise BadInput(f"curves[{i}]", f"{len(x)} xs and {len(y)} ys", "as many of each, at least one")
        if (np.diff(x) < 0).any():
            raise BadInput(f"curves[{i}]", "xs that fall", "xs in rising order")
    first = pairs[0][0]
    if all(x.shape == first.shape and np.array_equal(x, first) for x, _ in pairs):
        grid, values = first, np.stack([y for _, y in pairs])
    else:
        low, high = max(x[0] for x, _ in pairs), min(x[-1] for x, _ in pairs)
        if low > high:
            raise BadInput("curves", "ranges of x that do not overlap", "a range that every seed covers")
        grid = np.linspace(low, high, points if high > low else 1)
        values = np.stack([np.interp(grid, x, y) for x, y in pairs])
    if len(pairs) == 1:
        nothing = np.full_like(grid, np.nan)
        return grid, values[0], nothing, nothing.copy()
    below, above = t_bounds(values.T, level)
    return grid, values.mean(axis=0), below, above


def smallest_detectable(sd: float, n: int, d: float = 0.0, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true effect for which a claim with threshold `d` holds with probability `power`, given `n` seeds.

    sd: standard deviation of the per-seed effect (of paired differences for `Better`); d and the result are in its unit.
    Exact for normal values: the noncentral t distribution. Infinite below 2 seeds; `d` itself for sd = 0.
    """
    if not (math.isfinite(sd) and sd >= 0):
        raise BadInput("sd", repr(sd), "a number >= 0")
    if not 0 < power < 1:
        raise BadInput("power", repr(power), "a number between 0 and 1")
    if n < 2:
        return math.inf
    if sd == 0:
        return d
    critical = float(special.stdtrit(n - 1, (1 + level) / 2))
    top = critical + 10.0
    while special.nctdtr(n - 1, top, critical) > 1 - power:
        top *= 2
    shift: Any = optimize.brentq(lambda nc: special.nctdtr(n - 1, nc, critical) - (1 - power), 0.0, top)
    return d + float(shift) * sd / math.sqrt(n)
