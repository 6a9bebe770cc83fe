"""The testbed: countdown with small numbers, and a base that can answer in a conversation but has never been asked twice.

A question is `345=17:`, its numbers in order, an answer `3*4+5`; after a failure `x345=17:` is read. Questions are split by their
text into those of demonstrations, of rollouts and of the test. The base's conversations are about different questions: an answer to
another one, right or wrong, then `o` or `x`, then the question. So it knows the signs and the format, and nothing of second attempts.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice

import numpy as np

from etude.data import tasks
from etude.data.tasks.answers import answer_of
from etude.data.tasks.countdown import Countdown
from etude.data.tasks.expressions import NotAnExpression, evaluate
from etude.data.tokenizers import Characters
from etude.engine.protocols import Problem, Sampling
from etude.engine.streams import derive, numpy_rng
from etude.errors import BadInput
from etude.learn.warmstart import Base, warm_start
from etude.nn.transformer import TransformerConfig
from etude.papers.improvement.rise.episodes import Protocol
from etude.papers.improvement.rise.settings import Settings

TOKENIZER = Characters(string.digits + "+-*/()=:ox\n")
END = int(TOKENIZER.encode("\n")[0])
PARTS = ("demonstrations",) * 4 + ("rollouts",) * 3 + ("test",)
"""Of eight questions, so many belong to each part."""
MISSES = 3_000


@lru_cache(maxsize=1)
def task() -> Countdown:
    return Countdown()


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, kv_heads=settings.kv_heads,
        hidden=settings.hidden, context=settings.context, tied=settings.tied,
    )  # fmt: skip


def sampling(settings: Settings) -> Sampling:
    return Sampling(temperature=1.0, max_tokens=settings.max_tokens, stop_tokens=(END,))


def written(problem: Problem) -> Problem:
    """The same problem with a short prompt, its numbers in order: the same question is the same text."""
    numbers = "".join(str(n) for n in sorted(problem.data["numbers"]))
    return replace(problem, prompt=f"{numbers}={problem.data['target']}:")


def part_of(prompt: str) -> str:
    return PARTS[derive(0, "split", prompt) % len(PARTS)]


def again(problem: Problem) -> str:
    return f"x{problem.prompt}"


def key(response: str) -> str | None:
    """The expression without blanks; None for what is none."""
    answer = answer_of(response)
    try:
        evaluate(answer or "")
    except NotAnExpression:
        return None
    return (answer or "").replace(" ", "")


def protocol() -> Protocol:
    return Protocol(tasks.task("countdown"), again, key)


def problems(settings: Settings, seed: int, part: str) -> Iterator[Problem]:
    """Without end, by turns of the levels; the same question may come again."""
    stream, index = derive(seed, part), 0
    while True:
        for level in settings.levels:
            problem = written(task().problem(stream, index, level))
            if part_of(problem.prompt) == part:
                yield problem
        index += 1


def distinct(settings: Settings, seed: int, part: str, count: int) -> list[Problem]:
    """`count` different questions. Raises BadInput where there are not so many: none new among the last MISSES."""
    found: dict[str, Problem] = {}
    missed = 0
    for problem in problems(settings, seed, part):
        missed = missed + 1 if problem.prompt in found else 0
        found.setdefault(problem.prompt, problem)
        if len(found) == count:
            break
        if missed == MISSES:
            raise BadInput(f"questions of the {part}", f"{count} asked for", f"at most the {len(found)} that there are")
    return list(found.values())


def some_answer(problem: Problem, rng: np.random.Generator) -> str:
    """An expression of the problem's numbers by a random walk; mostly a wrong answer."""
    state = task().root(problem.data)
    while len(state) > 1:
        made = task().moves(problem.data, state)
        state = made[int(rng.integers(len(made)))][1]
    return next(iter(state))[1]


def demonstrations(settings: Settings, seed: int) -> list[tuple[str, str]]:
    """(what is read, answer) rows; half of them after one or two interactions about other questions."""
    rng = numpy_rng(seed, "conversations")
    items = list(islice(problems(settings, seed, "demonstrations"), settings.demonstrations))
    rows = []
    for number, problem in enumerate(items):
        talk, asked = "", {problem.prompt}
        for back in range(1, 1 + int(rng.choice([0, 1, 2], p=[0.5, 0.25, 0.25]))):
            other = items[number - back]  # the first ones follow on the last
            if other.prompt not in asked:
                asked.add(other.prompt)
                answer = other.answer if rng.random() < 0.3 else some_answer(other, rng)
                talk += f"{other.prompt}{answer}\n{'o' if task().right(other.data, answer) else 'x'}"
        rows.append((talk + problem.prompt, problem.answer))
    return rows


def base_model(settings: Settings, seed: int, progress: Callable[[float, float], None] | None = None) -> Base:
    return warm_start(
        demonstrations(settings, seed), name="countdown in conversations", config=model_config(settings), tokenizer=TOKENIZER, end=END,
        steps=settings.base_updates, batch_size=settings.base_batch, lr=settings.base_lr, seed=seed, progress=progress,
    )  # fmt: skip
