"""Sorting, and tasks about the same lists that sorting is made of (hints, arXiv 2310.00726, section 4).

sort       `sort 5 2 9: ` `2 5 9`
successor  `successor 5 2 9 ; 2: ` `5`      the smallest number above the one named
count      `count 5 2 9 ; 9: ` `2`          how many are smaller
fill       `fill 5 2 9 ; 2 _ 9: ` `5`       what was left out of the sorted list
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.data.tasks.family import Family
from etude.errors import BadInput, one_of

HINTS = ("sort", "successor", "count", "fill")


class SortingHints(Family):
    """difficulty: how many numbers, from 1 to `largest`. repeats: whether a number may come twice.

    The largest number of a list has no successor and is not asked for: in a list of one value the answer is then that value.
    """

    name = "sorting-hints"
    difficulties = tuple(range(2, 65))

    def __init__(self, hint: str = "successor", largest: int = 99, repeats: bool = False) -> None:
        if hint not in HINTS:
            raise one_of("task sorting-hints, hint", hint, HINTS)
        if largest < 2:
            raise BadInput("task sorting-hints, largest", repr(largest), "a whole number >= 2")
        self.hint, self.largest, self.repeats = hint, largest, repeats
        if not repeats:
            self.difficulties = tuple(n for n in SortingHints.difficulties if n <= largest)
        parts = [*([] if hint == "successor" else [hint]), *([] if largest == 99 else [str(largest)]), *(["repeats"] * repeats)]
        if parts:
            self.name = f"sorting-hints({','.join(parts)})"

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        numbers = [int(n) + 1 for n in rng.choice(self.largest, difficulty, replace=self.repeats)]
        ordered, told = sorted(numbers), " ".join(map(str, numbers))
        if self.hint == "sort":
            asked, answer = "", " ".join(map(str, ordered))
        elif self.hint == "fill":
            gap = int(rng.integers(difficulty))
            asked = " ; " + " ".join("_" if i == gap else str(n) for i, n in enumerate(ordered))
            answer = str(ordered[gap])
        else:
            below = [n for n in numbers if n < ordered[-1]] or numbers
            number = int(below[int(rng.integers(len(below)))] if self.hint == "successor" else numbers[int(rng.integers(difficulty))])
            larger = [n for n in ordered if n > number]
            asked = f" ; {number}"
            answer = str((larger or [number])[0] if self.hint == "successor" else sum(n < number for n in numbers))
        return f"{self.hint} {told}{asked}: ", answer, {"answer": answer}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return answer == data["answer"]
