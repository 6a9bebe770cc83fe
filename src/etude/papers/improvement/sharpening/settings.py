"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from etude.errors import BadInput

RATES = {"unselected": 1e-4, "SFT 5": 1e-3, "SFT 16": 1e-3, "SFT 64": 1e-4, "adaptive": 1e-3, "RLHF": 3e-4, "XPO": 3e-4}
BETAS = {"RLHF": 1.0, "XPO": 0.3}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # the base
    largest: int = 12  # term of a sum of two
    nodes: int = 4  # of the graphs
    corrupted: float = 0.4  # share of the demonstrations that are wrong
    demonstrations: int = 20_000
    vocab: int = 42
    width: int = 64
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    tied: bool = True
    context: int = 40  # tokens
    max_tokens: int = 7  # of an answer, its end token included
    base_updates: int = 1_200
    base_batch: int = 64
    base_lr: float = 3e-3
    # sharpening
    num_samples: int = 40_000  # m: all that an arm draws for training
    updates: int = 600
    batch: int = 64  # rows an update: winners, or half as many pairs
    rates: Mapping[str, float] = field(default_factory=lambda: RATES)  # arm -> its learning rate
    weight_decay: float = 0.1
    clip: float = 0.1  # norm of the gradient
    betas: Mapping[str, float] = field(default_factory=lambda: BETAS)  # arm -> b, weight of the KL
    optimism: float = 0.001  # a
    rounds: int = 4  # of exploration
    adaptive_delta: float = 0.5  # adaptive sampling's aim: 1 - delta of the mass on y*
    most_samples: int = 64  # of one prompt, where adaptive sampling does not stop by itself
    # measuring
    test_sums: int = 80  # prompts
    test_paths: int = 160
    test_samples: int = 8  # answers a prompt
    # the table, and the linear class
    delta: float = 0.5  # of a sharpened table: 1 - delta of the mass on y*
    responses: int = 1_024
    table_contexts: int = 48
    table_prompts: int = 8  # drawn for each context
    tables: int = 8  # of each coverage, averaged
    coverages: tuple[float, ...] = (4.0, 7.1, 12.6, 22.5, 40.0, 71.1, 126.5, 224.9, 400.0)
    uneven_coverage: float = 32.0
    features: int = 20
    feature_weight: float = 0.1  # theta of each
    linear_samples: tuple[int, ...] = (16, 64, 256, 1_024)

    @property
    def num_test(self) -> int:
        return self.test_sums + self.test_paths

    def __post_init__(self) -> None:
        if not 0 <= self.corrupted < 1:
            raise BadInput("settings.corrupted", repr(self.corrupted), "a share from 0 to below 1")
        if self.num_samples < 2 * self.most_samples or self.batch < 2:
            found = f"{self.num_samples} samples, batches of {self.batch}"
            raise BadInput("settings", found, f"at least {2 * self.most_samples} samples, batches of at least 2 rows")
        for name in ("delta", "adaptive_delta"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"settings.{name}", repr(getattr(self, name)), "a share between 0 and 1")
