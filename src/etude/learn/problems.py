"""A pool of problems that rollouts are made of: by number, with a domain each, and an environment that judges responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from etude.data.tasks.judging import reward_of
from etude.engine.protocols import Environment, Problem, Task, Turn
from etude.errors import BadInput


class SingleTurn:
    """A task as an environment of one step: the reward is the verifier's score of the response."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def reset(self, problem: Problem) -> str:
        self.problem = problem
        return problem.prompt

    def step(self, response: str) -> Turn:
        return Turn("", self.task.verify(self.problem, response), terminated=True)


class Verified(SingleTurn):
    """A verifiable reward: `paid` for what the verifier accepts (a score of 1), nothing for anything less (Tülu 3, 2411.15124, section 6).

    Raises BadInput for paid <= 0.
    """

    def __init__(self, task: Task, paid: float = 10.0) -> None:
        super().__init__(task)
        if not 0 < paid < math.inf:
            raise BadInput("Verified.paid", repr(paid), "a number > 0")
        self.paid = paid

    def step(self, response: str) -> Turn:
        # As a number first: NaN would be a quiet 0.
        score = reward_of(self.task.verify(self.problem, response))
        return Turn("", self.paid if score >= 1 else 0.0, terminated=True)


@dataclass(frozen=True)
class Domain:
    """Problems of one kind. environment: makes a fresh one for each rollout."""

    name: str
    problems: Sequence[Problem]
    environment: Callable[[], Environment]


class ProblemPool:
    """Problems of several domains, numbered through them in order; a `Source` for samplers, which see `domains`, `domain_names` and
    `difficulty` [N], the problems' own.

    `ProblemPool.of(task, seed, {difficulty: count})` takes problems 0 .. count - 1 of each level, one domain a level.
    `ProblemPool.given(task, problems)` takes those that one has.
    Raises BadInput for a pool or a domain without problems, or two domains of one name.
    """

    def __init__(self, domains: Sequence[Domain]) -> None:
        if not domains:
            raise BadInput("problems", "no domains", "at least one")
        for domain in domains:
            if not len(domain.problems):
                raise BadInput(f"problems.{domain.name}", "no problems", "at least one")
        self.parts = list(domains)
        self.domain_names: Sequence[str] = tuple(d.name for d in domains)
        if len(set(self.domain_names)) < len(domains):
            raise BadInput("problems", f"domains {', '.join(self.domain_names)}", "different names")
        self.domains = np.repeat(np.arange(len(domains)), [len(d.problems) for d in domains])
        self._problems = [p for d in domains for p in d.problems]
        self.difficulty = np.array([p.difficulty for p in self._problems], dtype=np.float64)

    @classmethod
    def of(cls, task: Task, seed: int, counts: Mapping[int, int], environment: Callable[[Task], Environment] = SingleTurn) -> ProblemPool:
        """Problems of one task, a domain "name/difficulty" for each level. environment: `SingleTurn`, `Verified`, or one's own."""
        return cls(
            [
                Domain(f"{task.name}/{level}", [task.problem(seed, i, level) for i in range(count)], lambda: environment(task))
                for level, count in counts.items()
            ]
        )

    @classmethod
    def given(cls, task: Task, problems: Sequence[Problem], environment: Callable[[Task], Environment] = SingleTurn) -> ProblemPool:
        """These problems of one task, as one domain of its name."""
        return cls([Domain(task.name, problems, lambda: environment(task))])

    @classmethod
    def join(cls, pools: Sequence[ProblemPool]) -> ProblemPool:
        return cls([domain for pool in pools for domain in pool.parts])

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, number: int) -> Problem:
        return self._problems[number]

    def environment(self, number: int) -> Environment:
        return self.parts[int(self.domains[number])].environment()

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        """What a sampler may look at: "difficulty" and "domain", each [B]."""
        levels = torch.tensor([self._problems[int(i)].difficulty for i in ids])
        return {"difficulty": levels, "domain": torch.from_numpy(self.domains[np.asarray(ids)])}
