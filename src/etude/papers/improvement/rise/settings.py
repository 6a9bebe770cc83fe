"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # questions and the base
    levels: tuple[int, ...] = (3, 4)  # how many numbers
    vocab: int = 21
    width: int = 64
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    tied: bool = True
    context: int = 80  # tokens
    max_tokens: int = 13  # of an answer, its end included
    demonstrations: int = 16_000
    base_updates: int = 1_200
    base_batch: int = 64
    base_lr: float = 3e-3
    # RISE
    iterations: int = 2
    questions: int = 4_096  # rolled out in an iteration
    batch_questions: int = 256
    corrections: int = 150  # failed states that are corrected, a batch
    best_of: int = 16
    criterion: str = "all"
    single_criterion: str = "success"  # of the arm without turns
    tau: float = 0.4
    updates: int = 200
    rows: int = 64
    lr: float = 3e-4
    single_lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.04
    # answering
    turns: int = 5
    window: int = 2
    num_test: int = 400
    groups: int = 4  # episodes, and groups of parallel answers, to each question

    def __post_init__(self) -> None:
        if self.turns < 2 or self.window < 1 or self.iterations < 1:
            found = f"{self.turns} turns, window {self.window}, {self.iterations} iterations"
            raise BadInput("settings", found, "at least 2 turns, a window of 1 and 1 iteration")
