"""What etude's own tasks share: how a problem's random numbers are derived, and that the verifier reads one answer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etude.data.tasks.answers import answer_of
from etude.engine.arguments import typed
from etude.engine.protocols import Problem
from etude.engine.streams import numpy_rng
from etude.errors import BadInput


class Family:
    """A family of problems. A subclass draws a problem and judges an answer; both are pure.

    draw:  (difficulty, rng) -> (prompt, one right answer, data for the verifier as plain JSON)
    right: whether `answer`, one line of printable ASCII, solves it; never raises
    """

    name: str = ""
    difficulties: Sequence[int] = ()

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in vars(cls):
            cls.__init__ = typed(f"task {cls.name}, ", inside=True)(cls.__init__)  # type: ignore[method-assign]

    @classmethod
    def settings(cls) -> list[str]:
        return [p for p in inspect.signature(cls).parameters if p not in ("args", "kwargs")]

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        raise NotImplementedError

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        raise NotImplementedError

    def problem(self, seed: int, index: int, difficulty: int) -> Problem:
        """Item `index` of the stream (`seed`, `difficulty`). Raises BadInput for a difficulty that the task does not have."""
        if difficulty not in self.difficulties:
            raise BadInput(f"task {self.name}, difficulty", repr(difficulty), f"one of {', '.join(map(str, self.difficulties))}")
        if index < 0:
            raise BadInput(f"task {self.name}, index", repr(index), "a whole number >= 0")
        prompt, answer, data = self.draw(difficulty, numpy_rng(seed, "task", self.name, difficulty, index))
        return Problem(f"{self.name}/{difficulty}/{seed}/{index}", prompt, answer, difficulty, data)

    def verify(self, problem: Problem, response: str) -> float:
        """1 where the response's one answer is right, else 0."""
        answer = answer_of(response)
        return float(answer is not None and self.right(problem.data, answer))
