"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput, one_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    digits: int = 3  # of the longest operands
    counts: tuple[int, ...] = (400, 800, 2_500, 10_000)  # training examples, rising
    few: int = 400  # examples of the scratchpad's arm
    rows: str = "row"  # "row": one padded example each, the loss on its answer; "stream": windows out of all examples in one text
    vocab: int = 96
    width: int = 64
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    context: int = 96  # tokens
    batch: int = 128  # rows; of a longer format as many fewer as its rows have more tokens
    updates: int = 1_200
    lr: float = 3e-3
    warmup: float = 0.05  # share of the updates
    beta2: float = 0.99
    weight_decay: float = 0.1
    num_test: int = 500  # pairs that no arm trains on
    evaluations: int = 12

    def __post_init__(self) -> None:
        if self.rows not in ("row", "stream"):
            raise one_of("settings.rows", self.rows, ("row", "stream"))
        if not self.counts or list(self.counts) != sorted(set(self.counts)):
            raise BadInput("settings.counts", repr(self.counts), "numbers of examples, rising")
        pool = 10 ** (2 * self.digits) - self.num_test
        if max(*self.counts, self.few) > pool // 2:
            raise BadInput("settings.counts", str(max(*self.counts, self.few)), f"at most {pool // 2}, half of the pairs there are")

    @property
    def tokens(self) -> int:
        """Trained tokens of a run: the updates on plain rows."""
        return self.updates * self.batch * (self.plain_row - 1 if self.rows == "row" else self.context)

    @property
    def plain_row(self) -> int:
        """Tokens of a padded plain row: operands, signs, answer and end."""
        return 2 * self.digits + 2 + self.digits + 1 + 1
