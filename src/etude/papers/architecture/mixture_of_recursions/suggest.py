"""The architecture that stands in for a recipe's transformer."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion


def suggest(facts: Facts) -> Suggestion:
    """The recipe's shape as the unrolled one, with the paper's three recursions, or two, whichever divides the shared layers."""
    model = facts.recipe["model"]
    if model.get("kind") != "transformer":
        return "it stands in for a transformer that is trained from scratch (model.kind = 'transformer')"
    shared = model["depth"] - 2
    recursions = next((n for n in (3, 2) if shared > 0 and shared % n == 0), None)
    if recursions is None:
        return f"it needs a depth of 2 + a multiple of 2 or 3, found model.depth = {model['depth']}"
    return {"num_recursions": recursions, "shape": {key: value for key, value in model.items() if key != "kind"}}
