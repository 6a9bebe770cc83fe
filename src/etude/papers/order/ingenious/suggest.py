"""Settings of the subsets for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion

EPOCHS = 250_000 * 1024 / 41.5e6
"""Passes over the corpus that the paper's run comes to: updates times samples of an update over samples (section 4)."""
SHARE, PASSES = 0.25, 2.5


def suggest(facts: Facts) -> Suggestion:
    """The paper's run, drawn to this one's length: one pass of its 6.2 is the warm start, and each subset is seen for 2.5 of what is left.

    A run of a few passes has room for few subsets: of less than one after the warm start there is nothing to choose.
    """
    if facts.verified:
        return "it embeds samples that are read, which prompts for rollouts are not"
    warm = facts.epochs / EPOCHS
    if facts.epochs - warm < SHARE:
        return (
            f"one subset takes {SHARE:g} passes over the data after a warm start, found {facts.epochs:.2g}: a larger budget, or less data"
        )
    return {"share": SHARE, "warm_start": warm, "passes": PASSES * min(1.0, (facts.epochs - warm) / (SHARE * PASSES))}
