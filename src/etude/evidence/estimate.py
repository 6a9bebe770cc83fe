"""What a claim measured, and the rule that turns it into a verdict.

Effects are oriented: positive is as claimed. With an interval (low, high) and smallest effect of interest d, in this order:
**holds** where low > d; **reversed** where high < 0; **no effect** where -d <= low and high <= d; else **inconclusive**.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from etude.evidence import proportions
from etude.evidence.statistics import t_interval, t_tail

HOLDS, REVERSED, NO_EFFECT, INCONCLUSIVE = "holds", "reversed", "no effect", "inconclusive"
Rule = Literal["beyond", "within", "at least"]


class NotJudged(Exception):
    """A claim cannot get a verdict from this record; the text says why and follows "not judged: "."""


class Sample(Protocol):
    """An effect with its uncertainty. n: seeds, or trials an arm for counts."""

    @property
    def n(self) -> int: ...
    @property
    def value(self) -> float: ...
    def interval(self, level: float) -> tuple[float, float]: ...
    def above(self, bound: float) -> float:
        """One-sided p value of "the effect is at most `bound`"."""
        ...

    def below(self, bound: float) -> float:
        """One-sided p value of "the effect is at least `bound`"."""
        ...


@dataclass(frozen=True)
class Seeds:
    """One effect a seed, judged by Student's t. Equal values make the interval a point.

    unreached: some values are only upper bounds (a censored ratio): nothing is then known from below, so low is -inf.
    """

    values: tuple[float, ...]
    unreached: bool = False

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def value(self) -> float:
        return math.fsum(self.values) / len(self.values)

    def interval(self, level: float) -> tuple[float, float]:
        low, high = t_interval(self.values, level)
        return (-math.inf if self.unreached else low), high

    def above(self, bound: float) -> float:
        return 1.0 if self.unreached else t_tail(self.values, bound)

    def below(self, bound: float) -> float:
        return t_tail([-v for v in self.values], -bound)


@dataclass(frozen=True)
class OneProportion:
    """Favourable trials against a threshold: Clopper-Pearson, exact."""

    successes: int
    trials: int
    threshold: float

    @property
    def n(self) -> int:
        return self.trials

    @property
    def value(self) -> float:
        return self.successes / self.trials - self.threshold

    def interval(self, level: float) -> tuple[float, float]:
        low, high = proportions.clopper_pearson(self.successes, self.trials, level)
        return low - self.threshold, high - self.threshold

    def above(self, bound: float) -> float:
        return proportions.proportion_tail(self.successes, self.trials, self.threshold + bound)

    def below(self, bound: float) -> float:
        return proportions.proportion_tail(self.trials - self.successes, self.trials, 1 - self.threshold - bound)


@dataclass(frozen=True)
class TwoProportions:
    """Favourable trials of an arm and its baseline, independent restarts: exact, ordered by Newcombe's limit."""

    successes: tuple[int, int]
    trials: tuple[int, int]

    @property
    def n(self) -> int:
        return min(self.trials)

    @property
    def value(self) -> float:
        return self.successes[0] / self.trials[0] - self.successes[1] / self.trials[1]

    def interval(self, level: float) -> tuple[float, float]:
        return proportions.exact_difference(self.successes[0], self.trials[0], self.successes[1], self.trials[1], level)

    def above(self, bound: float) -> float:
        return proportions.exact_difference_tail(self.successes[0], self.trials[0], self.successes[1], self.trials[1], bound)

    def below(self, bound: float) -> float:
        return proportions.exact_difference_tail(self.successes[1], self.trials[1], self.successes[0], self.trials[0], -bound)


@dataclass(frozen=True)
class PairedProportions:
    """Pairs of one trial each: how many were favourable in the arm alone and in the baseline alone; exact likewise."""

    only_arm: int
    only_baseline: int
    pairs: int

    @property
    def n(self) -> int:
        return self.pairs

    @property
    def value(self) -> float:
        return (self.only_arm - self.only_baseline) / self.pairs

    def interval(self, level: float) -> tuple[float, float]:
        return proportions.exact_paired_difference(self.only_arm, self.only_baseline, self.pairs, level)

    def above(self, bound: float) -> float:
        return proportions.exact_paired_difference_tail(self.only_arm, self.only_baseline, self.pairs, bound)

    def below(self, bound: float) -> float:
        return proportions.exact_paired_difference_tail(self.only_baseline, self.only_arm, self.pairs, -bound)


def _same(value: float) -> float:
    return value


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """sample: the oriented effect on the scale of the test. d: on that scale too. shown: to the unit of the report.

    rule: "beyond" as above; "within" (`Equivalent`): holds within +-d, reversed wholly outside, never "no effect";
    "at least": as "beyond", but low = d suffices.
    """

    sample: Sample
    d: float
    rule: Rule = "beyond"
    shown: Callable[[float], float] = _same
    limits: tuple[float, float] = (-math.inf, math.inf)
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return self.sample.n

    @property
    def value(self) -> float:
        return self.shown(self.sample.value)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """(low, high) in the unit of the report."""
        low, high = (min(max(end, self.limits[0]), self.limits[1]) for end in self.sample.interval(level))
        return self.shown(low), self.shown(high)

    def verdict(self, level: float = 0.95) -> str:
        return rule_of(*self.sample.interval(level), self.d, self.rule)

    def p(self) -> float:
        """Two-sided p value of the claim's null (below 1 - level where it holds): what Holm's procedure orders."""
        if self.rule == "within":
            return min(1.0, 2 * max(self.sample.above(-self.d), self.sample.below(self.d)))
        return min(1.0, 2 * self.sample.above(self.d))


def rule_of(low: float, high: float, d: float, rule: Rule = "beyond") -> str:
    """The verdict of an interval of an oriented effect. The order of the questions is part of the rule."""
    if rule == "within":
        if -d <= low and high <= d:
            return HOLDS
        return REVERSED if low > d or high < -d else INCONCLUSIVE
    if low > d or (rule == "at least" and low >= d):
        return HOLDS
    if high < 0:
        return REVERSED
    return NO_EFFECT if -d <= low and high <= d else INCONCLUSIVE
