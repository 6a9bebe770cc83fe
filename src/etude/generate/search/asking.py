"""What a search asks for and what it spends, and the driver that answers many searches together.

A search is a Python generator: it yields `Expand` (next steps, please) or `Evaluate` (values, please), is sent the answer, and returns
what it found. `run_searches` advances all of them side by side and answers a round of their questions in one call of `expand` and one of
`evaluate`. What a search asks depends on its own answers alone, and a step's random numbers on (seed, question's id, number of the
request), so that a question's result does not depend on which others run beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from etude.errors import BadInput

if TYPE_CHECKING:
    from etude.generate.search.tree import Node


@dataclass(frozen=True, slots=True)
class Step:
    """One step. text, tokens: what it says. ended: nothing can follow. num_tokens: what making it cost.

    Two steps with equal `key` are the same step: children that say the same are one child.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    ended: bool = False
    num_tokens: int = 0

    @property
    def key(self) -> Hashable:
        return (self.tokens or self.text, self.ended)


Path = tuple[Step, ...]
"""The steps from the root to a state."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is searched for. id: names its random numbers. prompt: text or token ids. data: whatever expansion and value may need."""

    id: str
    prompt: str | np.ndarray
    data: Any = None


@dataclass(frozen=True, slots=True)
class Expand:
    """`num_steps` next steps of a state. number: of this request within its search, from 0."""

    question: Question
    path: Path
    num_steps: int
    number: int


@dataclass(frozen=True, slots=True)
class Evaluate:
    """The values of states, none of which was asked about before in this search."""

    question: Question
    paths: tuple[Path, ...]


Ask = Expand | Evaluate
Expander = Callable[[Sequence[Expand]], Sequence[Sequence[Step]]]
"""For each request its next steps: at most as many as asked for, none where there are none."""
Evaluator = Callable[[Sequence[Evaluate]], Sequence[Sequence[float]]]
"""For each request the values of its states, higher being better."""
Ending = Callable[[Question, Path], bool]
"""Whether a state is an end: no step is asked for after it."""


def last_step_ended(question: Question, path: Path) -> bool:
    return path[-1].ended


@dataclass(slots=True)
class Spent:
    """tokens: generated, those of steps that were the same included. calls: states valued."""

    tokens: int = 0
    calls: int = 0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When a search ends: after so many `rounds` (iterations, levels), or once it has spent `cost`.

    cost: in units of `per_token` for a generated token and `per_call` for a value. A search begins another round unless less is left
    than half of what its rounds have cost on average, so that the mean over many questions comes out at the limit.
    Raises BadInput without any limit.
    """

    rounds: float = math.inf
    cost: float = math.inf
    per_token: float = 1.0
    per_call: float = 1.0

    def __post_init__(self) -> None:
        if not (self.rounds >= 1 and self.cost > 0) or min(self.rounds, self.cost) == math.inf:
            raise BadInput("Limit", f"rounds {self.rounds}, cost {self.cost}", "at least 1 round and a cost above 0, one of them finite")
        if not (self.per_token >= 0 and self.per_call >= 0 and self.per_token + self.per_call > 0):
            raise BadInput("Limit", f"per_token {self.per_token}, per_call {self.per_call}", "two numbers >= 0, not both 0")

    def of(self, spent: Spent) -> float:
        return self.per_token * spent.tokens + self.per_call * spent.calls

    def room(self, spent: Spent, rounds: int) -> bool:
        """Whether another round fits. rounds: those so far that cost something."""
        left = self.cost - self.of(spent)
        return rounds == 0 or left == math.inf or left >= 0.5 * self.of(spent) / rounds


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to. path: its answer; value: that state's; ended: whether the path has come to an end.

    roots: the trees, one for each beginning. rounds: in all. reason: "found" (a state good enough), "rounds", "cost" or "exhausted".
    """

    question: Question
    path: Path
    value: float
    ended: bool
    roots: tuple[Node, ...]
    spent: Spent
    rounds: int
    reason: str

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.path)


Searching = Generator[Ask, Any, Found]


class Search(Protocol):
    def search(self, question: Question) -> Searching: ...


class Asking:
    """One search's side of the conversation: numbers its requests, counts what they cost, remembers what has been valued."""

    def __init__(self, question: Question) -> None:
        self.question, self.spent, self._number = question, Spent(), 0
        self._known: dict[tuple[Hashable, ...], float] = {}

    def steps(self, path: Path, num_steps: int) -> Generator[Ask, Any, list[Step]]:
        """Next steps, equal ones once, in the order in which they came."""
        self._number += 1
        found: Sequence[Step] = yield Expand(self.question, path, num_steps, self._number - 1)
        self.spent.tokens += sum(step.num_tokens for step in found)
        first: dict[Hashable, Step] = {}
        for step in found:
            first.setdefault(step.key, step)
        return list(first.values())

    def values(self, paths: Sequence[Path]) -> Generator[Ask, Any, list[float]]:
        """A value for each path; one valued before is not asked about again. Raises BadInput for a value that is not finite."""
        keys = [tuple(step.key for step in path) for path in paths]
        new = {key: path for key, path in zip(keys, paths, strict=True) if key not in self._known}
        if new:
            values: Sequence[float] = yield Evaluate(self.question, tuple(new.values()))
            self.spent.calls += len(new)
            for key, value in zip(new, values, strict=True):
                if not math.isfinite(value):
                    raise BadInput(f"value of question {self.question.id}, step {len(key)}", repr(value), "a finite number")
                self._known[key] = float(value)
        return [self._known[key] for key in keys]

    def finish(self, path: Path, ending: Ending, most: int) -> Generator[Ask, Any, tuple[Path, bool]]:
        """Goes on from a state, one step after another, to an end or for `most` steps."""
        ended = bool(path) and ending(self.question, path)
        for _ in range(most):
            if ended:
                break
            following = yield from self.steps(path, 1)
            if not following:
                break
            path = (*path, following[0])
            ended = ending(self.question, path)
        return path, ended


Progress = Callable[[int, int], None]


def run_searches(
    search: Search, questions: Sequence[Question], expand: Expander, evaluate: Evaluator, progress: Progress | None = None
) -> list[Found]:
    """Searches all questions side by side and returns what was found, in their order.

    progress: called with (searches done, searches) after each round of answers. `expand` and `evaluate` charge what they spend themselves.
    Raises BadInput for no question, an id twice, and answers that are not those to what was asked.
    """
    if not questions:
        raise BadInput("questions", "none", "at least one")
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise BadInput("questions", f"id '{twice}' twice", "each with an id of its own: questions of one id draw the same steps")
    results: list[Found | None] = [None] * len(questions)
    running = {place: search.search(question) for place, question in enumerate(questions)}
    answers: dict[int, Any] = dict.fromkeys(running)
    while running:
        asked: dict[int, Ask] = {}
        for place in list(running):
            try:
                asked[place] = running[place].send(answers[place])
            except StopIteration as done:
                results[place] = done.value
                del running[place]
        answers = {}
        expansions = {place: ask for place, ask in asked.items() if isinstance(ask, Expand)}
        evaluations = {place: ask for place, ask in asked.items() if isinstance(ask, Evaluate)}
        if expansions:
            requests = list(expansions.values())
            found = expand(requests)
            _check("expand", [(r.num_steps, len(steps)) for r, steps in zip(requests, found, strict=True)], at_most=True)
            answers |= dict(zip(expansions, found, strict=True))
        if evaluations:
            wanted = list(evaluations.values())
            values = evaluate(wanted)
            _check("evaluate", [(len(r.paths), len(v)) for r, v in zip(wanted, values, strict=True)], at_most=False)
            answers |= dict(zip(evaluations, values, strict=True))
        if progress is not None:
            progress(len(questions) - len(running), len(questions))
    return [found for found in results if found is not None]


def _check(what: str, counts: Sequence[tuple[int, int]], *, at_most: bool) -> None:
    for asked, given in counts:
        if given > asked or (given < asked and not at_most):
            raise BadInput(what, f"{given} answers", f"{'at most ' if at_most else ''}{asked}, as asked for")
