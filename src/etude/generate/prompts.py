"""Prompts and completions as arrays of ids: made from text, checked against vocabulary and context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from etude.data.tokenizers import Tokenizer
from etude.errors import BadInput


def ids_of(
    items: Sequence[np.ndarray | str], tokenizer: Tokenizer | None, vocab: int | None, *, what: str, first: int = 0
) -> list[np.ndarray]:
    """Each item as [n] int64. Raises BadInput, naming the item (counted from `first`), for text without a tokenizer or that is no
    Unicode, another shape or type, or an id that the model does not hold (vocab: None where that is unknown)."""
    rows = []
    for number, item in enumerate(items, start=first):
        where = f"{what} {number}"
        if isinstance(item, str):
            if tokenizer is None:
                raise BadInput(where, "text", "token ids: this generator has no tokenizer")
            try:
                item = tokenizer.encode(item)
            except UnicodeEncodeError as error:  # of a command line, say, that was no UTF-8
                raise BadInput(where, f"no Unicode at character {error.start + 1}", "text in UTF-8") from None
        row = np.asarray(item)
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise BadInput(where, f"an array of shape {row.shape} and type {row.dtype}", "token ids [n], whole numbers")
        row = row.astype(np.int64)
        if row.size and (int(row.min()) < 0 or (vocab is not None and int(row.max()) >= vocab)):
            place = int(np.flatnonzero((row < 0) | (row >= (vocab or np.iinfo(np.int64).max)))[0])
            limit = "" if vocab is None else f" to {vocab - 1}, the model's vocabulary"
            raise BadInput(f"{where}, token {place}", str(row[place]), f"an id of 0{limit}" if limit else "an id of 0 or more")
        rows.append(row)
    return rows


def check_lengths(rows: Sequence[np.ndarray], context: int | None) -> None:
    """Raises BadInput for an empty prompt and for one longer than the context."""
    for number, row in enumerate(rows):
        if not len(row):
            raise BadInput(f"prompt {number}", "no tokens", "at least one")
        if context is not None and len(row) > context:
            raise BadInput(f"prompt {number}", f"{len(row)} tokens", f"at most {context}, the model's context")


def ids_or_default(ids: Sequence[int] | None, count: int) -> list[int]:
    """The prompts' ids, by default 0, 1, .... Raises BadInput for another number of them, or one twice."""
    chosen = list(range(count)) if ids is None else [int(i) for i in ids]
    if len(chosen) != count:
        raise BadInput("ids", f"{len(chosen)} ids", f"{count}, one for each prompt")
    if len(set(chosen)) != count:
        twice = next(i for i in chosen if chosen.count(i) > 1)
        raise BadInput("ids", f"id {twice} twice", "each prompt with an id of its own: samples of one id are the same samples")
    return chosen


def in_batches(lengths: Sequence[int], samples: int, batch_size: int) -> Iterator[list[tuple[int, int, int]]]:
    """Batches of (prompt number, first sample, number of samples) with at most `batch_size` samples together.

    Prompts of like length come together, so that little is padding.
    """
    batch: list[tuple[int, int, int]] = []
    room = batch_size
    for number in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        first = 0
        while first < samples:
            taken = min(samples - first, room)
            batch.append((number, first, taken))
            first, room = first + taken, room - taken
            if not room:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch
