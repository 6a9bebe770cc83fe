"""Problems in files: readable JSON lines with `id`, `prompt`, `answer`, and optionally `difficulty` and `data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from etude.data.jsonl import jsonl, read_jsonl
from etude.data.tasks.answers import answer_of
from etude.engine.checkpoint import write_atomic
from etude.engine.protocols import Problem
from etude.errors import BadInput


def read_problems(path: str | Path) -> list[Problem]:
    """The problems of a file. Raises BadInput naming file, line and field; an id used twice, an empty prompt and an empty file too."""
    found: dict[str, Problem] = {}
    required, optional = {"id": str, "prompt": str, "answer": str}, {"difficulty": int, "data": dict}
    for number, row in enumerate(read_jsonl(path, required, optional, strict=True), start=1):
        if row["id"] in found:
            raise BadInput(f"{path}, problem {number}, field 'id'", f"'{row['id']}' again", "an id of its own for each problem")
        if not row["prompt"].strip():
            raise BadInput(f"{path}, problem {number}, field 'prompt'", "nothing", "a text")
        found[row["id"]] = Problem(row["id"], row["prompt"], row["answer"], row.get("difficulty", 0), row.get("data", {}))
    if not found:
        raise BadInput(str(path), "no problem", "at least one JSON object with id, prompt and answer")
    return list(found.values())


def write_problems(path: str | Path, problems: Sequence[Problem]) -> None:
    """Writes the file whole or not at all."""
    write_atomic(Path(path), jsonl([{**asdict(p), "data": dict(p.data)} for p in problems]))


class FileTask:
    """A file's problems as a task: item `index` of a difficulty in the file's order, whatever the seed; right is the exact answer.

    Raises BadInput as `read_problems` does, and for a difficulty or an index that the file does not have.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = f"file:{Path(path).name}"
        self.by_difficulty: Mapping[int, list[Problem]] = {}
        grouped: dict[int, list[Problem]] = {}
        for problem in read_problems(path):
            grouped.setdefault(problem.difficulty, []).append(problem)
        self.by_difficulty = grouped
        self.difficulties = tuple(sorted(grouped))

    def problem(self, seed: int, index: int, difficulty: int) -> Problem:
        if difficulty not in self.by_difficulty:
            raise BadInput(f"task {self.name}, difficulty", repr(difficulty), f"one of {', '.join(map(str, self.difficulties))}")
        here = self.by_difficulty[difficulty]
        if not 0 <= index < len(here):
            raise BadInput(f"task {self.name}, index", repr(index), f"0 to {len(here) - 1}")
        return here[index]

    def verify(self, problem: Problem, response: str) -> float:
        return float(answer_of(response) == problem.answer.strip())
