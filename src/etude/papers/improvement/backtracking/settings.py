"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # problems
    levels: tuple[int, int] = (3, 4)  # how many numbers: easier, harder
    operations: str = "+-"
    largest: int = 9  # of the given numbers
    # the base
    base_rows: int = 16_000  # solutions and walks, half of each level
    vocab: int = 117
    width: int = 96
    depth: int = 2
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    tied: bool = True
    context: int = 144  # tokens
    base_updates: int = 2_000
    base_batch: int = 32
    base_lr: float = 3e-3
    # warm-up
    numbers: tuple[int, ...] = (0, 1, 3, 5)  # of backtracks: every problem has a trace for each
    rows: int = 2_000  # half of each level
    warm_updates: int = 400
    warm_batch: int = 16
    warm_lr: float = 2e-3  # of traces that turn back
    straight_lr: float = 5e-4  # of traces that do not
    # reinforcement learning
    pool: int = 2_000  # problems, half of each level
    updates: int = 60
    prompts: int = 16  # a round
    samples: int = 8  # of each prompt
    lr: float = 1e-4
    format_score: float = 0.1  # of a response that gives one answer, a wrong one
    max_tokens: int = 128  # of a response, its end token included
    # measuring
    num_test: int = 240  # problems, half of each level
    test_samples: int = 2  # answers a problem
    evaluations: int = 5  # on a test while learning, the first before it

    def __post_init__(self) -> None:
        if len(self.levels) != 2 or self.levels[0] >= self.levels[1]:
            raise BadInput("settings.levels", repr(self.levels), "two, the easier one first")
        if not 0 <= self.format_score < 1:
            raise BadInput("settings.format_score", repr(self.format_score), "a number from 0 to below 1")
        if len(self.numbers) < 2 or any(b <= a for a, b in zip(self.numbers, self.numbers[1:], strict=False)) or self.numbers[0] < 0:
            raise BadInput("settings.numbers", repr(self.numbers), "at least two numbers of backtracks, rising")
