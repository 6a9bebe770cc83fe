"""Strings under constraints that a program can check: exact counts, length, case, beginning, ending, a letter left out.

Prompt: `length 6, count a 2, case upper, end z: `. Answer: letters only, `AABCDZ`. Letters are counted whatever their case.
Source: paper 19's stand-in for instruction following with verifiable constraints.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etude.data.tasks.family import Family
from etude.errors import BadInput, one_of

KINDS = ("length", "count", "case", "end", "begin", "without")


class ConstrainedStrings(Family):
    """difficulty: how many constraints, drawn from `kinds`; an unseen kind or other `lengths` make an unseen evaluation."""

    name = "constrained-strings"

    def __init__(self, kinds: Sequence[str] = ("length", "count", "case", "end"), lengths: tuple[int, int] = (3, 8)) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise one_of("task constrained-strings, kinds", kind, KINDS)
        if not kinds or len(set(kinds)) != len(kinds):
            raise BadInput("task constrained-strings, kinds", repr(tuple(kinds)), "at least one, each once")
        if not 3 <= lengths[0] <= lengths[1] <= 60:
            raise BadInput("task constrained-strings, lengths", repr(lengths), "3 <= shortest <= longest <= 60")
        if "without" in kinds and lengths[1] > 25:
            raise BadInput(
                "task constrained-strings, lengths", repr(lengths), "at most 25 with the kind 'without', which leaves a letter out"
            )
        self.kinds, self.lengths = tuple(kinds), lengths
        self.difficulties = tuple(range(1, len(kinds) + 1))
        if (self.kinds, lengths) != (("length", "count", "case", "end"), (3, 8)):
            self.name = f"constrained-strings({','.join(kinds)};{lengths[0]}-{lengths[1]})"

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        chosen = sorted(rng.permutation(len(self.kinds))[:difficulty])
        length = int(rng.integers(self.lengths[0], self.lengths[1] + 1))
        letters = [string.ascii_lowercase[i] for i in rng.integers(0, 26, length)]
        upper = bool(rng.integers(2))
        counted = letters[int(rng.integers(length))]
        absent = sorted(set(string.ascii_lowercase) - set(letters))
        left_out = absent[int(rng.integers(len(absent)))] if "without" in self.kinds else ""
        wanted: dict[str, Any] = {}
        for kind in (self.kinds[i] for i in chosen):
            wanted[kind] = {
                "length": length, "count": [counted, letters.count(counted)], "case": "upper" if upper else "lower", "end": letters[-1],
                "begin": letters[0], "without": left_out,
            }[kind]  # fmt: skip
        said = ", ".join(f"{kind} {' '.join(map(str, v)) if isinstance(v, list) else v}" for kind, v in wanted.items())
        answer = "".join(letters)
        return f"{said}: ", answer.upper() if wanted.get("case") == "upper" else answer, wanted

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        if any(c not in string.ascii_letters for c in answer):
            return False
        lower = answer.lower()
        checks = {
            "length": lambda v: len(answer) == v,
            "count": lambda v: lower.count(v[0]) == v[1],
            "case": lambda v: answer == (answer.upper() if v == "upper" else lower),
            "end": lambda v: lower.endswith(v),
            "begin": lambda v: lower.startswith(v),
            "without": lambda v: v not in lower,
        }
        return all(checks[kind](value) for kind, value in data.items())
