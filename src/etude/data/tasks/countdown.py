"""Countdown: reach a target from given numbers with the four operations.

Prompt: `all 3 4 5 = 17: ` (each number exactly once) or `some 3 4 5 = 17: ` (each at most once). Answer: an expression, `3*4+5`.
The search tree has the numbers left as states and one operation on two of them as a step.
Source: the television game; papers 05, 19, 21, 39 use it with three and four small numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from etude.data.tasks.answers import MARK, with_working
from etude.data.tasks.expressions import NotAnExpression, evaluate
from etude.data.tasks.family import Family
from etude.engine.protocols import Problem
from etude.errors import BadInput

Item = tuple[int, str]
"""A number left and how it came about: its expression, and what binds loosest in it is found by looking."""


class Countdown(Family):
    """difficulty: how many numbers. operations: those allowed. largest: of the given numbers. target: the largest target."""

    name = "countdown"
    difficulties: Sequence[int] = (2, 3, 4, 5, 6)

    def __init__(self, operations: str = "+-*/", largest: int = 9, target: int = 99, each: str = "exactly") -> None:
        if not operations or set(operations) - set("+-*/"):
            raise BadInput("task countdown, operations", repr(operations), "some of + - * /")
        if each not in ("exactly", "at most"):
            raise BadInput("task countdown, each", repr(each), "'exactly' or 'at most' (once)")
        if largest < 2 or target < 2:
            raise BadInput("task countdown", f"largest {largest}, target {target}", "both at least 2")
        self.operations, self.largest, self.target, self.each = operations, largest, target, each
        if (operations, largest, target, each) != ("+-*/", 9, 99, "exactly"):
            self.name = f"countdown({operations},{largest},{target},{each})"

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        while True:
            numbers = [int(n) for n in rng.integers(1, self.largest + 1, difficulty)]
            data = {"numbers": numbers, "target": 0, "each": self.each, "operations": self.operations}
            state = self.root(data)
            while len(state) > 1:  # a random walk down the tree: what it ends at can be reached
                made = self.moves(data, state)
                if not made:
                    break
                state = made[int(rng.integers(len(made)))][1]
            if len(state) == 1 and 1 <= state[0][0] <= self.target:
                data["target"] = state[0][0]
                how = "all" if self.each == "exactly" else "some"
                return f"{how} {' '.join(map(str, numbers))} = {state[0][0]}: ", state[0][1], data

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        try:
            value, numbers, operations = evaluate(answer)
        except NotAnExpression:
            return False
        given, used = Counter(data["numbers"]), Counter(numbers)
        fits = used == given if data["each"] == "exactly" else used <= given
        return fits and set(operations) <= set(data["operations"]) and value == Fraction(data["target"])

    def solution(self, problem: Problem) -> str:
        """The steps that lead to the problem's own answer, one a line, then the answer."""
        steps = self._steps_to(problem.data, self.root(problem.data), problem.answer)
        if steps is None:
            raise BadInput(f"problem {problem.id}, answer", repr(problem.answer), "one that this task has drawn")
        return with_working(steps, problem.answer)

    def _steps_to(self, data: Mapping[str, Any], state: tuple[Item, ...], answer: str) -> list[str] | None:
        if self.solved(data, state) and any(written == answer for _, written in state):
            return []
        for step, after in self.moves(data, state):
            if all(written in answer for _, written in set(after) - set(state)):  # a part of the answer, or no step towards it
                rest = self._steps_to(data, after, answer)
                if rest is not None:
                    return [step, *rest]
        return None

    def audit(self, problem: Problem, response: str) -> list[bool]:
        """For each line of working, in order: whether it is a step on two numbers left, computed rightly."""
        return self._replay(problem, response)[0]

    def sound(self, problem: Problem, response: str) -> bool:
        """Whether the answer is right, every step valid, and the target reached by them."""
        steps, state = self._replay(problem, response)
        return self.verify(problem, response) == 1.0 and all(steps) and self.solved(problem.data, state)

    def _replay(self, problem: Problem, response: str) -> tuple[list[bool], tuple[Item, ...]]:
        state, found = self.root(problem.data), []
        for line in response.strip().split("\n"):
            if line.startswith(MARK):
                break
            after = next((after for step, after in self.moves(problem.data, state) if step == line.strip(" ")), None)
            found.append(after is not None)
            state = state if after is None else after
        return found, state

    # The search tree (`traces.Search`)
    def root(self, data: Mapping[str, Any]) -> tuple[Item, ...]:
        return tuple(sorted((n, str(n)) for n in data["numbers"]))

    def moves(self, data: Mapping[str, Any], state: tuple[Item, ...]) -> list[tuple[str, tuple[Item, ...]]]:
        """Steps on two numbers left, larger first; results are whole numbers >= 0. Steps that read the same are one."""
        found: dict[str, tuple[Item, ...]] = {}
        for i, (a, left) in enumerate(state):
            for j, (b, right) in enumerate(state):
                if i == j or (a, i) < (b, j):
                    continue
                rest = [item for k, item in enumerate(state) if k not in (i, j)]
                for sign in data["operations"]:
                    if sign == "/" and (b == 0 or a % b):
                        continue
                    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[sign]
                    written = f"{_inside(left, sign, first=True)}{sign}{_inside(right, sign, first=False)}"
                    found.setdefault(f"{a}{sign}{b}={value}", tuple(sorted([*rest, (value, written)])))
        return list(found.items())

    def failed(self, data: Mapping[str, Any], state: tuple[Item, ...]) -> bool:
        return len(state) == 1 and not self.solved(data, state)

    def solved(self, data: Mapping[str, Any], state: tuple[Item, ...]) -> bool:
        here = state if len(state) == 1 else state if data["each"] == "at most" else ()
        return any(value == data["target"] for value, _ in here)

    def label(self, data: Mapping[str, Any], state: tuple[Item, ...]) -> str:
        return " ".join(str(value) for value, _ in state)

    def answer(self, data: Mapping[str, Any], state: tuple[Item, ...]) -> str:
        return next(written for value, written in state if value == data["target"])


def _inside(written: str, sign: str, *, first: bool) -> str:
    """`written` as an operand of `sign`, in parentheses where they are needed."""
    loosest, depth = "", 0
    for c in written:
        depth += (c == "(") - (c == ")")
        if depth == 0 and c in "+-*/" and loosest not in ("+", "-"):
            loosest = c
    if not loosest:
        return written
    loose = loosest in "+-"
    needed = (sign in "*/" and loose) or (not first and ((sign == "-" and loose) or sign == "/"))
    return f"({written})" if needed else written
