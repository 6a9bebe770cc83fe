"""Reading a record for its claims: per-seed metrics, counts, curves and ledgers, or the reason why there are none.

A record is plain data: {"seeds": [...], "arms": {name: {"metrics": {metric: [per seed]}, "counts": {name: [[successes,
trials] per seed]}, "curves": {name: [[xs, ys] per seed]}, "ledger": [{category: {quantity: amount}} per seed],
"reference": bool, "diverged": [bool per seed]}}}. Entries of one list belong to `seeds` by position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etude.errors import BadInput, one_of
from etude.evidence.estimate import NotJudged

Record = Mapping[str, Any]
Curve = tuple[np.ndarray, np.ndarray]


def arm_of(record: Record, arm: str) -> Mapping[str, Any]:
    if arm not in record["arms"]:
        raise NotJudged(f"arm '{arm}' was not run")
    return record["arms"][arm]


def _per_seed(record: Record, arm: str, kind: str, name: str) -> list[Any]:
    table = arm_of(record, arm).get(kind) or {}
    if name not in table:
        raise one_of(f"claim: {kind} of arm '{arm}'", name, table)
    rows = list(table[name])
    if len(rows) != len(record["seeds"]):
        raise NotJudged(f"arm '{arm}' has {len(rows)} of {len(record['seeds'])} seeds")
    for seed, row in zip(record["seeds"], rows, strict=True):
        if row is None:
            raise NotJudged(f"{name} of '{arm}' is missing at seed {seed}")
    return rows


def metric(record: Record, arm: str, name: str) -> np.ndarray:
    """[n] finite values. A diverged run must have left the number that its study names for a failure."""
    values = np.asarray(_per_seed(record, arm, "metrics", name), dtype=np.float64)
    for seed, value in zip(record["seeds"], values, strict=True):
        if not math.isfinite(value):
            raise NotJudged(f"{name} of '{arm}' is {value} at seed {seed}")
    return values


def diverged(record: Record, arm: str) -> list[bool]:
    flags = arm_of(record, arm).get("diverged") or [False] * len(record["seeds"])
    return [bool(f) for f in flags]


def counts(record: Record, arm: str, name: str, lower_is_better: bool) -> list[tuple[int, int]]:
    """(favourable, trials) per seed. All trials of a run that diverged are unfavourable, whatever it had counted."""
    out = []
    for seed, (pair, failed) in enumerate(zip(_per_seed(record, arm, "counts", name), diverged(record, arm), strict=True)):
        successes, trials = pair
        if not (0 <= successes <= trials and trials >= 1 and successes == int(successes) and trials == int(trials)):
            raise BadInput(f"record: counts '{name}' of '{arm}' at seed {record['seeds'][seed]}", f"{list(pair)}", "[successes, trials]")
        favourable = trials - successes if lower_is_better else successes
        out.append((0 if failed else int(favourable), int(trials)))
    return out


def curves(record: Record, arm: str, name: str, *, rising: bool = True, failed: bool = False) -> list[Curve]:
    """(xs, ys) per seed, at least one point each; xs must be finite and rise unless `rising` is off (plain points).

    failed: a run that diverged may have left no point at all.
    """
    out = []
    for seed, pair, lost in zip(record["seeds"], _per_seed(record, arm, "curves", name), diverged(record, arm), strict=True):
        xs, ys = (np.asarray([math.nan if v is None else v for v in side], dtype=np.float64) for side in pair)
        if failed and lost and len(xs) == len(ys) == 0:
            out.append((xs, ys))
            continue
        if len(xs) == 0 or len(xs) != len(ys):
            raise NotJudged(f"curve '{name}' of '{arm}' has {len(xs)} xs and {len(ys)} ys at seed {seed}")
        if rising and (not np.isfinite(xs).all() or (np.diff(xs) < 0).any()):
            raise BadInput(f"record: curve '{name}' of '{arm}' at seed {seed}", "xs that fall or are not finite", "rising xs")
        out.append((xs, ys))
    return out


def first_reach(curve: Curve, target: float, lower_is_better: bool) -> float:
    """The first x at which the curve is as good as `target`, by linear interpolation between evaluations; inf if never."""
    xs, ys = curve
    gap = (ys - target) if lower_is_better else (target - ys)  # positive: not there yet; nan never counts as there
    hits = np.flatnonzero(gap <= 0)
    if len(hits) == 0:
        return math.inf
    i = int(hits[0])
    if i == 0 or not math.isfinite(gap[i - 1]):
        return float(xs[i])
    return float(xs[i - 1] + (xs[i] - xs[i - 1]) * gap[i - 1] / (gap[i - 1] - gap[i]))


def named_failure(record: Record, arm: str, curve: str, i: int) -> float:
    """What a diverged run without a curve counts as: its metric of the curve's name ("loss" of "loss / flops"), or NaN."""
    values = arm_of(record, arm)["metrics"].get(curve.rsplit(" / ", 1)[0])
    return math.nan if values is None else float(values[i])


def value_at(curve: Curve, x: float) -> float:
    """The curve's value at `x` by linear interpolation; its last value beyond its end."""
    return float(np.interp(x, curve[0], curve[1]))


def spent(record: Record, arm: str, quantity: str) -> list[float]:
    """Per seed, the amount of a quantity ("flops") over all categories, or in one ("train.flops"); "parameters" may stand beside."""
    category, _, plain = quantity.rpartition(".")
    row = arm_of(record, arm)
    ledgers: Sequence[Mapping[str, Mapping[str, float]]] = row.get("ledger") or []
    out: list[float] = []
    for ledger in ledgers:
        amounts = [amounts[plain] for name, amounts in (ledger or {}).items() if plain in amounts and category in ("", name)]
        if amounts:
            out.append(math.fsum(amounts))
    if not out and isinstance(row.get(quantity), Sequence):
        out = [float(v) for v in row[quantity]]
    if len(out) != len(record["seeds"]):
        raise NotJudged(f"{quantity} of '{arm}' not in the ledger of {len(record['seeds']) - len(out)} seeds")
    return out
