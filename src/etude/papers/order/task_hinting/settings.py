"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # the lists
    largest: int = 40  # numbers go from 1 to this
    longest: int = 8  # numbers of the longest list trained on; the shortest has 2
    factors: tuple[int, ...] = (1, 2, 4)  # lists are tested at so many times the longest
    rows: int = 20_000  # different rows of the task, and as many of each hint
    # the network
    width: int = 96
    depth: int = 2
    heads: int = 4
    hidden: int | None = None
    context: int = 72  # tokens
    # training
    batch: int = 32  # rows of the task an update; with hints as many of these
    updates: int = 800
    lr: float = 2e-3
    warmup: float = 0.05  # share of the updates
    beta2: float = 0.99
    weight_decay: float = 0.0
    # measuring
    num_test: int = 100  # lists of each length
    evaluations: int = 10

    def __post_init__(self) -> None:
        if not 2 <= self.longest <= self.largest:
            raise BadInput("settings.longest", repr(self.longest), f"from 2 to largest, {self.largest}")
        if not self.factors or list(self.factors) != sorted(set(self.factors)) or self.factors[0] != 1:
            raise BadInput("settings.factors", repr(self.factors), "whole numbers, rising, from 1")
        if self.tested[-1] > self.largest:
            raise BadInput("settings.factors", f"lists of {self.tested[-1]}", f"at most largest, {self.largest}: no number comes twice")
        if self.context < self.needed:
            raise BadInput("settings.context", str(self.context), f"at least {self.needed}, the longest list with its answer")

    @property
    def tested(self) -> tuple[int, ...]:
        """Numbers of the lists that are tested."""
        return tuple(k * self.longest for k in self.factors)

    @property
    def needed(self) -> int:
        """Tokens that the longest row reads: the task's word, the list, ":", the answer (whose end is never read)."""
        return 2 * self.tested[-1] + 2
