"""The testbed: countdown. The base is taught sums and differences of three numbers; half of what is trained on later lies beyond it.

    sums    three numbers, + and -               11 4 12=19:12+11-4        what the base was taught
    times   three numbers, needs a product       3 4 5=17:3*4+5            a sign that it has seldom seen
    four    four numbers, + and -                1 2 3 4=10:4+3+2+1        a length that it has seldom seen

Of the kinds beyond it the base has seen a few: enough to write such answers, not to find right ones. Of all answers that it is taught
a share has one sign wrong, so that it is careless where it could be right: what reinforcement can mend without a demonstration.

Questions are split by what they ask (the numbers in order of size, and the target): none of the test is trained on, in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice

import numpy as np

from etude.data.tasks import task
from etude.data.tokenizers import Characters
from etude.engine.optim import AdamW, Muon
from etude.engine.protocols import Problem, Sampling, Task
from etude.engine.streams import derive, numpy_rng
from etude.learn.problems import Domain, ProblemPool, SingleTurn
from etude.learn.warmstart import Base, warm_start
from etude.nn.transformer import TransformerConfig
from etude.papers.improvement.relift.settings import Settings

TOKENIZER = Characters("0123456789+-*/() =:\n")
END = int(TOKENIZER.encode("\n")[0])
KINDS = {"sums": ("+-", 3), "times": ("+-*", 3), "four": ("+-", 4)}
"""Operations allowed, and how many numbers."""
ONE_IN = 6
"""One in so many questions belongs to the test."""


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, kv_heads=settings.kv_heads,
        hidden=settings.hidden, context=settings.context, tied=settings.tied,
    )  # fmt: skip


def sampling(settings: Settings, temperature: float = 1.0) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=settings.max_tokens, stop_tokens=(END,))


@lru_cache(maxsize=8)
def family(operations: str, largest: int, target: int) -> Task:
    return task("countdown", operations=operations, largest=largest, target=target)


def is_test(problem: Problem) -> bool:
    return derive(0, "split", *sorted(problem.data["numbers"]), problem.data["target"]) % ONE_IN == 0


def needs_product(problem: Problem) -> bool:
    """Whether no sum or difference of the numbers is the target."""
    numbers, target = problem.data["numbers"], problem.data["target"]
    return all(
        sum(s * n for s, n in zip(signs, numbers, strict=True)) != target for signs in itertools.product((1, -1), repeat=len(numbers))
    )


def problems(kind: str, settings: Settings, seed: int, name: str, *, test: bool = False) -> Iterator[Problem]:
    """Without end, all different: questions of one kind, of the test or not. name: of the stream."""
    operations, count = KINDS[kind]
    drawn, stream, seen = family(operations, settings.largest, settings.target), derive(seed, name, kind), set()
    for index in itertools.count():
        problem = drawn.problem(stream, index, count)
        numbers = " ".join(map(str, problem.data["numbers"]))
        problem = replace(problem, prompt=f"{numbers}={problem.data['target']}:")
        fits = is_test(problem) == test and (kind != "times" or needs_product(problem))
        if fits and problem.prompt not in seen:
            seen.add(problem.prompt)
            yield problem


def pool_of(counts: dict[str, int], settings: Settings, seed: int, name: str, *, test: bool = False) -> ProblemPool:
    """A domain a kind."""

    def domain(kind: str, count: int) -> Domain:
        drawn = family(KINDS[kind][0], settings.largest, settings.target)
        return Domain(kind, list(islice(problems(kind, settings, seed, name, test=test), count)), lambda: SingleTurn(drawn))

    return ProblemPool([domain(kind, count) for kind, count in counts.items()])


def halves(total: int) -> dict[str, int]:
    """Half like the base's, a quarter of each kind beyond it."""
    return {"sums": total // 2, "times": total // 4, "four": total // 4}


def encode(text: str) -> np.ndarray:
    return TOKENIZER.encode(text).astype(np.int64)


def slip(kind: str, problem: Problem, settings: Settings, rng: np.random.Generator) -> str:
    """The problem's answer with one sign changed so that it is wrong; as it is where no such change makes it so."""
    operations, _ = KINDS[kind]
    answer, changed = problem.answer, []
    for place, sign in enumerate(answer):
        changed += [answer[:place] + other + answer[place + 1 :] for other in operations if sign in operations and other != sign]
    wrong = [text for text in changed if not family(operations, settings.largest, settings.target).verify(problem, text)]
    return wrong[int(rng.integers(len(wrong)))] if wrong else answer


def base_rows(settings: Settings, seed: int) -> list[tuple[str, str]]:
    """What the base is taught: (prompt, answer), some of the answers with a slip, of a question perhaps in one row and not in another."""
    beyond = int(settings.base_questions * settings.base_beyond / 2)
    counts = {"sums": settings.base_questions - 2 * beyond, "times": beyond, "four": beyond}
    rng = numpy_rng(seed, "slips")
    return [
        (p.prompt, slip(kind, p, settings, rng) if rng.random() < settings.base_slips else p.answer)
        for kind, count in counts.items()
        for p in islice(problems(kind, settings, seed, "base"), count)
        for _ in range(settings.base_copies)
    ]


def base_model(settings: Settings, seed: int, progress: Callable[[float, float], None] | None = None) -> Base:
    optimizer = Muon(lr=settings.base_lr, weight_decay=0.01, rest=AdamW(lr=settings.base_lr / 8, weight_decay=0.01))
    return warm_start(
        base_rows(settings, seed), name="sums of three numbers", config=model_config(settings), tokenizer=TOKENIZER, end=END,
        steps=settings.base_updates, batch_size=settings.base_batch, optimizer=optimizer, seed=seed, progress=progress,
    )  # fmt: skip
