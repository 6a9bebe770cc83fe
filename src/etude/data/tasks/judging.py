"""Verifiers as judges: one that raises or returns no number between 0 and 1 is named, and its text kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from etude.engine.protocols import Problem, Task
from etude.errors import BadInput, one_of


@dataclass(frozen=True, slots=True)
class Judgement:
    """score: 0 to 1. failure: what the verifier did wrong, "" where it did its work."""

    score: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A verifier's failure: on which problem, on what text, and what it did."""

    task: str
    problem: str
    response: str
    what: str


class BadVerifier(BadInput):
    """A verifier failed; `failure` holds the text that it failed on."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        where = f"verifier of {failure.task}, problem {failure.problem}"
        super().__init__(where, f"{failure.what} on the response {failure.response[:200]!r}", "a number from 0 to 1")


@dataclass
class Judge:
    """Scores responses with a task's verifier.

    on_failure: "stop" raises BadVerifier; "count" scores 0 and keeps the failure in `failures`, text and all, to be reported.
    """

    task: Task
    on_failure: str = "stop"
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_failure not in ("stop", "count"):
            raise one_of("judge, on_failure", self.on_failure, ("stop", "count"))

    def __call__(self, problem: Problem, response: str) -> Judgement:
        """Never raises for "count"; for "stop" raises BadVerifier alone."""
        try:
            score = self.task.verify(problem, response)
            what = ""
            if isinstance(score, bool) or not isinstance(score, (int, float)):
                what = f"returned {str(score)[:100]!r}, a {type(score).__name__}"
            elif not math.isfinite(score) or not 0 <= score <= 1:
                what = f"returned {score}"
        except Exception as error:
            score, what = 0.0, f"raised {type(error).__name__}: {str(error)[:200]}"
        if not what:
            return Judgement(float(score))
        failure = Failure(self.task.name, problem.id, response, what)
        if self.on_failure == "stop":
            raise BadVerifier(failure)
        self.failures.append(failure)
        return Judgement(0.0, what)

    def group(self, problem: Problem, responses: Sequence[str]) -> list[Judgement]:
        return [self(problem, response) for response in responses]
