"""Sums: of two numbers with d digits, and chains of additions and subtractions.

Prompts: `12+34=`, `12+5-3=`. Answer: the number. Used by papers 19 (sum chains), 36 (addition, 1 to 5 digits) and 46.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.data.tasks.answers import whole_number
from etude.data.tasks.family import Family
from etude.errors import BadInput


class Addition(Family):
    """difficulty: digits of each summand, without leading zeros (one digit: 0 to 9)."""

    name = "addition"
    difficulties = tuple(range(1, 11))

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        low = 10 ** (difficulty - 1) if difficulty > 1 else 0
        a, b = (int(n) for n in rng.integers(low, 10**difficulty, 2))
        return f"{a}+{b}=", str(a + b), {"result": a + b}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return whole_number(answer) == data["result"]


class SumChains(Family):
    """difficulty: how many terms, each from 1 to `largest`; the result may be negative."""

    name = "sum-chains"
    difficulties = tuple(range(2, 13))

    def __init__(self, largest: int = 20) -> None:
        if largest < 1:
            raise BadInput("task sum-chains, largest", repr(largest), "a whole number >= 1")
        self.largest = largest
        if largest != 20:
            self.name = f"sum-chains({largest})"

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        terms = [int(n) for n in rng.integers(1, self.largest + 1, difficulty)]
        signs = [1, *(int(s) for s in rng.choice([-1, 1], difficulty - 1))]
        text = "".join(f"{'+' if s > 0 else '-'}{t}" for s, t in zip(signs, terms, strict=True))[1:]
        result = sum(s * t for s, t in zip(signs, terms, strict=True))
        return f"{text}=", str(result), {"result": result}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return whole_number(answer) == data["result"]
