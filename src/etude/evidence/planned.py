"""Planned budgets: what arms say they will spend, held against the claims' `equal` before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from etude.errors import BadInput
from etude.evidence.study import Study


def amounts(study: Study, scale: str, arm: str) -> dict[str, float]:
    """quantity ("flops", "train.samples") -> amount that one run of the arm plans; empty where it says nothing. Raises BadInput."""
    plan = study.arms[arm].planned
    if plan is None:
        return {}
    told = plan(study.scales[scale].settings)
    where = f"{study.slug}, arms.{arm}.planned"
    if not isinstance(told, Mapping):
        raise BadInput(where, type(told).__name__, "a mapping such as {'flops': 1.2e12}")
    for quantity, amount in told.items():
        if not isinstance(amount, (int, float)) or not (math.isfinite(amount) and amount >= 0):
            raise BadInput(f"{where}['{quantity}']", repr(amount), "a number >= 0")
    return {str(quantity): float(amount) for quantity, amount in told.items()}


def spent(planned: Mapping[str, float], quantity: str) -> float | None:
    """The planned amount of a quantity: as it is named, or over all categories; None where the plan does not say."""
    if quantity in planned:
        return planned[quantity]
    rows = [amount for name, amount in planned.items() if name.rpartition(".")[2] == quantity]
    return math.fsum(rows) if rows else None


def ledger(planned: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The plan as a ledger, charged to a run that never came to its end; what names no category is training."""
    entries: dict[str, dict[str, float]] = {}
    for name, amount in planned.items():
        category, _, quantity = name.rpartition(".")
        if quantity != "parameters":
            entries.setdefault(category or "train", {})[quantity] = amount
    return entries


def check(study: Study, scale: str, arms: Iterable[str]) -> dict[str, dict[str, float]]:
    """arm -> its planned amounts, for those of `arms` that say them.

    Raises BadInput where two arms of a claim plan amounts of what it holds equal that differ by more than its tolerance.
    """
    plans = {arm: amounts(study, scale, arm) for arm in arms}
    for i, claim in enumerate(study.claims):
        against, *others = claim.arms_named
        for quantity in claim.equal:
            base = spent(plans.get(against, {}), quantity)
            for arm in others:
                one = spent(plans.get(arm, {}), quantity)
                if one is None or base is None or one == base:
                    continue
                excess = one / base - 1 if base else math.inf
                if abs(excess) > claim.tolerance * (1 + 1e-9):
                    raise BadInput(
                        f"{study.slug}, claims[{i}] ({claim.text}), planned {quantity} at {scale} scale",
                        f"{one:.6g} for '{arm}' and {base:.6g} for '{against}' ({100 * excess:+.1f} %)",
                        f"amounts within {100 * claim.tolerance:g} %",
                    )
    return {arm: plan for arm, plan in plans.items() if plan}
