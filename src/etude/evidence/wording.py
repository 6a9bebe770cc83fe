"""How numbers, effects and runs are put into words, alike in tables, verdict lines, figures and pages. Loads neither numpy nor torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

BETTER, HIGHER = ("better by", "worse by"), ("higher by", "lower by")
_WORDS = {
    "Ratio": ("better by a factor of", "worse by a factor of"),
    "AtLeast": ("beyond the threshold by", "short of the threshold by"),
    "Trend": ("as claimed, per level by", "the other way, per level by"),
    "Correlates": ("as claimed, correlation", "the other way, correlation"),
}
"""By claim type: what a positive estimate is called, and a negative one; `BETTER` for the others."""


def amount(value: float) -> str:
    """1.23M, 4.5T; a dash for nothing."""
    if not math.isfinite(value) or value == 0:
        return "–"
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def effect(value: float, interval: Sequence[float | None] | None, words: tuple[str, str] = BETTER, factor: bool = False) -> str:
    """ "better by 0.2 [0.16, 0.241]", or "worse by 0.1 [-0.05, 0.25]" for -0.1 in [-0.25, 0.05].

    words: for an effect above 0 and below it; the number and its interval are then said in that direction. factor: the effect is
    a ratio, whose middle is 1. interval: None where there is none, and None for an end that is not known.
    """
    ends = () if interval is None else tuple(interval)
    if not factor and abs(value) < 1e-12 * max((abs(end) for end in ends if end and math.isfinite(end)), default=0.0):
        value = 0.0  # what rounding leaves of equal means
    turned = value < (1 if factor else 0)
    if turned:
        value, ends = _turn(value, factor), tuple(None if end is None else _turn(end, factor) for end in reversed(ends))
    shown = f" [{', '.join(_end(end) for end in ends)}]" if ends else ""
    return f"{words[turned]} {value:.3g}{shown}"


def claim_effect(claim: Mapping[str, Any], level: bool = False) -> str:
    """The estimate of a judged claim in words, "" where it has none. level: with that of the interval, where it is known."""
    if claim["estimate"] is None:
        return ""
    kind = claim.get("kind", "")
    said = effect(claim["estimate"], claim["interval"], _WORDS.get(kind, BETTER), factor=kind == "Ratio")
    if level and claim["interval"] is not None and claim.get("level"):
        said = said.replace(" [", f", {100 * claim['level']:.3g} % interval [")
    return said


def remark(record: Mapping[str, Any]) -> str:
    """What must be said beside any number of a run that is too short to show anything; "" for the others."""
    return "smoke: shows that everything runs, nothing about the method" if record.get("scale") == "smoke" else ""


def _turn(value: float, factor: bool) -> float:
    if not factor:
        return 0.0 - value
    return math.inf if value == 0 else 1 / value


def _end(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "?"
    return f"{value:.3g}" if math.isfinite(value) else "∞" if value > 0 else "-∞"
