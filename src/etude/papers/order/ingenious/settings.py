"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.data.submodular import budgets
from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # the pool
    corpora: tuple[str, ...] = ("kjv", "brown", "code")
    pool: int = 4_000  # windows
    copied: float = 0.5  # share of them that are near copies
    originals: float = 0.02  # share of them that are copied
    shift: int = 4  # characters that a near copy may lie to either side of its original
    num_test: int = 128  # windows of each corpus
    # the model
    vocab: int = 256
    width: int = 48
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    context: int = 64  # characters
    # the training
    batch: int = 16  # windows
    updates: int = 700
    lr: float = 3e-3
    warmup: float = 0.02  # share of the updates
    weight_decay: float = 0.1
    longer: float = 3  # times as many updates in the arm that is trained fully
    evaluations: int = 10
    # the subsets
    share: float = 0.25
    warm_start: int = 250  # updates on the whole pool, in every arm
    redraw_every: int = 25  # updates
    update_every: int = 10  # subsets from one ranking
    partition_size: int = 2_000  # windows
    layer: float = 0.75  # share of the blocks
    temperature: float = 1e-3
    eps: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.copied < 1 or not 0 < self.originals <= 1 - self.copied:
            found = f"{self.copied:g} and {self.originals:g}"
            raise BadInput("settings.copied, settings.originals", found, "a share below 1, and one of what is left")
        if self.updates <= self.warm_start:
            raise BadInput("settings.updates", repr(self.updates), f"more than the warm start's {self.warm_start}")

    @property
    def subset(self) -> int:
        """Windows in a subset."""
        return budgets([self.pool], self.share)[0]

    @property
    def warm_passes(self) -> float:
        """The warm start in passes over the pool."""
        return self.warm_start * self.batch / self.pool

    @property
    def passes(self) -> float:
        """Between two draws, over a subset."""
        return self.redraw_every * self.batch / self.subset

    @property
    def rankings(self) -> int:
        """Times that a run embeds the pool."""
        draws = -(-(self.updates - self.warm_start) // self.redraw_every)
        return -(-draws // self.update_every)
