"""Rows for fine-tuning: prompts with completions, or whole conversations, filled up to one length, with a mask.

Filling goes to the end of a row, where causal attention needs no mask to leave it out of account. Row lengths are rounded
up to a multiple of eight, so that batches take few different shapes.
Shapes: B rows, T + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.tokenizers import Tokenizer
from etude.engine.arguments import shown
from etude.errors import BadInput

MULTIPLE = 8
FILLING = 0
"""The token id of filling. Any id will do: nothing before it sees it, and no loss counts it."""

Text = str | np.ndarray | Sequence[int]


@dataclass(frozen=True, slots=True)
class Row:
    """tokens: [n] int64. mask: [n - 1] bool, True where the target (the next token) is one that the model is to say."""

    tokens: np.ndarray
    mask: np.ndarray


def encoded(text: Text, tokenizer: Tokenizer | None, where: str) -> np.ndarray:
    """Token ids of a text or of what is ids already. Raises BadInput for a text without a tokenizer, or no list of numbers."""
    if isinstance(text, str):
        if tokenizer is None:
            raise BadInput(where, "a text", "token ids, or a tokenizer for texts")
        return np.asarray(tokenizer.encode(text), dtype=np.int64)
    ids = np.asarray(text)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise BadInput(where, f"{ids.dtype} of shape {ids.shape}", "one dimension of whole numbers")
    return ids.astype(np.int64)


def completion_row(
    prompt: Text, completion: Text, *, context: int, tokenizer: Tokenizer | None = None, end: int | None = None, where: str = "row"
) -> Row:
    """One row whose targets are the completion's tokens, `end` appended where there is one.

    Raises BadInput, naming `where`, for an empty prompt or completion, or more than `context` + 1 tokens together.
    """
    return conversation_row([(prompt, False), (completion, True)], context=context, tokenizer=tokenizer, end=end, where=where)


def conversation_row(
    turns: Sequence[tuple[Text, bool]], *, context: int, tokenizer: Tokenizer | None = None, end: int | None = None, where: str = "row"
) -> Row:
    """One row of (text, whether the model says it) turns; `end` closes each turn of the model. Raises as `completion_row`."""
    parts, said = [], []
    for number, (text, own) in enumerate(turns):
        ids = encoded(text, tokenizer, where)
        if not len(ids):
            kind = "completion" if own else "prompt"
            raise BadInput(where, f"an empty {kind}" + (f" (turn {number + 1})" if len(turns) > 2 else ""), "at least one token")
        if own and end is not None:
            ids = np.append(ids, end)
        parts.append(ids)
        said.append(np.full(len(ids), own))
    tokens, own = np.concatenate(parts), np.concatenate(said)
    if len(tokens) > context + 1:
        raise BadInput(where, f"{len(tokens)} tokens", f"at most {context + 1}, the context of {context} and its last target")
    if not own[1:].any():
        raise BadInput(where, "no token that the model says", "at least one, after a prompt")
    return Row(tokens, own[1:])


def filled(rows: Sequence[Row], length: int | None = None) -> dict[str, Tensor]:
    """{"tokens": [B, T + 1] int64, "loss_mask": [B, T] bool, "lengths": [B] int64}; T the longest's, rounded up.

    length: the longest row's tokens where it is not among these (a pair's other half).
    """
    longest = max(len(r.tokens) for r in rows) if length is None else length
    width = -(-(longest - 1) // MULTIPLE) * MULTIPLE
    tokens = np.full((len(rows), width + 1), FILLING, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=bool)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
        mask[place, : len(row.mask)] = row.mask
    lengths = torch.tensor([len(r.tokens) for r in rows])
    return {"tokens": torch.from_numpy(tokens), "loss_mask": torch.from_numpy(mask), "lengths": lengths}


class CompletionSource:
    """(prompt, completion) rows as samples, for `Finetune` and `CausalLM`.

    rows:    pairs of texts or token ids, or `Row`s.   context: of the model, in tokens.   tokenizer: for texts.
    end:     a token id appended to each completion.   weights: [N] of the rows, >= 0 (see `Finetune`); all 1 by default.
    get(ids) gives `filled` rows and, with weights, "weights" [B] float32. Raises BadInput naming the row.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        *,
        context: int,
        tokenizer: Tokenizer | None = None,
        end: int | None = None,
        weights: Sequence[float] | None = None,
        name: str = "row",
    ) -> None:
        if not len(rows):
            raise BadInput(name, "no rows", "at least one")
        self.rows: list[Row] = []
        for number, row in enumerate(rows):
            where = f"{name} {number}"
            if isinstance(row, Row):
                self.rows.append(row)
            elif isinstance(row, (tuple, list)) and len(row) == 2:
                self.rows.append(completion_row(*row, context=context, tokenizer=tokenizer, end=end, where=where))
            else:
                raise BadInput(where, shown(row), "a pair (prompt, completion) or a Row")
        self.weights = None if weights is None else checked_weights(weights, len(self.rows), name)

    def __len__(self) -> int:
        return len(self.rows)

    def longest(self, count: int) -> np.ndarray:
        """[count] ids, by their tokens."""
        return np.argsort([-len(row.tokens) for row in self.rows], kind="stable")[:count]

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        data = filled([self.rows[int(i)] for i in ids])
        return data if self.weights is None else data | {"weights": torch.from_numpy(self.weights[ids])}


def checked_weights(weights: Sequence[float], count: int, name: str) -> np.ndarray:
    values = np.asarray(weights, dtype=np.float32)
    if values.shape != (count,):
        raise BadInput(f"{name} weights", f"{values.size} numbers", f"one for each of {count} rows")
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        raise BadInput(f"{name} {wrong[0]}: weight", str(values[wrong[0]]), "a finite number >= 0")
    return values
