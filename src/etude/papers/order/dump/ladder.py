"""The testbed: problems of one task at rising difficulties, a distribution a level, and a base taught the easy ones best.

Problems are split by their prompts: those of the test are neither demonstrated nor trained on, at any seed.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np

from etude.data.tasks import task
from etude.data.tokenizers import Characters
from etude.engine.protocols import Problem, Sampling
from etude.engine.streams import derive, numpy_rng
from etude.learn.problems import Domain, ProblemPool, SingleTurn
from etude.learn.warmstart import Base, warm_start
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.order.dump.settings import Settings

TOKENIZER = Characters(string.ascii_lowercase + string.digits + ": \n")
END = int(TOKENIZER.encode("\n")[0])
ONE_IN = 8
"""One in so many prompts belongs to the test."""


def is_test(prompt: str) -> bool:
    return derive(0, "split", prompt) % ONE_IN == 0


def problems(settings: Settings, seed: int, name: str, level: int, *, test: bool = False) -> Iterator[Problem]:
    """Without end, of the test's prompts or of the others. name: of the stream."""
    family, stream = task(settings.task), derive(seed, name)
    return (p for p in (family.problem(stream, i, level) for i in count()) if is_test(p.prompt) == test)


def pool(settings: Settings, seed: int, name: str, each: int, *, test: bool = False) -> ProblemPool:
    """`each` problems of every level, one domain a level."""
    family = task(settings.task)
    return ProblemPool(
        [
            Domain(str(level), list(islice(problems(settings, seed, name, level, test=test), each)), lambda: SingleTurn(family))
            for level in settings.levels
        ]
    )


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, kv_heads=settings.kv_heads,
        hidden=settings.hidden, context=settings.context, tied=settings.tied,
    )  # fmt: skip


def paper_model(settings: Settings) -> Transformer:
    return Transformer(model_config(settings))


def demonstrations(settings: Settings, seed: int) -> list[tuple[str, str]]:
    """(prompt, answer) rows; each letter of an answer is replaced by any letter with probability `corrupted`."""
    rng = numpy_rng(seed, "corruption")
    rows = []
    for level, number in zip(settings.levels, settings.demonstrations, strict=True):
        for p in islice(problems(settings, seed, "demonstrations", level), number):
            wrong, letters = rng.random(len(p.answer)) < settings.corrupted, rng.integers(26, size=len(p.answer))
            answer = "".join(string.ascii_lowercase[n] if w else c for c, w, n in zip(p.answer, wrong, letters, strict=True))
            rows.append((p.prompt, answer))
    return rows


def base_model(settings: Settings, seed: int, progress: Callable[[float, float], None] | None = None) -> Base:
    return warm_start(
        demonstrations(settings, seed), name=f"{settings.task} ladder", config=model_config(settings), tokenizer=TOKENIZER, end=END,
        steps=settings.base_updates, batch_size=settings.base_batch, lr=settings.base_lr, seed=seed, progress=progress,
    )  # fmt: skip


def sampling(settings: Settings) -> Sampling:
    return Sampling(max_tokens=settings.max_tokens, stop_tokens=(END,))


def encode(text: str) -> np.ndarray:
    return TOKENIZER.encode(text).astype(np.int64)
