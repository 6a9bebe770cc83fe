"""Successive halving over methods and learning rates, as arithmetic: which runs a rung asks for, and who goes on.

The baseline has the same learning rates as every candidate, is in every rung and is never dropped. A candidate is dropped by
what its best learning rate measured against the baseline's best, at the same seeds; before its `earliest_rung` it is not.
Nothing here trains, so that the whole procedure can be tried on simulated learners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arm = tuple[str, float]
"""A candidate's name and a learning rate."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """share: of the whole budget, for each of its runs. keep: candidates that go on; rates: learning rates that each keeps."""

    share: float
    keep: int
    rates: int


def ladder(candidates: int, rates: int, k: int, num_rungs: int = 2, factor: float = 2.0) -> list[Rung]:
    """Rungs of shares factor ** -num_rungs ... factor ** -1; the last leaves k candidates with one learning rate.

    Counts fall geometrically from all to k, and from all learning rates to one.
    """
    rungs = []
    for r in range(1, num_rungs + 1):
        done = r / num_rungs
        keep = k if r == num_rungs else math.ceil(candidates * (k / max(candidates, 1)) ** done) if candidates > k else candidates
        left = 1 if r == num_rungs else max(1, math.ceil(rates * (1 / rates) ** done))
        rungs.append(Rung(share=factor ** (r - 1 - num_rungs), keep=max(1, min(keep, candidates)), rates=left))
    return rungs


def survivors(
    results: Mapping[Arm, Sequence[float]],
    rung: Rung,
    number: int,
    earliest: Mapping[str, int],
    baseline: str,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """({name: its learning rates that go on, best first}, {name: why it was dropped}) after rung `number` (from 0).

    results: (name, learning rate) -> a loss at each seed, lower is better; infinite where a run diverged. The baseline is among
    the survivors. Ties go to the earlier name and the lower rate.
    """
    mean = {arm: _mean(values) for arm, values in results.items()}
    best: dict[str, list[float]] = {}
    for name, _ in results:
        if name not in best:
            best[name] = sorted((rate for n, rate in results if n == name), key=lambda rate: (mean[name, rate], rate))
    ranked = sorted((n for n in best if n != baseline), key=lambda n: (mean[n, best[n][0]], list(best).index(n)))
    waits = [n for n in ranked if earliest.get(n, 0) > number]
    places = max(rung.keep - len(waits), 0)
    kept = {*waits, *[n for n in ranked if n not in waits and math.isfinite(mean[n, best[n][0]])][:places]}
    dropped = {}
    for n in ranked:
        if n not in kept:
            found = mean[n, best[n][0]]
            against = found - mean[baseline, best[baseline][0]]
            dropped[n] = (
                f"rung {number + 1}: {against:+.4g} against the baseline" if math.isfinite(found) else f"rung {number + 1}: diverged"
            )
    return {n: best[n][: rung.rates] for n in best if n == baseline or n in kept}, dropped


@dataclass(kw_only=True)
class Selected:
    """rates: name -> its best learning rate, of the baseline and of who was not dropped, the baseline first and then best first.

    dropped: name -> why. history: per rung what it measured. edge: names whose best rate is the lowest or highest tried.
    """

    rates: dict[str, float]
    dropped: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    edge: list[str] = field(default_factory=list)


Measure = Callable[[int, list[Arm], float], Mapping[Arm, Sequence[float]]]
"""(number of the rung, its arms, its share of the budget) -> arm -> a loss at each of the rung's seeds, lower is better."""


def select(
    names: Sequence[str], rates: Sequence[float], rungs: Sequence[Rung], earliest: Mapping[str, int], baseline: str, measure: Measure
) -> Selected:
    """The whole selection. names: the candidates, without the baseline."""
    kept: dict[str, list[float]] = {name: list(rates) for name in (baseline, *names)}
    done = Selected(rates={})
    results: Mapping[Arm, Sequence[float]] = {}
    for number, rung in enumerate(rungs):
        arms = [(name, rate) for name, own in kept.items() for rate in own]
        results = measure(number, arms, rung.share)
        kept, gone = survivors(results, rung, number, earliest, baseline)
        done.dropped |= gone
        told = [{"name": name, "rate": rate, "values": list(values)} for (name, rate), values in results.items()]
        done.history.append({"phase": f"select, rung {number + 1} of {len(rungs)}", "share": rung.share, "results": told, "dropped": gone})
    ranked = sorted((n for n in kept if n != baseline), key=lambda n: _mean(results[n, kept[n][0]]))
    done.rates = {name: kept[name][0] for name in (baseline, *ranked)}
    done.edge = [n for n, rate in done.rates.items() if len(rates) > 1 and rate in (min(rates), max(rates))]
    return done


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(math.isfinite(v) for v in values) else math.inf
