"""Settings of the sampler for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion


def suggest(facts: Facts) -> Suggestion:
    """The paper's signal, the advantage, where rollouts have one; else the mean loss of a domain. The rest is the paper's."""
    return {} if facts.verified else {"signal": "loss"}
