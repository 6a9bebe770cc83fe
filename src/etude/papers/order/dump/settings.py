"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # the distributions, easy first, and the base
    task: str = "copying"
    levels: tuple[int, ...] = (2, 3, 4, 6, 8)  # difficulties of the task, one distribution each
    demonstrations: tuple[int, ...] = (2_500, 2_500, 3_000, 3_500, 2_000)  # that the base is taught, of each level
    corrupted: float = 0.3  # share of their letters that are any letter
    vocab: int = 39
    width: int = 96
    depth: int = 2
    heads: int = 8
    kv_heads: int | None = None
    hidden: int | None = None
    tied: bool = True
    context: int = 32  # tokens
    base_updates: int = 1_200
    base_batch: int = 32
    base_lr: float = 3e-3
    # reinforcement learning
    train_problems: int = 1_000  # of each level
    rounds: int = 200
    prompts: int = 16  # a round
    samples: int = 8  # G, rollouts a prompt
    minibatch: int = 64  # rollouts an update
    max_tokens: int = 12  # of an answer, its end token included
    lr: float = 3e-4
    kl: float = 0.001
    # the bandit
    window: int = 300  # rollouts
    temperature: float = 0.1  # tau
    bonus: float = 1.0
    # measuring
    num_test: int = 100  # problems of each level
    evaluations: int = 20

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.demonstrations) or not self.levels:
            raise BadInput("settings.demonstrations", f"{len(self.demonstrations)} for {len(self.levels)} levels", "one number a level")
        if self.samples < 2:
            raise BadInput("settings.samples", repr(self.samples), "groups of at least 2")
        if (self.prompts * self.samples) % self.minibatch:
            raise BadInput("settings.minibatch", repr(self.minibatch), f"a divisor of {self.prompts * self.samples} rollouts a round")

    @property
    def updates(self) -> int:
        """Of a run."""
        return self.rounds * self.prompts * self.samples // self.minibatch

    @property
    def rollouts(self) -> int:
        """Of a run."""
        return self.rounds * self.prompts * self.samples
