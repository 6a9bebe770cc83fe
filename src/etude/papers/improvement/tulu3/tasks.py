"""The testbed: four families of questions, each with a verifier of its own; what trains, what develops, and what is unseen until the end.

Prompts are split by their content: what a development or unseen prompt asks is never asked in training, in whatever order its
numbers stand. Unseen are other lengths and more constraints at a time than any stage trains on; the base has met them.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np

from etude.data.tasks import task
from etude.data.tokenizers import Characters
from etude.engine.protocols import Problem, Task
from etude.engine.streams import derive, numpy_rng

TOKENIZER = Characters(string.digits + string.ascii_lowercase + "+-=:;,() \n")
END = int(TOKENIZER.encode("\n")[0])
ONE_IN = 8
"""One in so many questions belongs to the evaluations."""
EVALUATIONS = ("development", "unseen")


@dataclass(frozen=True)
class Family:
    """level: what is trained and developed on. unseen: of the other evaluation."""

    task: Task
    level: int
    unseen: int


@lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    strings = task("constrained-strings", kinds=("length", "end", "begin"), lengths=(3, 5))
    return {
        "countdown": Family(task("countdown", operations="+-", largest=6, target=15), 3, 4),
        "sums": Family(task("sum-chains", largest=7), 3, 4),
        "strings": Family(strings, 2, 3),
        "recall": Family(task("key-recall"), 3, 5),
    }


def content(problem: Problem) -> str:
    """What is asked, whatever the order: two prompts of one content have the same right answers."""
    data = problem.data
    if "target" in data:
        return f"countdown {sorted(data['numbers'])} {data['target']}"
    if "result" in data:
        terms = problem.prompt.replace("-", " -").replace("+", " ").rstrip("=").split()
        return f"sums {sorted(map(int, terms))}"
    return problem.prompt


def is_test(problem: Problem) -> bool:
    return derive(0, "split", content(problem)) % ONE_IN == 0


def problems(name: str, seed: int, stream: str, *, unseen: bool = False, test: bool = False) -> Iterator[Problem]:
    """Questions of one family without end, of the evaluations' side of the split or the other."""
    family = families()[name]
    start = derive(seed, stream, name)
    index = 0
    while True:
        problem = family.task.problem(start, index, family.unseen if unseen else family.level)
        index += 1
        if is_test(problem) == test:
            yield problem


def mixed(seed: int, stream: str, count: int, *, unseen_one_in: int = 0) -> list[tuple[str, Problem]]:
    """`count` training questions, families by turns; with `unseen_one_in` every so manieth of a family is at its unseen level."""
    names = list(families())
    usual = [problems(name, seed, stream) for name in names]
    other = [problems(name, seed, stream, unseen=True) for name in names]
    found = []
    for number in range(count):
        k, turn = number % len(names), number // len(names)
        far = bool(unseen_one_in) and turn % unseen_one_in == 0
        found.append((names[k], next(other[k] if far else usual[k])))
    return found


def evaluation(which: str, seed: int, count: int) -> dict[str, list[Problem]]:
    """`count` different questions of each family."""
    found: dict[str, list[Problem]] = {}
    for name in families():
        stream = problems(name, seed, which, unseen=which == "unseen", test=True)
        different: dict[str, Problem] = {}
        for problem in islice(stream, 20 * count):
            different.setdefault(problem.prompt, problem)
            if len(different) == count:
                break
        found[name] = list(different.values())
    return found


def verify(name: str, problem: Problem, response: str) -> float:
    return families()[name].task.verify(problem, response)


def demonstrations(items: list[tuple[str, Problem]], wrong: float, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(prompt, answer) rows, a share `wrong` of them with an answer of the family that does not solve them."""
    answers: dict[str, list[str]] = {}
    for name, problem in items:
        answers.setdefault(name, []).append(problem.answer)
    rows = []
    for name, problem in items:
        answer = problem.answer
        if rng.random() < wrong:
            others = (answers[name][int(i)] for i in rng.integers(0, len(answers[name]), 50))
            answer = next((other for other in others if not verify(name, problem, other)), answer)
        rows.append((problem.prompt, answer))
    return rows


def base_rows(count: int, wrong: float, seed: int) -> list[tuple[str, str]]:
    return demonstrations(mixed(seed, "base", count, unseen_one_in=6), wrong, numpy_rng(seed, "base", "wrong"))
