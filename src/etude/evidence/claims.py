"""The claims that a study can make, as data, and what each estimates from a record.

Effects are oriented so that positive is as claimed; `estimate.py` has the rule for verdicts, `verdict.py` applies it with the
audit of `equal` and Holm's levels. Arms and baseline are compared seed by seed: they share all that the method does not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from etude.errors import BadInput
from etude.evidence import readings
from etude.evidence.estimate import Estimate, NotJudged, OneProportion, PairedProportions, Seeds, TwoProportions
from etude.evidence.readings import Record
from etude.evidence.verdict import Judged, check, judge, primary_of

__all__ = [
    "AtLeast", "Better", "Claim", "Correlates", "Entrant", "Equivalent", "Estimate", "Judged", "NotJudged", "Rate", "Ratio", "Trend",
    "check", "judge", "primary_of",
]  # fmt: skip

TOLERANCE, MOST_TOLERANCE = 0.02, 0.05


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What every claim says.

    text:      one sentence, as it is printed beside the verdict.
    d:         the smallest effect of interest, in the unit of the estimate; above 0 (`AtLeast` and a `Rate` with a threshold: 0 or above).
    equal:     what its arms spend alike: quantities of the ledger over all categories ("flops"), or in one ("train.tokens").
    tolerance: largest relative difference at any seed: 0.02, or up to 0.05 with a `tolerance_reason` (sizes that are whole numbers).
    primary:   whether it gives the study's verdict; without a mark the first claim does.
    """

    text: str
    d: float
    equal: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    tolerance_reason: str = ""
    primary: bool = False

    counted: ClassVar[bool] = False  # n is trials, not seeds
    zero_d: ClassVar[bool] = False
    family: ClassVar[bool] = False  # equals of one another: none is primary, and Holm's levels go over all of them

    def __post_init__(self) -> None:
        where = type(self).__name__
        if not self.text.strip():
            raise BadInput(f"{where}.text", "nothing", "one sentence")
        if not math.isfinite(self.d) or self.d < 0 or (self.d == 0 and not self.zero_d):
            raise BadInput(f"{where}.d", repr(self.d), "a number >= 0" if self.zero_d else "a number > 0")
        if isinstance(self.equal, str):
            raise BadInput(f"{where}.equal", repr(self.equal), f"a tuple of quantities, such as ({self.equal!r},)")
        if not 0 <= self.tolerance <= MOST_TOLERANCE:
            raise BadInput(f"{where}.tolerance", repr(self.tolerance), f"a share from 0 to {MOST_TOLERANCE}")
        if self.tolerance > TOLERANCE and not self.tolerance_reason.strip():
            raise BadInput(f"{where}.tolerance_reason", "nothing", f"the reason for a tolerance above {TOLERANCE}")
        self.validate(where)

    def validate(self, where: str) -> None:
        """Raises BadInput for what only this type asks."""

    @property
    def arms_named(self) -> tuple[str, ...]:
        """The claim's arms; `equal` compares the others with the first. One arm alone has nothing to be equal to."""
        raise NotImplementedError

    def estimate(self, record: Record) -> Estimate:
        """What the record says. Raises NotJudged with the reason (seeds missing, not finite) and BadInput for an unknown metric."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """Plain data for registration: the type's name under "type", then every field."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"type": type(self).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def _one_of_two(where: str, metric: str, curve: str) -> None:
    if bool(metric) == bool(curve):
        raise BadInput(where, f"metric={metric!r}, curve={curve!r}", "exactly one of metric and curve")


def _oriented(values: np.ndarray, lower_is_better: bool) -> tuple[float, ...]:
    return tuple(float(v) + 0.0 for v in (-values if lower_is_better else values))  # + 0.0: no negative zero in a table


@dataclass(frozen=True, kw_only=True)
class _Difference(Claim):
    arm: str
    baseline: str
    metric: str = ""
    curve: str = ""
    lower_is_better: bool = True
    equal: tuple[str, ...] = ("flops",)

    def validate(self, where: str) -> None:
        _one_of_two(where, self.metric, self.curve)

    @property
    def arms_named(self) -> tuple[str, ...]:
        return self.baseline, self.arm

    def differences(self, record: Record) -> Seeds:
        if self.metric:
            ours, theirs = (readings.metric(record, arm, self.metric) for arm in (self.arm, self.baseline))
            return Seeds(_oriented(ours - theirs, self.lower_is_better))
        out, names = [], (self.arm, self.baseline)
        for i, pair in enumerate(zip(*(readings.curves(record, arm, self.curve, failed=True) for arm in names), strict=True)):
            x = min((curve[0][-1] for curve in pair if len(curve[0])), default=math.nan)
            ours, theirs = (
                readings.value_at(curve, x) if len(curve[0]) else readings.named_failure(record, arm, self.curve, i)
                for arm, curve in zip(names, pair, strict=True)
            )
            out.append(ours - theirs)
        if not np.isfinite(out).all():
            raise NotJudged(f"curve '{self.curve}' is not finite where it is read")
        return Seeds(_oriented(np.asarray(out), self.lower_is_better))


@dataclass(frozen=True, kw_only=True)
class Better(_Difference):
    """The arm's metric is better than the baseline's by more than `d`.

    Estimate: the mean over seeds of the paired difference, in the metric's unit; with `curve`, of the curves' values at the
    smaller of the two totals of x (so that the x axis is equal by construction). Null: a difference of at most `d`.
    """

    def estimate(self, record: Record) -> Estimate:
        return Estimate(sample=self.differences(record), d=self.d)


@dataclass(frozen=True, kw_only=True)
class Entrant(Claim):
    """One of several arms that are ranked against a baseline over several tasks: it is better there by more than `d`, on average.

    Estimate: the mean over seeds of the paired difference of the `metrics`' mean, one metric a task, higher is better. Null: a difference
    of at most `d`. A study of entrants makes no other claims; its verdict says how many hold.
    """

    arm: str
    baseline: str
    metrics: tuple[str, ...]
    equal: tuple[str, ...] = ("flops",)

    family: ClassVar[bool] = True

    def validate(self, where: str) -> None:
        if isinstance(self.metrics, str) or not self.metrics:
            raise BadInput(f"{where}.metrics", repr(self.metrics), "a tuple of metrics, one a task")

    @property
    def arms_named(self) -> tuple[str, ...]:
        return self.baseline, self.arm

    def estimate(self, record: Record) -> Estimate:
        ours, theirs = (np.stack([readings.metric(record, arm, m) for m in self.metrics]) for arm in (self.arm, self.baseline))
        return Estimate(sample=Seeds(_oriented((ours - theirs).mean(axis=0), False)), d=self.d)


@dataclass(frozen=True, kw_only=True)
class Equivalent(_Difference):
    """Arm and baseline differ by no more than `d`.

    Estimate: as `Better`. Null: the true difference lies outside +-d. Holds when the interval lies within; reversed when it lies
    wholly outside, on either side. The 95 % interval asks for more than two one-sided tests at 5 % would.
    """

    def estimate(self, record: Record) -> Estimate:
        return Estimate(sample=self.differences(record), d=self.d, rule="within")


@dataclass(frozen=True, kw_only=True)
class Ratio(Claim):
    """How many times better: d = 0.1 asks for more than 1.1 times.

    Estimate: the geometric mean over seeds of a ratio, by Student's t on its logarithm; above 1 is as claimed. Null: at most 1 + d.
    With `metric`: arm / baseline, or baseline / arm where lower is better; a value not above 0 is not judged.
    With `curve`: the speed-up, x at which the baseline first is as good as its own last value, over x at which the arm first is.
    First to first, because a noisy baseline reaches its last value before its end, and two equal arms must come out at 1.
    "no effect" is within 1 / (1 + d) to 1 + d.

    Censored: where the arm's curve ends before it gets there (or the arm diverged), only an upper bound of that seed's ratio is
    known, the one for arriving at the end. The interval then begins at 0, so the claim can be reversed or inconclusive, never
    hold or be without effect; its upper end covers the mean of the bounds, which the true mean does not exceed.
    """

    arm: str
    baseline: str
    metric: str = ""
    curve: str = ""
    lower_is_better: bool = True

    def validate(self, where: str) -> None:
        _one_of_two(where, self.metric, self.curve)

    @property
    def arms_named(self) -> tuple[str, ...]:
        return self.baseline, self.arm

    def estimate(self, record: Record) -> Estimate:
        sample, notes = self._of_metric(record) if self.metric else self._of_curve(record)
        return Estimate(sample=sample, d=math.log1p(self.d), shown=math.exp, limits=(-math.inf, 700.0), notes=notes)

    def _of_metric(self, record: Record) -> tuple[Seeds, tuple[str, ...]]:
        ours, theirs = (readings.metric(record, arm, self.metric) for arm in (self.arm, self.baseline))
        if (ours <= 0).any() or (theirs <= 0).any():
            raise NotJudged(f"{self.metric} has values not above 0, whose ratio says nothing")
        return Seeds(_oriented(np.log(ours) - np.log(theirs), self.lower_is_better)), ()

    def _of_curve(self, record: Record) -> tuple[Seeds, tuple[str, ...]]:
        ours = readings.curves(record, self.arm, self.curve, failed=True)
        theirs = readings.curves(record, self.baseline, self.curve)
        logs, never = [], 0
        for arm, base, failed in zip(ours, theirs, readings.diverged(record, self.arm), strict=True):
            if not math.isfinite(base[1][-1]):
                raise NotJudged(f"curve '{self.curve}' of '{self.baseline}' does not end in a finite value")
            x_base = readings.first_reach(base, base[1][-1], self.lower_is_better)
            x_arm = math.inf if failed else readings.first_reach(arm, base[1][-1], self.lower_is_better)
            if not math.isfinite(x_arm):
                never += 1
                x_arm = max(float(base[0][-1]), x_base) if failed else float(arm[0][-1])
            if x_base <= 0 or x_arm <= 0:
                raise NotJudged(f"curve '{self.curve}' is at its target at x = 0")
            logs.append(math.log(x_base) - math.log(x_arm))
        notes = (f"never reached in {never} of {len(logs)} seeds",) if never else ()
        return Seeds(tuple(logs), unreached=never > 0), notes


@dataclass(frozen=True, kw_only=True)
class Trend(Claim):
    """A metric rises (or falls) along an ordered list of arms.

    Estimate: the mean over seeds of the least-squares slope, in the metric's unit per unit of level. levels: one number an arm;
    0, 1, 2, ... where none are given. Null: a slope of at most `d` in the claimed direction.
    """

    arms: tuple[str, ...]
    metric: str
    levels: tuple[float, ...] = ()
    rising: bool = True

    def validate(self, where: str) -> None:
        if len(self.arms) < 3 or len(set(self.arms)) < len(self.arms):
            raise BadInput(f"{where}.arms", repr(self.arms), "at least 3 different arms, in order")
        if self.levels and len(self.levels) != len(self.arms):
            raise BadInput(f"{where}.levels", f"{len(self.levels)} for {len(self.arms)} arms", "one number an arm")
        if self.levels and any(b <= a for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise BadInput(f"{where}.levels", repr(self.levels), "numbers in rising order")

    @property
    def arms_named(self) -> tuple[str, ...]:
        return self.arms

    def estimate(self, record: Record) -> Estimate:
        values = np.stack([readings.metric(record, arm, self.metric) for arm in self.arms])  # [arms, seeds]
        levels = np.asarray(self.levels or range(len(self.arms)), dtype=np.float64)
        centred = levels - levels.mean()
        slopes = centred @ (values - values[0]) / (centred @ centred)  # minus the first arm: constant metrics slope by exactly 0
        return Estimate(sample=Seeds(_oriented(slopes, not self.rising)), d=self.d)


@dataclass(frozen=True, kw_only=True)
class AtLeast(Claim):
    """One arm's metric is at least `threshold` (`at_most`: at most), with a margin of `d` (0 by default) on top.

    Estimate: the mean over seeds of metric - threshold (or threshold - metric), in the metric's unit. Holds where the interval
    begins at d or above, so that a metric that is exactly at the threshold at every seed holds. Null: a margin below `d`.
    """

    arm: str
    metric: str
    threshold: float
    at_most: bool = False
    d: float = 0.0

    zero_d: ClassVar[bool] = True

    def validate(self, where: str) -> None:
        if not math.isfinite(self.threshold):
            raise BadInput(f"{where}.threshold", repr(self.threshold), "a finite number")

    @property
    def arms_named(self) -> tuple[str, ...]:
        return (self.arm,)

    def estimate(self, record: Record) -> Estimate:
        values = readings.metric(record, self.arm, self.metric)
        return Estimate(sample=Seeds(_oriented(values - self.threshold, self.at_most)), d=self.d, rule="at least")


@dataclass(frozen=True, kw_only=True)
class Rate(Claim):
    """How often restarts succeed: the arm more often than the baseline, or than a `threshold`.

    Every trial must be a run of its own; items inside a run belong to a metric. Estimate: the difference of the two proportions,
    or proportion - threshold (with `lower_is_better`, of the trials that were spared: positive is as claimed). Null: at most `d`.
    One trial a seed in both arms: pairs by seed. Otherwise trials are pooled over seeds, as independent. Intervals are exact:
    Clopper-Pearson for one proportion; for two, tables ordered by (paired) Newcombe's limit. A diverged run is a failure.
    """

    arm: str
    count: str
    baseline: str = ""
    threshold: float = -1.0  # used where there is no baseline; a share, 0 to 1
    lower_is_better: bool = False
    equal: tuple[str, ...] = ("flops",)

    counted: ClassVar[bool] = True

    @property
    def arms_named(self) -> tuple[str, ...]:
        return (self.baseline, self.arm) if self.baseline else (self.arm,)

    def validate(self, where: str) -> None:
        if self.baseline and self.threshold != -1.0:
            raise BadInput(f"{where}.threshold", repr(self.threshold), "either a baseline or a threshold")
        if not self.baseline and not 0 <= self.threshold <= 1:
            raise BadInput(f"{where}.threshold", repr(self.threshold), "a baseline, or a share from 0 to 1")

    def estimate(self, record: Record) -> Estimate:
        ours = readings.counts(record, self.arm, self.count, self.lower_is_better)
        hits, trials = sum(k for k, _ in ours), sum(n for _, n in ours)
        if not self.baseline:
            threshold = 1 - self.threshold if self.lower_is_better else self.threshold
            return Estimate(sample=OneProportion(hits, trials, threshold), d=self.d)
        theirs = readings.counts(record, self.baseline, self.count, self.lower_is_better)
        if all(n == 1 for _, n in [*ours, *theirs]):
            pairs = [(a, b) for (a, _), (b, _) in zip(ours, theirs, strict=True)]
            return Estimate(sample=PairedProportions(pairs.count((1, 0)), pairs.count((0, 1)), len(pairs)), d=self.d)
        return Estimate(sample=TwoProportions((hits, sum(k for k, _ in theirs)), (trials, sum(n for _, n in theirs))), d=self.d)


@dataclass(frozen=True, kw_only=True)
class Correlates(Claim):
    """Two quantities go together, in every seed anew.

    Points of one seed: `metric` against `against` over the listed arms, or the points (x, y) of one arm's `curve`; at least 4.
    Estimate: the mean over seeds of the per-seed correlation, -1 to 1, by Student's t over seeds (not on Fisher's z, which is
    infinite at the perfect rank correlations that few points often give). Null: a correlation of at most `d` as claimed.
    A quantity that does not vary in some seed has no correlation there: not judged.
    """

    arms: tuple[str, ...] = ()
    metric: str = ""
    against: str = ""
    curve: str = ""
    method: Literal["spearman", "pearson"] = "spearman"
    positive: bool = True

    def validate(self, where: str) -> None:
        _one_of_two(where, self.metric, self.curve)
        if self.method not in ("spearman", "pearson"):
            raise BadInput(f"{where}.method", repr(self.method), "spearman or pearson")
        if self.metric and (not self.against or len(self.arms) < 4):
            raise BadInput(where, f"{len(self.arms)} arms, against={self.against!r}", "at least 4 arms and a metric to hold against")
        if self.curve and len(self.arms) != 1:
            raise BadInput(f"{where}.arms", repr(self.arms), "the one arm whose curve is meant")
        if self.d >= 1:
            raise BadInput(f"{where}.d", repr(self.d), "a correlation below 1")

    @property
    def arms_named(self) -> tuple[str, ...]:
        return self.arms

    def _points(self, record: Record) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        if self.curve:
            return readings.curves(record, self.arms[0], self.curve, rising=False)
        sides = [np.stack([readings.metric(record, arm, name) for arm in self.arms]) for name in (self.metric, self.against)]
        return [(sides[0][:, i], sides[1][:, i]) for i in range(len(record["seeds"]))]

    def estimate(self, record: Record) -> Estimate:
        values = []
        for seed, (x, y) in zip(record["seeds"], self._points(record), strict=True):
            if len(x) < 4 or not (np.isfinite(x).all() and np.isfinite(y).all()):
                raise NotJudged(f"seed {seed} has {len(x)} points or some not finite; at least 4 finite ones needed")
            if np.ptp(x) == 0 or np.ptp(y) == 0:
                raise NotJudged(f"one side does not vary at seed {seed}")
            if self.method == "spearman":
                from scipy.stats import rankdata  # half a second to import, which every command would wait for

                x, y = rankdata(x), rankdata(y)
            values.append(float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1)))
        return Estimate(sample=Seeds(_oriented(np.asarray(values), not self.positive)), d=self.d, limits=(-1.0, 1.0))
