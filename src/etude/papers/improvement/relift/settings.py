"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # questions and base
    largest: int = 12  # of the given numbers
    target: int = 60  # the largest
    vocab: int = 20
    width: int = 96
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    tied: bool = True
    context: int = 40  # tokens
    max_tokens: int = 16  # of an answer, its end token included
    base_questions: int = 4_000
    base_beyond: float = 0.04  # share of them that are of the kinds beyond it
    base_updates: int = 600
    base_batch: int = 64
    base_lr: float = 3e-3
    # reinforcement
    pool: int = 4_000  # questions: half like the base's, half beyond it
    prompts: int = 16  # a round
    samples: int = 8  # of each
    minibatch: int = 64  # rollouts an update
    budget_tokens: int = 600_000  # trained, of rollouts and of demonstrations
    lr: float = 1e-4
    warmup: float = 0.1  # share of the tokens, of every learning rate
    entropy: float = 0.001
    weight_decay: float = 0.01
    clip: float = 0.7  # norm of the gradient
    # demonstrations
    size: int = 32  # M: pairs an interlude
    sft_lr: float = 3e-4  # of an interlude
    alone_lr: float = 3e-4  # of SFT alone
    alone_batch: int = 64
    sft_share: float = 0.3  # of the tokens, in SFT then RL
    # measuring
    num_test: int = 600  # questions
    base_samples: int = 8  # of each, for the bands
    test_samples: int = 4
    test_temperature: float = 0.6

    def __post_init__(self) -> None:
        if self.pool % 4 or self.pool < 4 * self.prompts:
            raise BadInput("settings.pool", repr(self.pool), f"a multiple of 4, at least {4 * self.prompts}")
        if not 0 <= self.base_beyond < 1:
            raise BadInput("settings.base_beyond", repr(self.base_beyond), "a share from 0 to below 1")
        if not 0 < self.sft_share < 1:
            raise BadInput("settings.sft_share", repr(self.sft_share), "a share between 0 and 1")
