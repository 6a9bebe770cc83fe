"""What a model is warmed up on: traces of the same problems with k backtracks, and the controls that take something away from them.

`warmup(traced, Warmup(num_backtracks=3), ...)` gives rows for `CompletionSource`; `traced_problems` chooses problems that have a trace for
every number compared, so that k says nothing about how hard a problem is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etude.data.tasks import task as task_named
from etude.data.tasks.answers import with_working
from etude.data.tasks.gym_search import searched
from etude.data.tasks.traces import (
    BACK,
    NoTrace,
    Search,
    Trace,
    padded,
    searchable,
    shuffled,
    traces_of,
    wrong_content,
)  # fmt: skip
from etude.engine.protocols import Problem, Task
from etude.engine.streams import numpy_rng
from etude.errors import BadInput, one_of

CONTENTS = ("right", "random", "padded", "shuffled", "swapped", "wrong end")
EIGHT = (
    "countdown", "sudoku", "arc_1d", "geometry", "color_cube_rotation", "list_functions", "zebra_puzzles", "self_reference",
)  # fmt: skip
"""The paper's tasks, of reasoning-gym."""
SMALL = {"countdown": "countdown", "sudoku": "sudoku-4x4", "zebra_puzzles": "zebra"}
"""Those whose solver branches, and the task of the same kind here that a small model can hold."""


def problem_task(name: str, **settings: Any) -> Task:
    """One of the paper's eight tasks, as reasoning-gym poses and judges it. Raises BadInput for another name."""
    if name not in EIGHT:
        raise one_of("task", name, EIGHT)
    return task_named(f"reasoning-gym/{name}", **settings)


def traced_task(name: str, *, small: bool = False, **settings: Any) -> Task:
    """One of the eight that traces can be written for, or (small) its relative that a small model can hold.

    Raises BadInput, by name, where no solver branches.
    """
    if name not in EIGHT:
        raise one_of("task", name, EIGHT)
    if name not in SMALL:
        raise BadInput(f"task {name}", "no solver that branches, hence no traces", f"one of {', '.join(SMALL)}")
    return task_named(SMALL[name], **settings) if small else searched(name, **settings)


@dataclass(frozen=True)
class Traced:
    """A problem and its traces by number of backtracks."""

    problem: Problem
    traces: Mapping[int, Trace]


def traced_problems(task: Task, problems: Sequence[Problem], numbers: Sequence[int], num_rows: int, seed: int) -> list[Traced]:
    """The first `num_rows` problems that have a trace for each of `numbers`.

    Raises BadInput with how many were found where they do not suffice, and by name for a task without a search tree.
    """
    searchable(task)
    found: list[Traced] = []
    for problem in problems:
        if len(found) == num_rows:
            break
        try:
            traces = traces_of(task, problem, numbers, seed)
        except NoTrace:
            continue
        found.append(Traced(problem, dict(zip(numbers, traces, strict=True))))
    if len(found) < num_rows:
        where = f"traces of {task.name} with {', '.join(map(str, numbers))} backtracks"
        raise BadInput(where, f"{len(found)} among {len(problems)} problems", f"{num_rows}: draw more problems or ask for fewer backtracks")
    return found


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Which traces. num_backtracks: k, of all rows.

    content: "right", the traces themselves; "random", each row with any of the problem's numbers up to k; "padded", no backtrack, but as
    many tokens as with k, by neutral lines; "shuffled", the lines of working in random order; "swapped", each answer under another
    problem's working; "wrong end", k backtracks and then a wrong answer, which the last branch did lead to.
    """

    num_backtracks: int
    content: str = "right"

    def __post_init__(self) -> None:
        if self.content not in CONTENTS:
            raise one_of("Warmup.content", self.content, CONTENTS)

    @property
    def turns_back(self) -> bool:
        """Whether the traces hold backtracks."""
        return self.num_backtracks > 0 and self.content != "padded"

    def numbers(self) -> tuple[int, ...]:
        """Of backtracks, that problems must have traces for."""
        if self.content == "wrong end":
            return (self.num_backtracks, self.num_backtracks + 1)
        return (0, self.num_backtracks) if self.content == "padded" else (self.num_backtracks,)


def warmup(task: Task, traced: Sequence[Traced], how: Warmup, seed: int, count_tokens: Callable[[str], int] = len) -> list[tuple[str, str]]:
    """(prompt, trace) rows, one a problem. count_tokens: of a text, for padding. Raises BadInput for a number that a problem lacks."""
    for item in traced:
        for number in how.numbers():
            if number not in item.traces:
                raise BadInput(f"problem {item.problem.id}", f"no trace with {number} backtracks", "one made by `traced_problems`")
    k = how.num_backtracks
    texts = [item.traces[k].text for item in traced]
    if how.content == "random":
        texts = [_any(item, k, seed) for item in traced]
    elif how.content == "padded":
        texts = [padded(item.traces[0].text, count_tokens(text), count_tokens) for item, text in zip(traced, texts, strict=True)]
    elif how.content == "shuffled":
        texts = [shuffled(text, seed, item.problem.id) for item, text in zip(traced, texts, strict=True)]
    elif how.content == "swapped":
        texts = wrong_content(texts, seed)
    elif how.content == "wrong end":
        texts = [wrong_end(task, item.problem, item.traces[k + 1]) for item in traced]
    return [(item.problem.prompt, text) for item, text in zip(traced, texts, strict=True)]


def _any(item: Traced, most: int, seed: int) -> str:
    numbers = sorted(number for number in item.traces if number <= most)
    return item.traces[numbers[int(numpy_rng(seed, "number", item.problem.id).integers(len(numbers)))]].text


def wrong_end(task: Task, problem: Problem, trace: Trace) -> str:
    """The trace up to its last return, with the dead end before it given as the answer: valid steps, one backtrack less, a wrong answer.

    Raises BadInput for a trace without a backtrack, and for a task whose dead ends are no answers (all but countdown).
    """
    if not trace.num_backtracks:
        raise BadInput(f"problem {problem.id}", "a trace without backtracks", "one with a dead end to stop at")
    lines = trace.text.split("\n")
    last = max(i for i, line in enumerate(lines) if line.startswith(BACK))
    state = _state_after(searchable(task), problem.data, lines[:last])
    if not problem.prompt.startswith(("all ", "some ")) or len(state) != 1:
        raise BadInput(f"task {task.name}", "dead ends that are no answers", "countdown, where each ends in an expression")
    return with_working(lines[:last], state[0][1])


def _state_after(search: Search, data: Mapping[str, Any], lines: Sequence[str]) -> Any:
    """Where a trace's steps and returns lead."""
    stack: list[tuple[Any, set[str]]] = [(search.root(data), set())]
    for line in lines:
        if line.startswith(BACK):
            while stack[-1][1] == {step for step, _ in _moves(search, data, stack[-1][0])}:
                stack.pop()
            continue
        stack[-1][1].add(line)
        stack.append((dict(search.moves(data, stack[-1][0]))[line], set()))
    return stack[-1][0]


def _moves(search: Search, data: Mapping[str, Any], state: Any) -> list[tuple[str, Any]]:
    return [] if search.failed(data, state) or search.solved(data, state) else search.moves(data, state)
