"""Settings of the hints for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion


def suggest(facts: Facts) -> Suggestion:
    """None: which domains are hints, and to which task, is not in the data. Half of each batch is the study's share."""
    return "it wants to know which domains are hints: [[methods]] use = 'task-hinting', hints = ['NAME'], in the recipe itself"
