"""What a paper's rule for its settings is told of a user's recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Facts:
    """recipe: the document, with every default. samples: for training. steps: updates that the baseline makes for the budget.

    epochs: passes over the training data that this comes to. domains: kinds of sample that the data tells apart, 0 where none.
    verified: whether answers are sampled and judged.
    """

    recipe: Mapping[str, Any]
    samples: int
    steps: float
    epochs: float
    domains: int = 0
    verified: bool = False


Suggestion = Mapping[str, Any] | str | None
"""Settings of the method or model (plain keys) with changes of the recipe beside them (dotted keys); or why it does not apply."""
