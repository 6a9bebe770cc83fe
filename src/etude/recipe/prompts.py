"""Prompts to be answered: of a file's rows or of a named task, as problems that a verifier judges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etude.data.chat import Template
from etude.data.jsonl import Row
from etude.data.row_files import RowFile
from etude.data.row_kinds import Messages, messages_of
from etude.data.tasks import task as named_task
from etude.data.tokenizers import Tokenizer
from etude.engine.protocols import Problem, Task
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.learn.problems import Domain, ProblemPool, SingleTurn
from etude.recipe.verifiers import VerifiedBy, Verifier, row_of


@dataclass(frozen=True)
class Asker:
    """How prompts reach a model. template: its chat template, made when messages are met; None for a model without one. begin: the token
    that stands before a text, as it is written."""

    tokenizer: Tokenizer
    template: Callable[[], Template] | None = None
    begin: str = ""

    def text(self, prompt: str | Messages, where: str, tools: list[Any] | None = None) -> str:
        """A text with what the model has before a text, messages by the chat template up to where the assistant's turn begins.
        Raises BadInput naming the row."""
        if isinstance(prompt, str):
            return begun(prompt, self.begin)
        if self.template is None:
            raise BadInput(where, "messages", "a model with a chat template, or texts")
        template = self.template()
        try:
            return template.render(prompt, ask=True, tools=tools)
        except Exception as error:  # jinja's own, and whatever a template calls
            line = " ".join(str(error).split())
            found = f"messages that the chat template of {template.name} refuses ({line[:120]})"
            raise BadInput(where, found, "roles and contents that it takes") from error

    def user(self, text: str, where: str) -> str:
        return self.text([{"role": "user", "content": text}], where)


def begun(text: str, begin: str) -> str:
    """A text with the token before it that a model has read before all texts."""
    return text if text.startswith(begin) else begin + text


def prompt_of(row: Row, where: str) -> str | Messages:
    """The column `prompt`; of a row of messages, those before the assistant's last turn. Raises BadInput naming the field."""
    if "prompt" in row:
        prompt = row["prompt"]
        if isinstance(prompt, str):
            if not prompt:
                raise BadInput(f"{where}, field 'prompt'", "an empty text", "at least one character")
            return prompt
        turns = messages_of(row, "prompt", where)
        if turns[-1]["role"] == "assistant":
            raise BadInput(f"{where}, field 'prompt'", "messages that end with the assistant's", "a turn that is to be answered")
        return turns
    if "messages" in row:
        turns = messages_of(row, "messages", where)
        last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
        if last:
            return turns[:last]
    raise BadInput(f"{where}, field 'prompt'", "nothing", "a text or messages, which are to be answered")


def row_problems(file: RowFile, asker: Asker, verifier: Verifier | None, numbers: Collection[int] | None = None) -> Iterator[Problem]:
    """A file's rows, all or those of these line numbers; a problem's id is its place, its data the row. Raises BadInput naming file, line
    and field for a row without a prompt or without a column that the verifier asks for."""
    for number, row in file.rows():
        if numbers is not None and number not in numbers:
            continue
        where = file.where(number)
        if verifier is not None:
            verifier.check(row, where)
        text = asker.text(prompt_of(row, where), where, row.get("tools"))
        yield Problem(where, text, str(row.get("answer", "")), 0, row)


def task_problems(
    task: Task, asker: Asker, *, seed: int, difficulties: Sequence[int], count: int, chat: bool, without: Collection[str] = ()
) -> dict[int, list[Problem]]:
    """Problems 0 .. count - 1 of each difficulty, those left out whose prompt is in `without`. Raises BadInput where none is left."""
    found = {}
    for level in difficulties:
        problems = [task.problem(seed, index, level) for index in range(count)]
        kept = [replace(p, prompt=asker.user(p.prompt, p.id) if chat else asker.text(p.prompt, p.id)) for p in problems]
        found[level] = [p for p in kept if p.prompt not in without]
        if not found[level]:
            expected = "more of data.problems, or fewer held out"
            raise BadInput("data.problems", f"none of difficulty {level} that is not held out", expected)
    return found


def levels_of(task: Task, difficulties: Sequence[int] | None, where: str) -> tuple[int, ...]:
    """Those asked for, or the task's first. Raises BadInput for one that it does not have."""
    for level in difficulties or ():
        if level not in task.difficulties:
            raise BadInput(f"{where}.difficulties", repr(level), f"of {task.name}: {', '.join(map(str, task.difficulties))}")
    return tuple(difficulties or (task.difficulties[0],))


def task_of(name: str, settings: dict[str, Any] | None, where: str) -> Task:
    """Raises BadInput at the recipe's key for an unknown task or setting."""
    try:
        return named_task(name, **(settings or {}))
    except BadInput as error:
        if not error.where.startswith(("task", "etude.task")):
            raise
        raise error.at(f"{where}.{'settings' if 'setting' in error.where else 'task'}") from error


def judged(task: Task, verifier: Verifier | None) -> Task:
    """A task with its own verifier, or with the user's, whose needs are checked on each problem later."""
    return task if verifier is None else VerifiedBy(task.name, verifier, task)


def task_pool(task: Task, problems: dict[int, list[Problem]], verifier: Verifier | None) -> ProblemPool:
    """A domain a difficulty. Raises BadInput for a problem without what the verifier asks for."""
    by = judged(task, verifier)
    if verifier is not None:
        for problem in (p for some in problems.values() for p in some):
            verifier.check(row_of(problem), problem.id)
    return ProblemPool([Domain(f"{task.name}/{level}", some, lambda: SingleTurn(by)) for level, some in problems.items()])


def row_pool(name: str, problems: Sequence[Problem], verifier: Verifier, domain: str | None = None) -> ProblemPool:
    """domain: the field of the rows that holds each problem's; without it they are one, of that name."""
    by = VerifiedBy(name, verifier)
    if domain is None:
        return ProblemPool.given(by, problems)
    parts: dict[str, list[Problem]] = {}
    for problem in problems:
        parts.setdefault(str(problem.data[domain]).strip(), []).append(problem)
    return ProblemPool([Domain(called, some, lambda: SingleTurn(by)) for called, some in parts.items()])


def fitting(problems: Sequence[Problem], tokenizer: Tokenizer, room: int, too_long: str, why: str) -> tuple[list[Problem], int]:
    """Problems whose prompts have at most `room` tokens, and how many have more. Raises BadInput naming the first unless it is to be
    dropped."""
    if not problems:
        raise BadInput("data", "no row", "at least one prompt")
    kept = []
    for problem in problems:
        count = len(tokenizer.encode(problem.prompt))
        if count <= room:
            kept.append(problem)
        elif too_long != "drop":
            raise BadInput(f"{problem.id}: prompt", f"{count} tokens", f"at most {room}: {why}")
    if not kept:
        raise BadInput("data", "no prompt that fits", f"at most {room} tokens: {why}")
    return kept, len(problems) - len(kept)


def held_out_seed(seed: int) -> int:
    """Of a task's problems to measure on: never those of training."""
    return derive(seed, "held-out problems")
