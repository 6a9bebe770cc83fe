"""Settings of the mixture for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion


def suggest(facts: Facts) -> Suggestion:
    """None: it buys infilling with quality from left to right (the paper's lesson, and this study's), which is what a recipe measures."""
    return "it teaches to fill holes at the cost of what a held-out loss measures: [[methods]] use = 'codegen2' in the recipe itself"
