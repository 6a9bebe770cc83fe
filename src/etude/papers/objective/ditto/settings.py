"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale. Tokens are trained ones; a row has `context` of them."""

    corpus: str = "kjv"
    tokenizer: str = "bpe:512"
    ends: str = ".?!:;"  # of a sentence; the King James Bible closes sentences with colons and semicolons too
    vocab: int = 512
    width: int = 64
    depth: int = 2
    heads: int = 2
    hidden: int | None = None
    tied: bool = True
    shifted: bool = True  # each token comes with a map of the one before it
    init_std: float = 0.1  # of the weights
    context: int = 160
    echo_updates: int = 200  # of the base, on rows that repeat random tokens
    base_updates: int = 2_000  # after these, on text
    echoes: float = 0.1  # share of rows that repeat random tokens there
    base_lr: float = 1e-2
    batch: int = 16  # rows, of base and tuning
    updates: int = 150  # of the tuning
    lr: float = 1e-3
    unlikelihood_lr: float = 1e-3  # of both kinds of unlikelihood
    warmup: float = 0.05  # share of the updates
    weight_decay: float = 0.1
    decay: float = 0.5  # their lambda
    rate: float = 0.5  # share of updates on repetitions (ditto) or on continuations (sequence unlikelihood)
    coin: str = "update"
    alpha: float = 1.0  # weight of token unlikelihood
    prompt: int = 50  # tokens that are continued
    continuation: int = 100  # tokens
    num_prompts: int = 200
    top_p: float = 0.9
    temperature: float = 0.3  # of the continuations that are neither greedy nor of a nucleus
    num_copies: int = 5
    num_pairs: int = 200
    held_out_windows: int = 256
    evaluations: int = 5

    def __post_init__(self) -> None:
        if self.prompt + self.continuation > self.context + 1:
            raise BadInput(
                "settings.context", str(self.context), f"at least {self.prompt + self.continuation - 1}, prompt and continuation"
            )

    @property
    def tokens(self) -> int:
        """Trained tokens of the tuning."""
        return self.updates * self.batch * self.context
