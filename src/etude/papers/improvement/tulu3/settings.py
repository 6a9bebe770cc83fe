"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale. Tokens of a stage: all that it trains on, reads or writes, preparing included."""

    # the base
    vocab: int = 46
    width: int = 96
    depth: int = 2
    heads: int = 3
    kv_heads: int | None = None
    hidden: int | None = None
    rope_base: float = 10_000.0
    tied: bool = True
    context: int = 64  # tokens
    base_rows: int = 30_000
    base_wrong: float = 0.1  # share of the base's rows whose answer is wrong
    base_updates: int = 1_000
    base_batch: int = 64
    base_lr: float = 2e-2  # of Muon; an eighth of it for AdamW
    # supervised fine-tuning
    sft_rows: int = 7_000
    sft_wrong: float = 0.1  # share of the demonstrations that are wrong
    sft_tokens: int = 250_000
    sft_lr: float = 1e-3
    sft_batch: int = 32  # rows
    sft_warmup: float = 0.03
    # preferences
    pair_prompts: int = 1_200
    judge_errs: float = 0.1  # share of marks that say nothing
    dpo_tokens: int = 130_000
    dpo_lr: float = 3e-4
    dpo_beta: float = 5.0  # of the length-normalised loss
    plain_lr: float = 1e-4
    plain_beta: float = 0.5  # of the plain one
    dpo_batch: int = 32  # pairs
    dpo_warmup: float = 0.1
    # the reward model, from which the value net begins
    reward_updates: int = 60
    reward_lr: float = 3e-4
    reward_batch: int = 32  # pairs
    # verifiable rewards
    rl_prompts: int = 2_000
    rlvr_tokens: int = 350_000
    rlvr_lr: float = 1e-3
    value_lr: float = 1e-3
    round_prompts: int = 64
    samples: int = 1  # of a prompt
    epochs: int = 1
    kl: float = 0.05
    paid: float = 10.0  # for what the verifier accepts
    unfinished: float = -10.0  # instead, without an end token
    value_weight: float = 0.1
    value_clip: float = 0.2
    max_tokens: int = 12  # of an answer, its end token included
    # measuring
    num_test: int = 150  # prompts of each family, development and unseen alike
    num_scraped: int = 200  # rows beside the leaks in the data set that is dropped

    def __post_init__(self) -> None:
        for name in ("base_wrong", "sft_wrong", "judge_errs"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"settings.{name}", repr(getattr(self, name)), "a share from 0 to below 1")
        for name in ("sft_tokens", "dpo_tokens", "rlvr_tokens", "pair_prompts", "rl_prompts", "num_test"):
            if getattr(self, name) < 1:
                raise BadInput(f"settings.{name}", repr(getattr(self, name)), "a whole number >= 1")

    @property
    def total_tokens(self) -> int:
        """What every arm spends after the base."""
        return self.sft_tokens + self.dpo_tokens + self.rlvr_tokens
