"""Settings of the tuning for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion


def suggest(facts: Facts) -> Suggestion:
    """The paper's own (half of the updates, decay 0.5 for open-ended text), for what it is meant for: the tuning of a trained model.

    It takes half of the updates from learning text, which a model from scratch cannot spare, and which has no loops to lose yet.
    """
    if facts.verified or facts.recipe.get("objective", {}).get("kind") in ("dpo", "ipo", "orpo", "simpo"):
        return "it repeats sentences of rows of text, and this objective reads no such rows"
    if "pretrained" not in facts.recipe["model"]:
        return "it is a short tuning of a trained model (model.pretrained); one from scratch has no loops to lose yet"
    return {}
