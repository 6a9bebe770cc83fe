"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput
from etude.learn.corruption import check_spans, longest_text

TOO_LONG = 8
"""Bytes that a generated line may be longer than the longest hole."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    code: str = "code-files"  # corpora
    text: str = "kjv"
    vocab: int = 256  # bytes, of which thirteen are marks
    width: int = 64
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    context: int = 192  # tokens
    rate: float = 0.5  # share of rows that are corrupted
    ratio: float = 0.15  # share of a file's tokens that is taken out
    mean_span: float = 8.0  # tokens
    batch: int = 16  # rows
    tokens: int = 800_000  # trained tokens, marks included
    lr: float = 3e-3
    warmup: float = 0.05  # share of the tokens
    beta2: float = 0.99
    weight_decay: float = 0.1
    reach: int = 140  # bytes around a hole that a model may read, or all before it
    num_names: int = 200  # holes of one name
    num_lines: int = 100  # holes of one line
    longest_line: int = 40  # bytes
    longest_file: int = 12_000  # bytes, of files with holes
    held_out_windows: int = 128
    evaluations: int = 8

    def __post_init__(self) -> None:
        check_spans(self.ratio, self.mean_span)
        room = self.reach + self.longest_line + TOO_LONG + 4
        if self.context < room:
            raise BadInput("settings.context", str(self.context), f"at least {room}: what is around a hole, marks, a line that is too long")
        if not longest_text(self.context + 1, self.ratio, self.mean_span):
            raise BadInput("settings.context", str(self.context), "room for a span and its marks")
