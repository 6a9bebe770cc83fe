"""The effect of an arm at equal FLOPs and at equal wall time, where arms end at different totals.

Read from the evaluation curves at the smaller of the two totals, by linear interpolation, seed by seed. An arm whose run
goes on behind that point is read in mid-schedule (its learning rate has not come down yet), which the entry says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etude.evidence.statistics import t_interval
from etude.evidence.wording import HIGHER, effect

QUANTITIES = ("flops", "seconds")
TOLERANCE = 0.02  # relative; totals nearer than this count as equal


def matched_effects(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """quantity -> arm -> {"measure", "estimate", "interval", "n", "at", "mid_schedule", "reason"}.

    estimate: mean over seeds of (arm - baseline) of the headline metric's curve, or else of the first curve over that
    quantity; at: the mean total at which it was read; mid_schedule: whose run goes on behind it, "" where both end there.
    reason: why there is no estimate (the rest is then None): leaving out the seeds that cannot be read would select among them.
    Arms or quantities without curves are left out, reference arms too.
    """
    arms, baseline = record["arms"], record["baseline"]
    found: dict[str, dict[str, Any]] = {}
    for quantity in QUANTITIES:
        name = _curve_over(quantity, record) if baseline in arms else None
        if name is None:
            continue
        found[quantity] = {}
        for arm, told in arms.items():
            if arm == baseline or told["reference"] or name not in told["curves"]:
                continue
            entry = _matched(told["curves"][name], arms[baseline]["curves"][name], arm, baseline)
            found[quantity][arm] = {"measure": name.rsplit(" / ", 1)[0], **entry}
    return {quantity: entries for quantity, entries in found.items() if entries}


def signs_differ(matched: Mapping[str, Mapping[str, Any]], arms: Sequence[str]) -> list[str]:
    """A sentence for each of `arms` whose effect at equal FLOPs has the other sign than at equal wall time."""
    told = []
    for arm in arms:
        flops, seconds = (matched.get(quantity, {}).get(arm) for quantity in QUANTITIES)
        if not flops or not seconds or None in (flops["estimate"], seconds["estimate"]):
            continue
        if flops["estimate"] * seconds["estimate"] < 0:
            told.append(
                f"the signs differ for {arm}: {flops['measure']} {effect(flops['estimate'], None, HIGHER)} at equal FLOPs, "
                f"{effect(seconds['estimate'], None, HIGHER)} at equal wall time"
            )
    return told


def _curve_over(quantity: str, record: Mapping[str, Any]) -> str | None:
    names = [name for name in record["arms"][record["baseline"]]["curves"] if name.rsplit(" / ", 1)[-1] == quantity]
    headline = f"{record['headline']} / {quantity}"
    return headline if headline in names else names[0] if names else None


def _matched(ours: Sequence[Any], theirs: Sequence[Any], arm: str, baseline: str) -> dict[str, Any]:
    differences, places, ratios = [], [], []
    empty = late = early = 0
    for one, other in zip(ours, theirs, strict=True):
        if not one or not other or not one[0] or not other[0]:
            empty += 1  # a diverged run has no curve
            continue
        total = min(one[0][-1], other[0][-1])
        if one[0][0] > total or other[0][0] > total:
            late, early = late + (one[0][0] > total), early + (other[0][0] > total)
            continue
        ratio = one[0][-1] / other[0][-1] if other[0][-1] else math.nan
        equal = abs(ratio - 1) <= TOLERANCE
        read = [float(y[-1] if equal else np.interp(total, x, y)) for x, y in (one, other)]
        differences.append(read[0] - read[1])
        places.append(total)
        ratios.append(ratio)
    seeds = f"of {len(ours)} seeds"
    reasons = [f"'{arm}' begins after the end of '{baseline}' in {late} {seeds}"] * bool(late)
    reasons += [f"'{baseline}' begins after the end of '{arm}' in {early} {seeds}"] * bool(early)
    reasons += [f"no curve in {empty} {seeds}"] * bool(empty)
    if not reasons and not all(math.isfinite(v) for v in [*differences, *ratios]):
        reasons = ["a curve is not finite where it is read"]
    if reasons or not differences:
        nothing = dict.fromkeys(("estimate", "interval", "at"))
        return {**nothing, "n": 0, "mid_schedule": "", "reason": "; ".join(reasons) or "no seeds"}
    mean_ratio = float(np.mean(ratios))
    longer = "" if abs(mean_ratio - 1) <= TOLERANCE else arm if mean_ratio > 1 else baseline
    low, high = t_interval(differences) if len(differences) > 1 else (-math.inf, math.inf)
    return {
        "estimate": float(np.mean(differences)), "interval": [low, high], "n": len(differences),
        "at": float(np.mean(places)), "mid_schedule": longer, "reason": "",
    }  # fmt: skip
