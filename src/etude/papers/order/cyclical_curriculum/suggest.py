"""Settings of the curriculum for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion


def suggest(facts: Facts) -> Suggestion:
    """The paper's own shares (a quarter of the data to all of it, doubled each short epoch), for a run that is long enough.

    One cycle up and down, 1 + 1/2 + 1/4 + 1/2 of the data, is 2.25 passes; a run of fewer shows next to nothing of it.
    """
    if facts.epochs < 2.25:
        return f"one cycle takes 2.25 passes over the data, found {facts.epochs:.2g}: a larger budget, or less data"
    return {}
