"""Whether the runs of a phase spent what they were given: the audit that studies have, and each run that is off by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from etude.errors import numbered
from etude.evidence.claims import Better
from etude.evidence.estimate import NotJudged
from etude.evidence.verdict import audit

TOLERANCE = 0.02


def unequal(record: Mapping[str, Any], arms: Iterable[str], baseline: str, metric: str, d: float) -> dict[str, str]:
    """arm -> how its FLOPs differ from the baseline's at the same seed by more than the tolerance, of the arms that do.

    A run that diverged has spent what it had come to, and is told as diverged elsewhere: it is not among them.
    """
    told = {}
    diverged = {name for name, arm in record["arms"].items() if any(arm.get("diverged") or ())}
    for arm in arms:
        if arm == baseline or diverged & {arm, baseline}:
            continue
        claim = Better(text=arm, arm=arm, baseline=baseline, metric=metric, d=d, equal=("flops",), tolerance=TOLERANCE)
        try:
            audit(record, claim)
        except NotJudged as reason:
            told[arm] = str(reason)
    return told


def off_budget(record: Mapping[str, Any], flops: float) -> list[dict[str, Any]]:
    """[{"arm", "seed", "excess"}] of the finished runs that spent more or less than their budget by over the tolerance.

    excess: a share of the budget, negative where less was spent; half an update of one that makes few is more than the tolerance.
    """
    told = []
    for name, arm in record["arms"].items():
        for seed, ledger, lost in zip(record["seeds"], arm["ledger"], arm["diverged"], strict=True):
            excess = math.fsum(row.get("flops", 0.0) for row in ledger.values()) / flops - 1
            if not lost and abs(excess) > TOLERANCE:
                told.append({"arm": name, "seed": seed, "excess": excess})
    return told


def spending_lines(off: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each arm of a phase with runs that are off: which seeds, and by how much at most. off: with "phase" in each."""
    by_arm: dict[tuple[str, str, bool], list[Mapping[str, Any]]] = {}
    for one in off:
        by_arm.setdefault((one["phase"], one["arm"], one["excess"] > 0), []).append(one)
    said = []
    for (phase, arm, over), runs in by_arm.items():
        most = ("at most " if len(runs) > 1 else "") + f"{max(abs(run['excess']) for run in runs):.1%}"
        seeds = numbered("seed", [run["seed"] for run in runs], show=len(runs))
        said.append(f"{phase}: {arm} went {most} {'over' if over else 'short of'} its budget at {seeds}")
    return said
