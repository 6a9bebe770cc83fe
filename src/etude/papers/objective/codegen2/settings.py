"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput
from etude.learn.corruption import check_spans, longest_text

TOO_LONG = 8
"""Tokens that a generated line may have beyond the bytes of the longest hole."""
NUM_MARKS = 13
"""Ten for spans, separator, end of text, end of span."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    code: str = "code-files"  # corpora
    text: str = "kjv"
    tokenizer: str = "bpe:499"  # of the code; "byte" has its marks among its 256 ids
    vocab: int = 512  # with the marks
    width: int = 64
    depth: int = 2
    heads: int = 2
    hidden: int | None = None
    shifted: bool = True  # tokens come with a map of the one before
    init_std: float = 0.1
    context: int = 64  # tokens
    rate: float = 0.5  # share of rows that are corrupted
    ratio: float = 0.15  # share of a file's tokens that is taken out
    mean_span: float = 3.0  # tokens
    batch: int = 12  # rows
    tokens: int = 700_000  # trained tokens, marks included
    lr: float = 6e-3
    warmup: float = 0.05  # share of the tokens
    beta2: float = 0.99
    weight_decay: float = 0.1
    reach: int = 28  # tokens around a hole that a model may read, or all before it
    num_names: int = 200  # holes of one name
    num_lines: int = 100  # holes of one line
    longest_line: int = 24  # bytes
    longest_file: int = 6_000  # tokens, of files with holes
    held_out_windows: int = 256
    probe_windows: int = 128  # to fit a probe, and as many to test it
    evaluations: int = 4
    letters: int = 64  # of the made language
    followers: int = 3  # of each letter
    chain_context: int = 32  # letters
    chain_batch: int = 16  # rows
    chain_tokens: int = 600_000  # trained tokens, marks included
    chain_lr: float = 3e-3
    chain_holes: int = 400

    def __post_init__(self) -> None:
        check_spans(self.ratio, self.mean_span)
        kind, _, size = self.tokenizer.partition(":")
        least = int(size) + NUM_MARKS if kind == "bpe" and size.isdigit() else 256
        if self.vocab < least:
            raise BadInput("settings.vocab", str(self.vocab), f"at least {least}: the tokenizer's ids and the marks")
        room = self.reach + self.longest_line + TOO_LONG + 4
        if self.context < room:
            raise BadInput("settings.context", str(self.context), f"at least {room}: what is around a hole, marks, a line that is too long")
        if not longest_text(self.context + 1, self.ratio, self.mean_span):
            raise BadInput("settings.context", str(self.context), "room for a span and its marks")
        if not 0 < self.followers <= self.letters <= self.vocab - NUM_MARKS:
            raise BadInput(
                "settings.letters", f"{self.letters}, {self.followers} of which follow each", f"at most {self.vocab - NUM_MARKS}"
            )
