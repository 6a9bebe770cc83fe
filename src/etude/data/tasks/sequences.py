"""Sequences of symbols: their parity, a copy, sorted. Prompts: `parity 0110: `, `copy qxa: `, `sort 5 2 9: `."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.data.tasks.family import Family

LENGTHS = tuple(range(1, 65))


class Parity(Family):
    """difficulty: how many bits. Answer: 1 where the number of ones is odd, else 0."""

    name = "parity"
    difficulties = LENGTHS

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        bits = rng.integers(0, 2, difficulty)
        answer = str(int(bits.sum() % 2))
        return f"parity {''.join(map(str, bits))}: ", answer, {"answer": answer}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return answer == data["answer"]


class Copying(Family):
    """difficulty: how many letters."""

    name = "copying"
    difficulties = LENGTHS

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        text = "".join(string.ascii_lowercase[i] for i in rng.integers(0, 26, difficulty))
        return f"copy {text}: ", text, {"answer": text}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return answer == data["answer"]


class Sorting(Family):
    """difficulty: how many numbers, 0 to 99. Answer: ascending, with one blank between them."""

    name = "sorting"
    difficulties = LENGTHS

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        numbers = [int(n) for n in rng.integers(0, 100, difficulty)]
        answer = " ".join(map(str, sorted(numbers)))
        return f"sort {' '.join(map(str, numbers))}: ", answer, {"answer": answer}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return answer == data["answer"]
