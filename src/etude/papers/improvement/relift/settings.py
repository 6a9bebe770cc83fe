"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # questions and base
    largest: int = 9  # of the given numbers
    target: int = 40  # the largest
    vocab: int = 20
    width: int = 96
    depth: int = 2
    heads: int = 3
    kv_heads: int | None = None
    hidden: int | None = None
    tied: bool = True
    context: int = 40  # tokens
    max_tokens: int = 16  # of an answer, its end token included
    base_questions: int = 1_600
    base_beyond: float = 0.02  # share of them that are of the kinds beyond it
    base_slips: float = 0.4  # share of the base's rows whose answer has one sign wrong
    base_copies: int = 4  # rows of each question, with a slip or without
    base_updates: int = 600
    base_batch: int = 64
    base_lr: float = 2e-2  # of Muon; an eighth of it for AdamW
    # reinforcement
    pool: int = 2_400  # questions: half like the base's, half beyond it
    prompts: int = 16  # a round
    samples: int = 8  # of each
    minibatch: int = 128  # rollouts an update
    budget_tokens: int = 400_000  # trained, of rollouts and of demonstrations
    lr: float = 3e-4
    warmup: float = 0.1  # share of the tokens, of every learning rate
    entropy: float = 0.001
    weight_decay: float = 0.01
    clip: float = 0.7  # norm of the gradient
    # demonstrations
    size: int = 32  # M: pairs an interlude
    sft_lr: float = 3e-4  # of an interlude
    alone_lr: float = 1e-3  # of SFT alone
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
        for name in ("base_beyond", "base_slips"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"settings.{name}", repr(getattr(self, name)), "a share from 0 to below 1")
        if not 0 < self.sft_share < 1:
            raise BadInput("settings.sft_share", repr(self.sft_share), "a share between 0 and 1")
