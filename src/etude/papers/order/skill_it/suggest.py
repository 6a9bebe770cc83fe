"""Settings of the sampler for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion

UPDATES = 10
"""Of the mixture in a run, between the authors' 4 (addition) and 9 (natural instructions)."""


def suggest(facts: Facts) -> Suggestion:
    """The approximate graph, by as many short runs as there are domains, which together take a quarter of the run's steps at most."""
    if facts.verified:
        return "its skills are told apart by losses, which prompts for rollouts have none of"
    if facts.domains < 2:
        return "it weighs domains, and the data tells fewer than two apart"
    return {
        "graph": "alone",
        "update_every": max(1, int(facts.steps) // UPDATES),
        "probe_steps": max(1, int(facts.steps / 4 / facts.domains)),
        "held": max(1, min(32, facts.samples // facts.domains // 10)),
    }
