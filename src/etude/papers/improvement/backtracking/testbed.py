"""The testbed: countdown with small numbers, one base that solves some straight on, and the test that all arms share.

Problems are split by their numbers and target, so that no test problem is ever seen in another order either. The base knows what a
pretrained model does: steps and their arithmetic, some solutions, and, from walks without a target, what going back means. It has never
seen a search, where one goes back because the target was missed.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from etude.data.tasks.answers import answer_of, with_working
from etude.data.tasks.countdown import Countdown, Item
from etude.data.tasks.traces import BACK, PADDING, Trace
from etude.data.tokenizers import Characters
from etude.engine.protocols import Problem, Sampling, Task, Turn
from etude.engine.streams import derive, numpy_rng
from etude.learn.problems import Domain, ProblemPool, SingleTurn
from etude.learn.warmstart import Base, kept, warm_start
from etude.nn.transformer import TransformerConfig
from etude.papers.improvement.backtracking.settings import Settings
from etude.papers.improvement.backtracking.warmup import Traced, traced_problems

TOKENIZER = Characters(string.digits + "+-()=>: \nals$", words=(BACK, "all ", "> ", f"{PADDING}\n", *map(str, range(10, 100))))
END = int(TOKENIZER.encode("$")[0])
ONE_IN = 8
"""One in so many problems belongs to the test."""
DEEPEST = 1
"""How many backtracks beyond the largest number a problem must have: the wrong end of a control costs one."""


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, kv_heads=settings.kv_heads,
        hidden=settings.hidden, context=settings.context, tied=settings.tied,
    )  # fmt: skip


def sampling(settings: Settings) -> Sampling:
    return Sampling(temperature=1.0, max_tokens=settings.max_tokens, stop_tokens=(END,))


def encode(text: str) -> np.ndarray:
    return TOKENIZER.encode(text).astype(np.int64)


def count_tokens(text: str) -> int:
    return len(TOKENIZER.encode(text))


class Scored(SingleTurn):
    """A task with a small format term: 1 where the answer is right, `format_score` where there is one answer, a wrong one, else 0.

    As the authors' rewards (jchy20/how-much-backtrack at df310b4, verl/utils/reward_score): 1, 0.1 and 0.
    """

    def __init__(self, task: Task, format_score: float) -> None:
        super().__init__(task)
        self.format_score = format_score

    def step(self, response: str) -> Turn:
        right = self.task.verify(self.problem, response)
        formal = self.format_score if answer_of(response) is not None else 0.0
        return Turn("", max(right, formal), terminated=True)


def task_of(settings: Settings) -> Countdown:
    return Countdown(operations=settings.operations, largest=settings.largest)


def is_test(problem: Problem) -> bool:
    return derive(0, "split", str(sorted(problem.data["numbers"])), problem.data["target"]) % ONE_IN == 0


def problems(settings: Settings, seed: int, name: str, level: int, *, test: bool = False) -> Iterator[Problem]:
    """Without end: of the test's problems or of the others. name: of the stream."""
    task, place = task_of(settings), 0
    while True:
        problem = task.problem(derive(seed, name), place, level)
        place += 1
        if is_test(problem) == test:
            yield problem


def pool(settings: Settings, seed: int, name: str, count: int, *, test: bool = False) -> ProblemPool:
    """`count` problems, half of each level, a domain a level."""
    task = task_of(settings)
    return ProblemPool([
        Domain(
            f"{level} numbers", list(islice(problems(settings, seed, name, level, test=test), count // 2)),
            lambda: Scored(task, settings.format_score),
        )
        for level in settings.levels
    ])  # fmt: skip


def walk(task: Countdown, problem: Problem, returns: int, seed: int) -> str:
    """Steps drawn by chance, with `returns` returns from dead ends and others to the nearest state with something left to try (fewer
    where the tree is smaller), and as the answer the expression that the last step came to. It never looks at the target."""
    rng, lines, data = numpy_rng(seed, "walk", problem.id), [], problem.data

    def untried(state: tuple[Item, ...]) -> list[tuple[str, tuple[Item, ...]]]:
        moves = task.moves(data, state)
        return [moves[i] for i in rng.permutation(len(moves))]

    root = task.root(data)
    open_states = [(root, untried(root))]
    while True:
        step, state = open_states[-1][1].pop()
        lines.append(step)
        if len(state) != 1:
            open_states.append((state, untried(state)))
            continue
        while open_states and not open_states[-1][1]:
            open_states.pop()
        if not returns or not open_states:
            return with_working(lines, state[0][1])
        returns -= 1
        lines.append(BACK + task.label(data, open_states[-1][0]))


def base_rows(settings: Settings, seed: int) -> list[tuple[str, str]]:
    """Half are solved straight on. The others have no target to reach and go back as often as chance will have it."""
    rows, task = [], task_of(settings)
    for level in settings.levels:
        for place, problem in enumerate(islice(problems(settings, seed, "base", level), settings.base_rows // 2)):
            if place % 2:
                rows.append((problem.prompt, task.solution(problem)))
            else:
                returns = int(numpy_rng(seed, "returns", problem.id).integers(max(settings.numbers) + 1))
                rows.append((f"{problem.prompt.split(' =')[0]}: ", walk(task, problem, returns, seed)))
    return rows


def base_model(settings: Settings, seed: int, progress: Callable[[float, float], None] | None = None) -> Base:
    """A model that solves some problems straight on and can go back to an earlier state, but has never gone back because of a target."""
    return warm_start(
        base_rows(settings, seed), name="solves some straight on", config=model_config(settings), tokenizer=TOKENIZER, end=END,
        steps=settings.base_updates, batch_size=settings.base_batch, lr=settings.base_lr, seed=seed, progress=progress,
    )  # fmt: skip


def traced(settings: Settings, seed: int) -> list[Traced]:
    """The problems of all warm-ups with their traces, half of each level; written once and kept."""
    numbers = sorted({*settings.numbers, *(k + DEEPEST for k in settings.numbers)})
    half = settings.rows // 2

    def write() -> dict[str, list[list[str]]]:
        texts = {}
        for level in settings.levels:
            drawn = list(islice(problems(settings, seed, "traces", level), 4 * half + 20))
            place = {p.id: i for i, p in enumerate(drawn)}
            made = traced_problems(task_of(settings), drawn, numbers, half, seed)
            texts[str(level)] = [[str(place[m.problem.id]), *(m.traces[k].text for k in numbers)] for m in made]
        return texts

    made_of = {
        "traces of": task_of(settings).name, "numbers": list(numbers), "half": half, "levels": list(settings.levels), "seed": seed,
        "one in": ONE_IN,
    }  # fmt: skip
    written = kept(made_of, write)[1]
    found = []
    for level in settings.levels:
        drawn = list(islice(problems(settings, seed, "traces", level), 4 * half + 20))
        for place, *texts in written[str(level)]:
            found.append(Traced(drawn[int(place)], {k: Trace(text, k) for k, text in zip(numbers, texts, strict=True)}))
    return found


def mean_tokens(texts: Sequence[str]) -> float:
    return float(np.mean([count_tokens(text) for text in texts]))
