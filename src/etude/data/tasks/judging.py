"""Verifiers as judges: one that raises or gives no number is named, and the text that it failed on is kept.

What a loop, a collector of rollouts and an evaluator do about it is said by one word, `failures`: "stop" raises VerifierFailed,
"zero" scores 0 and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from etude.engine.protocols import Problem, Task
from etude.errors import BadInput

WAYS = ("stop", "zero")


@dataclass(frozen=True, slots=True)
class Failure:
    """A verifier's failure. where: which verifier, and on which problem. response: the text it was given. what: it did."""

    where: str
    response: str
    what: str


class VerifierFailed(BadInput):
    """A verifier or an environment raised or gave no number. `failure` holds all of the text that it failed on."""

    def __init__(self, failure: Failure, expected: str = "a finite number") -> None:
        self.failure = failure
        super().__init__(failure.where, f"{failure.what} on the response {failure.response[:200]!r}", expected)

    def __reduce__(self) -> tuple[Any, ...]:  # between processes it travels whole
        return type(self), (self.failure, self.expected)


def check_failures(failures: str) -> None:
    """Raises BadInput for a word that is not among WAYS."""
    if failures not in WAYS:
        raise BadInput("failures", f"'{failures}'", " or ".join(WAYS))


def reward_of(value: Any) -> float:
    """What a verifier or an environment gave, as a number. Raises TypeError for a text or None, ValueError for NaN or infinity."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"returned {str(value)[:100]!r}, a {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"returned {str(value)[:100]}, a {type(value).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"returned {number}")
    return number


@dataclass(frozen=True, slots=True)
class Judgement:
    """score: 0 to 1. failure: what the verifier did wrong, "" where it did its work."""

    score: float
    failure: str = ""


@dataclass
class Judge:
    """Scores responses with a task's verifier.

    failures: "stop" raises VerifierFailed; "zero" scores 0 and keeps the failure in `failed`, text and all, to be reported.
    Raises BadInput for another word.
    """

    task: Task
    failures: str = "stop"
    failed: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_failures(self.failures)

    def __call__(self, problem: Problem, response: str) -> Judgement:
        """Never raises for "zero"; for "stop" raises VerifierFailed alone."""
        try:
            score = reward_of(self.task.verify(problem, response))
            if not 0 <= score <= 1:
                raise ValueError(f"returned {score}")
            return Judgement(score)
        except Exception as error:
            failure = Failure(f"verifier of {self.task.name}, problem {problem.id}", response, said(error))
            if self.failures == "stop":
                raise VerifierFailed(failure, "a number from 0 to 1") from error
        self.failed.append(failure)
        return Judgement(0.0, failure.what)

    def group(self, problem: Problem, responses: Sequence[str]) -> list[Judgement]:
        return [self(problem, response) for response in responses]


def said(error: Exception) -> str:
    """An error of a verifier in a few words, its kind first."""
    return f"{type(error).__name__}: {str(error)[:200]}"
