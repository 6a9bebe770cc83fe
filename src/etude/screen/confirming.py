"""The only phase with intervals and verdicts: fresh seeds, paired with the baseline's, Holm over the methods confirmed.

Pure arithmetic on measured values, so that its error rates can be measured on simulated ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from etude.evidence.estimate import HOLDS, Estimate, Seeds
from etude.evidence.statistics import holm_levels

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One method against the baseline. estimate, interval: better is positive; None where a run diverged. level: of the interval.

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

    def as_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def confirm(
    values: Mapping[str, Sequence[float]], baseline: str, d: float, lower_is_better: bool = True, level: float = LEVEL
) -> list[Confirmed]:
    """The methods' outcomes, best first. values: name -> one value a seed, in the same order of seeds for all.

    Holm's procedure over all methods sets each interval's level; one that diverged, or has fewer than two seeds, counts as failed.
    """
    base, names = values[baseline], [name for name in values if name != baseline]
    estimates: dict[str, Estimate | str] = {}
    for name in names:
        bad = [i for i, pair in enumerate(zip(values[name], base, strict=True)) if not all(map(math.isfinite, pair))]
        if bad:
            estimates[name] = f"diverged at seed {', '.join(map(str, bad))}"
        elif len(base) < 2:
            estimates[name] = "1 seed, at least 2 needed"
        else:
            sign = -1.0 if lower_is_better else 1.0
            estimates[name] = Estimate(sample=Seeds(tuple(sign * (a - b) + 0.0 for a, b in zip(values[name], base, strict=True))), d=d)
    p = [e.p() if isinstance(e, Estimate) else 1.0 for e in estimates.values()]
    done = []
    for (name, found), one, at in zip(estimates.items(), p, holm_levels(p, level), strict=True):
        if isinstance(found, str):
            told: dict[str, Any] = {"estimate": None, "interval": None, "verdict": f"not judged: {found}"}
        else:
            told = {"estimate": found.value, "interval": found.interval(at), "verdict": found.verdict(at)}
        done.append(Confirmed(name=name, level=at, p=one, d=d, n=len(base), **told))
    return sorted(done, key=lambda c: -math.inf if c.estimate is None else c.estimate, reverse=True)


def winner_of(first: Sequence[Confirmed], second: Sequence[Confirmed], both: str, single: str) -> Confirmed | None:
    """Who won: the best that holds, or None. second: the combination `both` and the best `single` on seeds of their own, or empty.

    The combination wins where it holds and was better than the single one beside it.
    """
    winner = next((c for c in first if c.holds), None)
    measured = {c.name: c for c in second}
    if both in measured:
        gain, alone = measured[both], measured[single]
        if gain.holds and (alone.estimate is None or (gain.estimate or 0.0) > alone.estimate):
            return gain
    return winner
