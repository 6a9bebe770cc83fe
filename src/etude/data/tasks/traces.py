"""Written searches: traces of a solver with exactly k backtracks, a parser that counts them, and what traces are compared with.

A trace is the solver's steps, one a line. Where a step fails, the next line says so and names the state returned to, the nearest one
with something left to try: `no, back to 7 5`. It ends with the right path's last step and the answer, `> (3+4)*5`.
Which false branches are taken is drawn so that their returns add up to k; each is searched until nothing is left in it, so it fails truly.
Source: paper 39 (arXiv 2505.24273), where the same problems get k = 0, 1, 5, 10.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from etude.data.tasks.answers import MARK, with_working
from etude.engine.protocols import Problem, Task
from etude.engine.streams import numpy_rng
from etude.errors import BadInput

BACK = "no, back to "
_BACK = re.compile(re.escape(BACK) + r"(.+)")


@runtime_checkable
class Search(Protocol):
    """A task with a search tree. States are hashable and grow: the tree has no cycles.

    moves:  (what the step says, the state it leads to), all that can be tried. failed: a step led into a dead end that shows at once.
    solved: the state answers the problem. label: the state's name, as a return says it. answer: what a solved state answers.
    """

    def root(self, data: Mapping[str, Any]) -> Any: ...
    def moves(self, data: Mapping[str, Any], state: Any) -> list[tuple[str, Any]]: ...
    def failed(self, data: Mapping[str, Any], state: Any) -> bool: ...
    def solved(self, data: Mapping[str, Any], state: Any) -> bool: ...
    def label(self, data: Mapping[str, Any], state: Any) -> str: ...
    def answer(self, data: Mapping[str, Any], state: Any) -> str: ...


@dataclass(frozen=True, slots=True)
class Trace:
    """text: working and answer. num_backtracks: lines that return."""

    text: str
    num_backtracks: int


class NoTrace(BadInput):
    """The problem has no trace with so many backtracks."""


def searchable(task: Task) -> Search:
    """The task's search tree. Raises BadInput, by name, where it has none."""
    if not isinstance(task, Search):
        raise BadInput(f"task {task.name}", "no search tree", "a task that can be searched: countdown, sudoku-4x4 or zebra")
    return task


class _Tree:
    """A problem's tree with what is known of it; `cap`: subtrees larger than this need not be measured."""

    def __init__(self, search: Search, data: Mapping[str, Any], cap: int) -> None:
        self.search, self.data, self.cap = search, data, cap
        self.known: dict[Any, bool] = {}
        self.measured: dict[Any, int] = {}

    def moves(self, state: Any) -> list[tuple[str, Any]]:
        if self.search.failed(self.data, state) or self.search.solved(self.data, state):
            return []
        return self.search.moves(self.data, state)

    def solvable(self, state: Any) -> bool:
        if state not in self.known:
            self.known[state] = self.search.solved(self.data, state) or any(self.solvable(s) for _, s in self.moves(state))
        return self.known[state]

    def size(self, state: Any) -> int:
        """Dead ends of a dead subtree, each of which is one return; at most cap + 1."""
        if state not in self.measured:
            total = 0
            for _, following in self.moves(state):
                total += self.size(following)
                if total > self.cap:
                    break
            total = max(total, 1)
            self.measured[state] = min(total, self.cap + 1)
        return self.measured[state]


def make_trace(task: Task, problem: Problem, num_backtracks: int, seed: int = 0, *, longest: int | None = None) -> Trace:
    """A trace with exactly `num_backtracks` returns. The right path depends on (seed, the problem's id), the false branches on k too.

    longest: characters allowed. Raises NoTrace where none exists, saying which numbers do, and BadInput where the trace is too long or
    the task has no search tree.
    """
    return traces_of(task, problem, (num_backtracks,), seed, longest=longest)[0]


def traces_of(task: Task, problem: Problem, numbers: Sequence[int], seed: int = 0, *, longest: int | None = None) -> list[Trace]:
    """One problem's trace for each of several numbers of backtracks, as `make_trace` gives them; its tree is searched once."""
    for number in numbers:
        if number < 0:
            raise BadInput("num_backtracks", repr(number), "a whole number >= 0")
    search = searchable(task)
    tree = _Tree(search, problem.data, max(numbers, default=0))
    # The right path, drawn among all and the same for every number of backtracks, and the dead branches beside it.
    rng = numpy_rng(seed, "right path", problem.id)
    state, path, dead = search.root(problem.data), [], []
    while not search.solved(problem.data, state):
        moves = tree.moves(state)
        good = [m for m in moves if tree.solvable(m[1])]
        if not good:
            raise NoTrace(f"problem {problem.id}", "no solution", "a problem that can be solved")
        dead += [(len(path), m) for m in moves if not tree.solvable(m[1])]
        path.append((state, good[int(rng.integers(len(good)))]))
        state = path[-1][1][1]
    found = []
    for number in numbers:
        lines = _written(tree, problem, path, dead, number, numpy_rng(seed, "false branches", problem.id, number))
        text = with_working(lines, search.answer(problem.data, state))
        if longest is not None and len(text) > longest:
            raise BadInput(
                f"problem {problem.id}",
                f"a trace of {len(text)} characters",
                f"at most {longest}: raise the limit or ask for fewer backtracks",
            )
        found.append(Trace(text, number))
    return found


def _written(tree: _Tree, problem: Problem, path: list[Any], dead: list[Any], number: int, rng: np.random.Generator) -> list[str]:
    """The lines of working: the right path with dead branches of `number` returns in all."""
    chosen = _subset([tree.size(m[1]) for _, m in dead], number, rng)
    if chosen is None:
        sizes = sorted({tree.size(m[1]) for _, m in dead})
        reach = sorted(_sums([tree.size(m[1]) for _, m in dead], number))
        found = f"no trace with {number} backtracks (false branches need {sizes or 'none'}; possible below: {reach})"
        raise NoTrace(f"problem {problem.id}", found, "a number of backtracks that its search tree has")
    lines: list[str] = []
    for depth, (here, (step, _)) in enumerate(path):
        for i in (i for i in chosen if dead[i][0] == depth):
            _exhaust(tree, dead[i][1], here, lines, rng)
        lines.append(step)
    return lines


def _exhaust(tree: _Tree, move: tuple[str, Any], back: Any, lines: list[str], rng: np.random.Generator) -> None:
    """Writes the whole search of a dead branch, and the returns from it, the last one to the state `back`."""
    lines.append(move[0])
    moves = tree.moves(move[1])
    if not moves:
        lines.append(BACK + tree.search.label(tree.data, back))
    for left, i in zip(range(len(moves) - 1, -1, -1), rng.permutation(len(moves)), strict=True):
        _exhaust(tree, moves[i], move[1] if left else back, lines, rng)


def _sums(sizes: Sequence[int], most: int) -> set[int]:
    found = {0}
    for size in sizes:
        found |= {s + size for s in found if s + size <= most}
    return found


def _subset(sizes: Sequence[int], total: int, rng: np.random.Generator) -> list[int] | None:
    """Indices, in random order, of sizes that add up to `total`; None where none do."""
    order = [int(i) for i in rng.permutation(len(sizes))]
    reached: list[set[int]] = [{0}]
    for i in order:
        reached.append(reached[-1] | {s + sizes[i] for s in reached[-1] if s + sizes[i] <= total})
    if total not in reached[-1]:
        return None
    chosen, left = [], total
    for step in range(len(order), 0, -1):
        if left not in reached[step - 1]:
            chosen.append(order[step - 1])
            left -= sizes[order[step - 1]]
    return chosen


def count_backtracks(text: str) -> int:
    """How many lines of a trace return to an earlier state, whoever wrote it."""
    return sum(bool(_BACK.fullmatch(line.strip())) for line in text.split("\n"))


def check_trace(task: Task, problem: Problem, text: str) -> int:
    """Replays a trace and returns its backtracks. Raises ValueError, naming the line, where a step is not one, a return is from a state
    that could still be solved or was not searched through, or names another state than the nearest open one; and where the end is wrong."""
    search = searchable(task)
    tree = _Tree(search, problem.data, 1 << 30)
    stack: list[tuple[Any, set[str]]] = [(search.root(problem.data), set())]
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        state, tried = stack[-1]
        if match := _BACK.fullmatch(line):
            if tree.solvable(state):
                raise ValueError(f"line {number}: gives up a state that can be solved")
            if tried != {step for step, _ in tree.moves(state)}:
                raise ValueError(f"line {number}: returns before all was tried")
            while stack[-1][1] == {step for step, _ in tree.moves(stack[-1][0])}:
                stack.pop()
            if match[1] != search.label(problem.data, stack[-1][0]):
                raise ValueError(f"line {number}: returns to '{match[1]}', not to the nearest state with something left to try")
            continue
        following = [after for step, after in tree.moves(state) if step == line]
        if not following or line in tried:
            raise ValueError(f"line {number}: '{line}' is no step from here" if not following else f"line {number}: '{line}' again")
        tried.add(line)
        stack.append((following[0], set()))
    if not search.solved(problem.data, stack[-1][0]):
        raise ValueError("the last step does not solve the problem")
    if not lines[-1].startswith(f"{MARK} ") or task.verify(problem, text) != 1.0:
        raise ValueError(f"line {len(lines)}: the answer is not right")
    return count_backtracks(text)


def make_traces(
    task: Task, problems: Sequence[Problem], num_backtracks: int, seed: int = 0, *, longest: int | None = None, num_rows: int | None = None
) -> list[tuple[Problem, Trace]]:
    """Traces of the first `num_rows` problems that have one (None: of all, each must have one).

    Raises BadInput with how many were found where they do not suffice.
    """
    searchable(task)
    found: list[tuple[Problem, Trace]] = []
    wanted, last = len(problems) if num_rows is None else num_rows, ""
    for problem in problems:
        if len(found) == wanted:
            break
        try:
            found.append((problem, make_trace(task, problem, num_backtracks, seed, longest=longest)))
        except BadInput as error:
            last = f"; the last that failed: {error.where}: {error.found}"
    if len(found) < wanted:
        raise BadInput(
            f"traces of {task.name} with {num_backtracks} backtracks", f"{len(found)} among {len(problems)} problems{last}",
            f"{wanted}: draw more problems, raise the limit of characters or ask for fewer backtracks",
        )  # fmt: skip
    return found


# What traces are compared with. Each keeps the answer as the last line.
PADDING = "let me see"


def padded(text: str, length: int, measure: Callable[[str], int] = len) -> str:
    """The trace with neutral lines before its first step, as near to `length` as fits and never above.

    measure: of a text, by default its characters; a tokenizer's count for tokens.
    """
    missing = length - measure(text)
    return f"{PADDING}\n" * (missing // measure(f"{PADDING}\n")) + text


def shuffled(text: str, seed: int, name: str) -> str:
    """The lines of working in random order, another one where there are two different ones; `name` is the problem's id."""
    *working, answer = text.split("\n")
    rng = numpy_rng(seed, "shuffled", name)
    if len(set(working)) > 1:
        order = working
        while order == working:
            order = [working[i] for i in rng.permutation(len(working))]
        working = order
    return "\n".join([*working, answer])


def wrong_content(texts: Sequence[str], seed: int) -> list[str]:
    """Each answer under another trace's working: structure without content. Raises BadInput for fewer than two."""
    if len(texts) < 2:
        raise BadInput("wrong_content", f"{len(texts)} traces", "at least two to swap")
    rng = numpy_rng(seed, "wrong content")
    order = [int(i) for i in rng.permutation(len(texts))]  # each takes its successor's on one cycle: nobody keeps its own
    taken = dict(zip(order, [*order[1:], order[0]], strict=True))
    return ["\n".join([*texts[taken[i]].split("\n")[:-1], text.split("\n")[-1]]) for i, text in enumerate(texts)]
