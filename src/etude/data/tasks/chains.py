"""Chains of operations modulo 10, told in a scrambled order; each step is one line, so that lucky answers can be told from right ones.

Prompt: `c=b*3 a=7 b=a+5 ; c: `. Response: the steps that lead there, `b=7+5=2`, `c=2*3=6`, then `> 6`. Guessing is right one time in ten.
Source: paper 23 (step validity of kept traces is audited with `audit`).
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from etude.data.tasks.answers import MARK, whole_number, with_working
from etude.data.tasks.family import Family
from etude.engine.protocols import Problem

_STEP = re.compile(r"([a-z])=([0-9])([-+*])([0-9])=([0-9])", re.ASCII)


def apply(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign] % 10


class Chains(Family):
    """difficulty: how many operations, each on the result of the one before."""

    name = "chains"
    difficulties = tuple(range(1, 11))

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        names = [string.ascii_lowercase[i] for i in rng.permutation(26)[: difficulty + 1]]
        value = int(rng.integers(10))
        rows, steps, told = [f"{names[0]}={value}"], [], []
        for before, name in pairwise(names):
            sign, operand = "+-*"[int(rng.integers(3))], int(rng.integers(2, 10))
            result = apply(value, sign, operand)
            rows.append(f"{name}={before}{sign}{operand}")
            steps.append([name, before, sign, operand])
            told.append(f"{name}={value}{sign}{operand}={result}")
            value = result
        scrambled = " ".join(rows[i] for i in rng.permutation(len(rows)))
        data = {"start": [names[0], int(rows[0][2:])], "steps": steps, "lines": told, "result": value}
        return f"{scrambled} ; {names[-1]}: ", str(value), data

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return whole_number(answer) == data["result"]

    def solution(self, problem: Problem) -> str:
        """All steps in order, then the answer."""
        return with_working(problem.data["lines"], problem.answer)

    def audit(self, problem: Problem, response: str) -> list[bool]:
        """For each line of working, in order: whether it is a step of this chain, on the value that the step before it truly has, and
        computed rightly. A response is sound where all are True and there are as many as the chain has steps."""
        values = {problem.data["start"][0]: problem.data["start"][1]}
        steps = {name: (before, sign, operand) for name, before, sign, operand in problem.data["steps"]}
        found = []
        for line in response.strip().split("\n"):
            if line.startswith(MARK):
                break
            match = _STEP.fullmatch(line.strip(" "))
            name = match[1] if match else ""
            if match is None or name not in steps or name in values:
                found.append(False)
                continue
            before, sign, operand = steps[name]
            good = before in values and (int(match[2]), match[3], int(match[4])) == (values[before], sign, operand)
            good = good and int(match[5]) == apply(values[before], sign, operand)
            found.append(good)
            if good:
                values[name] = int(match[5])
        return found

    def sound(self, problem: Problem, response: str) -> bool:
        """Whether the answer is right and every step leading to it is there and valid."""
        steps = self.audit(problem, response)
        return self.verify(problem, response) == 1.0 and all(steps) and len(steps) == len(problem.data["steps"])
