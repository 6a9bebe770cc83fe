"""Intervals for counts of successes: one proportion, and the difference of two, paired or not.

A verdict uses `clopper_pearson`, `exact_difference` and `exact_paired_difference`: coverage never below the level, whatever
the true proportions. Newcombe's intervals are here because they order the tables of the exact ones (and for comparison): by
themselves they fall to 0.83 at small n near proportions of 0 and 1, with Clopper-Pearson limits inside still to 0.925.

Sources: Clopper and Pearson 1934; Wilson 1927; Newcombe 1998, Statistics in Medicine 17:873-890 (method 10, two samples) and
17:2635-2650 (method 10, paired); exact limits for an ordering of the tables: Buehler 1957, JASA 52:482-493.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize, special

from etude.errors import BadInput

MAX_TRIALS = 1000
"""Per arm. Beyond it these are hardly restarts but items, which are averaged inside a seed and judged by Student's t."""
_NUISANCE = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 129))  # [0, 1], denser near the ends, where the tail bends


def _check(where: str, successes: float, trials: float, level: float) -> None:
    if not 0 < level < 1:
        raise BadInput(f"{where}: level", repr(level), "a number between 0 and 1")
    if trials < 1 or trials != int(trials):
        raise BadInput(f"{where}: trials", repr(trials), "a whole number >= 1")
    if not 0 <= successes <= trials or successes != int(successes):
        raise BadInput(f"{where}: successes", repr(successes), f"a whole number from 0 to {int(trials)}")


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval (low, high) for one proportion. Raises BadInput for impossible counts."""
    _check("proportion", successes, trials, level)
    tail, failures = (1 - level) / 2, trials - successes
    low = 0.0 if successes == 0 else float(special.betaincinv(successes, failures + 1, tail))
    high = 1.0 if failures == 0 else float(special.betaincinv(successes + 1, failures, 1 - tail))
    return low, high


def proportion_tail(successes: int, trials: int, proportion: float) -> float:
    """P(at least `successes` of `trials`) at this true proportion: the one-sided p value against "not more than it"."""
    return 1.0 if successes == 0 else float(special.betainc(successes, trials - successes + 1, min(max(proportion, 0.0), 1.0)))


def _wilson(successes: np.ndarray, trials: np.ndarray | float, level: float) -> tuple[np.ndarray, np.ndarray]:
    z = special.ndtri((1 + level) / 2)
    p = successes / trials
    centre = p + z * z / (2 * trials)
    half = z * np.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return (centre - half) / (1 + z * z / trials), (centre + half) / (1 + z * z / trials)


def _newcombe(x1: np.ndarray, n1: int, x2: np.ndarray, n2: int, phi: np.ndarray | float, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The square-and-add limits of p1 - p2; `phi` is the correlation inside pairs (0 for two samples)."""
    (low1, high1), (low2, high2) = _wilson(x1, n1, level), _wilson(x2, n2, level)
    p1, p2 = x1 / n1, x2 / n2
    below1, above1, below2, above2 = p1 - low1, high1 - p1, p2 - low2, high2 - p2
    low = p1 - p2 - np.sqrt(np.maximum(below1**2 - 2 * phi * below1 * above2 + above2**2, 0))
    high = p1 - p2 + np.sqrt(np.maximum(above1**2 - 2 * phi * above1 * below2 + below2**2, 0))
    return low, high


def _phi(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Newcombe's correlation of the pairs: shrunk by half the table where positive, 0 where a margin is empty."""
    n = a + b + c + d
    cross = a * d - b * c
    shrunk = np.where(cross > n / 2, cross - n / 2, np.minimum(cross, 0))
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    return np.where(margins > 0, shrunk / np.sqrt(np.maximum(margins, 1e-300)), 0.0)


def newcombe(successes1: int, trials1: int, successes2: int, trials2: int, level: float = 0.95) -> tuple[float, float]:
    """Newcombe's hybrid score interval of proportion 1 minus proportion 2, two independent samples. See the module's warning."""
    _check("sample 1", successes1, trials1, level)
    _check("sample 2", successes2, trials2, level)
    low, high = _newcombe(np.asarray(successes1), trials1, np.asarray(successes2), trials2, 0.0, level)
    return float(low), float(high)


def paired_newcombe(both: int, only1: int, only2: int, neither: int, level: float = 0.95) -> tuple[float, float]:
    """Newcombe's interval of proportion 1 minus proportion 2 over pairs, of which `both` succeeded in both, and so on."""
    n = both + only1 + only2 + neither
    for count in (both, only1, only2, neither):
        _check("pairs", count, max(n, 1), level)
    _check("pairs", 0, n, level)
    a, b, c, d = (np.asarray(float(k)) for k in (both, only1, only2, neither))
    low, high = _newcombe(a + b, n, a + c, n, _phi(a, b, c, d), level)
    return float(low), float(high)


# Exact limits. Tables are ordered by Newcombe's lower limit, made monotone (more successes of the first and fewer of the
# second never rank lower), so that "ranks at least as high as what was seen" is `first >= threshold[second]`, and its
# probability, largest over the nuisance proportion, rises with the true difference. The lower limit is the difference
# at which that probability is half of 1 - level: no other table can make the coverage smaller.


@lru_cache(maxsize=32)
def _ranks(n1: int, n2: int, paired: bool) -> np.ndarray:
    """[first, second] rank statistic: the tables' Newcombe lower limits. -inf where a table cannot be (paired: b + c > n)."""
    if paired:  # cells: only1 = b, only2 = c; what agrees is split evenly, since its split says nothing about the difference
        b, c = np.arange(n1 + 1.0)[:, None], np.arange(n1 + 1.0)[None, :]
        half = np.maximum((n1 - b - c) / 2, 0)
        low, _ = _newcombe(np.minimum(half + b, n1), n1, np.minimum(half + c, n1), n1, _phi(half, b, c, half), 0.95)
        low = np.where(b + c <= n1, low, -np.inf)
    else:
        low, _ = _newcombe(np.arange(n1 + 1.0)[:, None], n1, np.arange(n2 + 1.0)[None, :], n2, 0.0, 0.95)
    low = np.maximum.accumulate(low, axis=0)
    low = np.maximum.accumulate(low[:, ::-1], axis=1)[:, ::-1]
    low.setflags(write=False)
    return low


def _thresholds(first: int, second: int, n1: int, n2: int, paired: bool) -> np.ndarray:
    """[n2 + 1]: how many of the first a table needs, at each count of the second, to rank as high as what was seen."""
    ranks = _ranks(n1, n2, paired)
    return (ranks < ranks[first, second] - 1e-12).sum(axis=0)


def _tail(difference: float, thresholds: np.ndarray, n1: int, n2: int, paired: bool) -> float:
    """The largest probability, over the nuisance proportion, of a table that ranks as high as what was seen."""
    low, high = max(0.0, -difference), ((1 - difference) / 2 if paired else min(1.0, 1 - difference))
    p2 = (low + (high - low) * _NUISANCE)[:, None]
    p1 = np.clip(p2 + difference, 0, 1)
    second = np.arange(n2 + 1.0)[None, :]
    choose = special.gammaln(n2 + 1) - special.gammaln(second + 1) - special.gammaln(n2 - second + 1)
    mass = np.exp(choose + special.xlogy(second, p2) + special.xlog1py(n2 - second, -p2))
    left = n1 - second if paired else np.full_like(second, n1)  # trials in which the first can still occur
    p_first = np.clip(p1 / np.maximum(1 - p2, 1e-300), 0, 1) if paired else p1
    possible = thresholds <= left
    at_least = special.betainc(np.maximum(thresholds, 1), np.where(possible, left - thresholds + 1, 1), p_first)
    at_least = np.where(thresholds == 0, 1.0, np.where(possible, at_least, 0.0))
    return min(float((mass * at_least).sum(axis=1).max()), 1.0)


def _lower(first: int, second: int, n1: int, n2: int, paired: bool, level: float) -> float:
    thresholds = _thresholds(first, second, n1, n2, paired)
    if not thresholds.any():  # every table ranks as high: nothing is excluded
        return -1.0
    tail = (1 - level) / 2
    root: Any = optimize.brentq(lambda delta: _tail(delta, thresholds, n1, n2, paired) - tail, -1.0, 1.0, xtol=1e-10)
    return float(root)


def _two_samples(successes1: int, trials1: int, successes2: int, trials2: int, level: float) -> tuple[int, int, int, int]:
    _check("sample 1", successes1, trials1, level)
    _check("sample 2", successes2, trials2, level)
    if max(trials1, trials2) > MAX_TRIALS:
        raise BadInput("trials", f"{max(trials1, trials2)}", f"at most {MAX_TRIALS} an arm; average items inside a seed instead")
    return int(successes1), int(successes2), int(trials1), int(trials2)


def _pairs(only1: int, only2: int, pairs: int, level: float) -> tuple[int, int, int, int]:
    _check("pairs", only1 + only2, pairs, level)
    _check("pairs", only1, pairs, level)
    _check("pairs", only2, pairs, level)
    if pairs > MAX_TRIALS:
        raise BadInput("pairs", f"{pairs}", f"at most {MAX_TRIALS}; average items inside a seed instead")
    return int(only1), int(only2), int(pairs), int(pairs)


def exact_difference(successes1: int, trials1: int, successes2: int, trials2: int, level: float = 0.95) -> tuple[float, float]:
    """Exact unconditional interval of proportion 1 minus proportion 2, two independent samples of at most 1,000 each."""
    x1, x2, n1, n2 = _two_samples(successes1, trials1, successes2, trials2, level)
    return _lower(x1, x2, n1, n2, False, level), -_lower(x2, x1, n2, n1, False, level)


def exact_difference_tail(successes1: int, trials1: int, successes2: int, trials2: int, difference: float) -> float:
    """One-sided exact p value against "proportion 1 minus proportion 2 is at most `difference`"; agrees with the interval."""
    x1, x2, n1, n2 = _two_samples(successes1, trials1, successes2, trials2, 0.95)
    return 1.0 if difference >= 1 else _tail(max(difference, -1.0), _thresholds(x1, x2, n1, n2, False), n1, n2, False)


def exact_paired_difference(only1: int, only2: int, pairs: int, level: float = 0.95) -> tuple[float, float]:
    """Exact unconditional interval of proportion 1 minus proportion 2 over `pairs`, of which `only1` succeeded in the first alone."""
    b, c, n, _ = _pairs(only1, only2, pairs, level)
    return _lower(b, c, n, n, True, level), -_lower(c, b, n, n, True, level)


def exact_paired_difference_tail(only1: int, only2: int, pairs: int, difference: float) -> float:
    """One-sided exact p value against "the paired difference is at most `difference`"; agrees with the interval."""
    b, c, n, _ = _pairs(only1, only2, pairs, 0.95)
    return 1.0 if difference >= 1 else _tail(max(difference, -1.0), _thresholds(b, c, n, n, True), n, n, True)
