"""Judging a record: the audit of what a claim holds equal, Holm's levels, a verdict per claim.

The primary claim is judged at 95 % and gives the study's verdict. Holm's procedure over all secondary claims that were
registered (those that cannot be judged count as failed) sets the level of each secondary interval. Among entrants none is
primary: the procedure goes over all of them, and the verdict counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from etude.errors import BadInput, one_of
from etude.evidence import readings
from etude.evidence.estimate import Estimate, NotJudged
from etude.evidence.readings import Record
from etude.evidence.statistics import holm_levels
from etude.evidence.wording import remark

if TYPE_CHECKING:
    from etude.evidence.claims import Claim

MIN_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One claim's outcome; JSON-able as it is.

    estimate, interval: positive is as claimed, ratios above 1; None where there is none.
    verdict:  holds | reversed | no effect | inconclusive | not judged: REASON (the estimate is kept where there is one).
    n:        seeds, or trials an arm for `Rate`. note: censored seeds, diverged runs.
    """

    kind: str
    text: str
    estimate: float | None
    interval: tuple[float, float] | None
    level: float
    d: float
    verdict: str
    primary: bool
    n: int
    p: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        out = asdict(self)
        out["interval"] = None if self.interval is None else list(self.interval)
        return out


def primary_of(claims: Sequence[Claim]) -> int | None:
    """The index of the primary claim: the one that says so, else the first; None for entrants, which are equals.

    Raises BadInput for no claims, two primary ones, or entrants beside other claims.
    """
    marked = [i for i, claim in enumerate(claims) if claim.primary]
    if not claims:
        raise BadInput("claims", "none", "at least one")
    if any(claim.family for claim in claims):
        if marked or not all(claim.family for claim in claims):
            raise BadInput("claims", "entrants beside a primary or another claim", "entrants alone")
        return None
    if len(marked) > 1:
        raise BadInput("claims", f"{len(marked)} with primary=True", "one primary claim")
    return marked[0] if marked else 0


def check(claims: Sequence[Claim], reference: Mapping[str, bool]) -> None:
    """Refuses claims that a study cannot make: an unknown arm, a reference arm in an equal-budget claim, two primary ones.

    reference: every arm of the study -> whether it is marked `reference`.
    """
    primary_of(claims)
    for i, claim in enumerate(claims):
        for arm in claim.arms_named:
            if arm not in reference:
                raise one_of(f"claims[{i}] ({type(claim).__name__})", arm, reference)
            if reference[arm] and claim.equal and len(claim.arms_named) > 1:
                raise BadInput(f"claims[{i}] ({type(claim).__name__})", f"reference arm '{arm}' held equal in {', '.join(claim.equal)}",
                               "arms within the budget; reference arms enter no equal-budget claim")  # fmt: skip


class Unequal(NotJudged):
    """What a claim holds equal was measured, and differs."""


def audit(record: Record, claim: Claim) -> None:
    """Raises Unequal where an arm of the claim spent more or less than the baseline did, by over `claim.tolerance`.

    Compared seed by seed against the baseline (the first arm, for claims without one); the worst seed decides, which bounds
    the mean too. A quantity that a ledger does not hold is not equal: nobody measured it (NotJudged).
    """
    against, *others = claim.arms_named
    for quantity in claim.equal:
        base = readings.spent(record, against, quantity)
        for arm in others:
            worst = 0.0
            for one, other in zip(readings.spent(record, arm, quantity), base, strict=True):
                excess = 0.0 if one == other else (one / other - 1 if other else math.inf)
                worst = max(worst, excess, key=abs)
            if abs(worst) > claim.tolerance * (1 + 1e-9):
                raise Unequal(f"unequal {quantity} ({100 * worst:+.1f} %, '{arm}' against '{against}')")


def _diverged(record: Record, claim: Claim) -> list[str]:
    said = []
    for arm in claim.arms_named:
        which = [str(s) for s, bad in zip(record["seeds"], readings.diverged(record, arm), strict=False) if bad]
        if which:
            said.append(f"'{arm}' diverged at seed {', '.join(which)}")
    return said


def _measure(record: Record, claim: Claim) -> tuple[Estimate | None, str, str]:
    """(estimate, reason why it is not judged or "", note). A smoke run is judged though it spends unequally: the note says so."""
    try:
        estimate = claim.estimate(record)
        note = "; ".join([*estimate.notes, *_diverged(record, claim)])
        if estimate.n < MIN_SEEDS:
            return estimate, f"{estimate.n} {'trials' if claim.counted else 'seeds'}, at least {MIN_SEEDS} needed", note
    except NotJudged as reason:
        return None, str(reason), ""
    try:
        audit(record, claim)
    except NotJudged as reason:
        if not (isinstance(reason, Unequal) and remark(record)):
            return estimate, str(reason), note
        # One update of a smoke run is more than any tolerance, and its verdict, which says that it shows nothing, is a rehearsal.
        note = "; ".join(filter(None, [note, f"{reason}, which would not be judged at another scale"]))
    return estimate, "", note


def judge(record: Record, claims: Sequence[Claim], level: float = 0.95) -> list[Judged]:
    """The claims' outcomes, in the claims' order. Pure: the same record gives the same verdicts.

    Raises BadInput for two primary claims, a reference arm in an equal-budget claim, or a metric that an arm does not have.
    """
    first = primary_of(claims)
    ran = {name: bool(arm.get("reference", False)) for name, arm in record["arms"].items()}
    for claim in claims:  # arms left out of a partial run are no fault of the claim; `check` at the study's definition sees them all
        check([claim], {**dict.fromkeys(claim.arms_named, False), **ran})
    measured = [_measure(record, claim) for claim in claims]
    p = [estimate.p() if estimate is not None and not reason else None for estimate, reason, _ in measured]
    secondary = [i for i in range(len(claims)) if i != first]
    levels: dict[int, float] = {} if first is None else {first: level}
    levels.update(zip(secondary, holm_levels([1.0 if (v := p[i]) is None else v for i in secondary], level), strict=True))
    out = []
    for i, (claim, (estimate, reason, note)) in enumerate(zip(claims, measured, strict=True)):
        interval = None
        if estimate is not None and estimate.n >= (1 if claim.counted else 2):
            interval = estimate.interval(levels[i])
        out.append(
            Judged(
                kind=type(claim).__name__,
                text=claim.text,
                estimate=None if estimate is None else estimate.value,
                interval=interval,
                level=levels[i],
                d=claim.d,
                verdict=f"not judged: {reason}" if reason or estimate is None else estimate.verdict(levels[i]),
                primary=i == first,
                n=0 if estimate is None else estimate.n,
                p=p[i],
                note=note,
            )
        )
    return out
