"""The only phase with intervals and verdicts: fresh seeds, paired with the baseline's, Holm over the methods confirmed.

Pure arithmetic on measured values, so that its error rates can be measured on simulated ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from etude.errors import numbered
from etude.evidence.estimate import HOLDS, Estimate, Seeds
from etude.evidence.statistics import holm_levels

LEVEL = 0.95
NOT_JUDGED = "not judged"


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One method against the baseline. estimate, interval: better is positive; None where a run diverged. level: of the interval.
    An estimate that is not judged (it did not spend what the baseline did) is kept, as a study keeps it.

    verdict: holds, reversed, no effect, inconclusive, or "not judged: REASON".
    """

    name: str
    estimate: float | None
    interval: tuple[float, float] | None
    level: float
    p: float
    d: float
    n: int
    verdict: str

    @property
    def holds(self) -> bool:
        return self.verdict == HOLDS

    @property
    def judged(self) -> bool:
        return not self.verdict.startswith(NOT_JUDGED)

    def as_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def confirm(
    values: Mapping[str, Sequence[float]],
    baseline: str,
    d: float,
    lower_is_better: bool = True,
    level: float = LEVEL,
    *,
    seeds: Sequence[int] | None = None,
    unequal: Mapping[str, str] | None = None,
) -> list[Confirmed]:
    """The methods' outcomes, those that are judged first, and best first. values: name -> one value a seed, in the order of `seeds`
    for all (0, 1, ... where they are not told). unequal: name -> how it did not spend what the baseline did.

    Holm's procedure over all methods sets each interval's level; one that diverged, did not spend the same, or has fewer than two seeds
    counts as failed: it gets no verdict, whatever its values.
    """
    base, names = values[baseline], [name for name in values if name != baseline]
    numbers, unequal = list(range(len(base))) if seeds is None else list(seeds), unequal or {}
    estimates: dict[str, Estimate | None] = {}
    reasons: dict[str, str] = {}
    for name in names:
        lost = {one: [seed for seed, v in zip(numbers, values[one], strict=True) if not math.isfinite(v)] for one in (name, baseline)}
        estimates[name] = None
        if any(lost.values()):
            reasons[name] = "; ".join(f"'{one}' diverged at {numbered('seed', bad, show=len(bad))}" for one, bad in lost.items() if bad)
            continue
        if len(base) < 2:
            reasons[name] = "1 seed, at least 2 needed"
            continue
        if name in unequal:
            reasons[name] = unequal[name]
        sign = -1.0 if lower_is_better else 1.0
        estimates[name] = Estimate(sample=Seeds(tuple(sign * (a - b) + 0.0 for a, b in zip(values[name], base, strict=True))), d=d)
    p = [1.0 if e is None or name in reasons else e.p() for name, e in estimates.items()]
    done = []
    for (name, found), one, at in zip(estimates.items(), p, holm_levels(p, level), strict=True):
        told: dict[str, Any] = {"estimate": None, "interval": None}
        if found is not None:
            told = {"estimate": found.value, "interval": found.interval(at), "verdict": found.verdict(at)}
        if name in reasons:
            told["verdict"] = f"{NOT_JUDGED}: {reasons[name]}"
        done.append(Confirmed(name=name, level=at, p=one, d=d, n=len(base), **told))
    return sorted(done, key=lambda c: (c.judged, -math.inf if c.estimate is None else c.estimate), reverse=True)


def winner_of(first: Sequence[Confirmed], second: Sequence[Confirmed], both: str, single: str) -> Confirmed | None:
    """Who won: the best that holds, or None. second: the combination `both` and the best `single` on seeds of their own, or empty.

    The combination wins where it holds and was better than the single one beside it.
    """
    winner = next((c for c in first if c.holds), None)
    measured = {c.name: c for c in second}
    if both in measured:
        gain, alone = measured[both], measured[single]
        if gain.holds and (not alone.judged or (gain.estimate or 0.0) > (alone.estimate or 0.0)):
            return gain
    return winner
