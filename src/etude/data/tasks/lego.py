"""LEGO chains: each variable is the one before it or its opposite, told in a scrambled order; one of them is asked for.

Prompt: `c = not b , a = val 1 , b = val a . c = val `. Answer: 0 or 1. Which variable of the chain is asked is the skill.
Source: Zhang et al., arXiv 2206.04301, section 2; in words as Skill-it's code writes it (HazyResearch/skill-it at cfabec0,
dataset/lego_dataset.py).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.data.tasks.family import Family
from etude.errors import BadInput


class Lego(Family):
    """difficulty: which variable of the chain is asked, the first of which is given. variables: of the chain, 2 to 26."""

    name = "lego"
    difficulties = (1, 2, 3, 4, 5)

    def __init__(self, variables: int = 5) -> None:
        if not 2 <= variables <= len(string.ascii_lowercase):
            raise BadInput("task lego, variables", repr(variables), "a whole number from 2 to 26")
        self.variables, self.difficulties = variables, tuple(range(1, variables + 1))
        if variables != 5:
            self.name = f"lego({variables})"

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        letters = [string.ascii_lowercase[i] for i in rng.permutation(26)[: self.variables]]
        values = rng.integers(0, 2, self.variables)
        clauses = [f"{letters[0]} = val {values[0]}"]
        for i in range(1, self.variables):
            clauses.append(f"{letters[i]} = {'val' if values[i] == values[i - 1] else 'not'} {letters[i - 1]}")
        told = " , ".join(clauses[i] for i in rng.permutation(self.variables))
        answer = str(values[difficulty - 1])
        return f"{told} . {letters[difficulty - 1]} = val ", answer, {"answer": answer}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return answer == data["answer"]
