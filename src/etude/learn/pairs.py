"""Pairs of a chosen and a rejected completion of one prompt, both halves in one batch.

Shapes: B pairs, T + 1 tokens; index 0 of the second dimension is the chosen one, 1 the rejected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.tokenizers import Tokenizer
from etude.engine.device import evaluating
from etude.engine.flops import FlopCounter
from etude.engine.ledger import Ledger
from etude.errors import BadInput
from etude.learn.logprobs import frozen_logprobs
from etude.learn.rows import Row, completion_row, filled

CHOSEN, REJECTED = 0, 1


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that begin with the same prompt."""

    chosen: Row
    rejected: Row


class PairSource:
    """(prompt, chosen, rejected) as samples, for `Preference` and `BradleyTerry`.

    rows: triples of texts or token ids. The rest as in `CompletionSource`. reference: [N, 2] summed log-probabilities under the
    reference model (`reference_logprobs`), where the objective holds no model of its own for it.
    distinct: False lets a completion stand beside itself, for regressions on differences of rewards, which are 0 there.
    get(ids) -> {"tokens": [B, 2, T + 1] int64, "loss_mask": [B, 2, T] bool, "lengths": [B, 2] int64, with a reference also
    "reference": [B, 2] float32}.
    Raises BadInput naming the row: chosen = rejected where they must be distinct, an empty completion, more tokens than the context
    holds.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        *,
        context: int,
        tokenizer: Tokenizer | None = None,
        end: int | None = None,
        reference: Tensor | np.ndarray | None = None,
        distinct: bool = True,
        name: str = "pair",
    ) -> None:
        if not len(rows):
            raise BadInput(name, "no rows", "at least one")
        self.pairs: list[Pair] = []
        for number, row in enumerate(rows):
            where = f"{name} {number}"
            if len(row) != 3:
                raise BadInput(where, f"{len(row)} parts", "a triple (prompt, chosen, rejected)")
            prompt, *answers = row
            both = [
                completion_row(prompt, answer, context=context, tokenizer=tokenizer, end=end, where=f"{where}, {kind}")
                for answer, kind in zip(answers, ("chosen", "rejected"), strict=True)
            ]
            if distinct and np.array_equal(both[CHOSEN].tokens, both[REJECTED].tokens):
                raise BadInput(where, "chosen = rejected", "two different completions")
            self.pairs.append(Pair(*both))
        self.reference = None if reference is None else torch.as_tensor(np.asarray(reference), dtype=torch.float32)
        if self.reference is not None and self.reference.shape != (len(self.pairs), 2):
            raise BadInput(f"{name} reference", f"shape {tuple(self.reference.shape)}", f"({len(self.pairs)}, 2), one number a completion")

    def __len__(self) -> int:
        return len(self.pairs)

    def longest(self, count: int) -> np.ndarray:
        """[count] ids, by the tokens of their longer half."""
        return np.argsort([-max(len(p.chosen.tokens), len(p.rejected.tokens)) for p in self.pairs], kind="stable")[:count]

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        rows = [row for i in ids for row in (self.pairs[int(i)].chosen, self.pairs[int(i)].rejected)]
        data = {name: values.unflatten(0, (len(ids), 2)) for name, values in filled(rows).items()}
        return data if self.reference is None else data | {"reference": self.reference[torch.from_numpy(np.asarray(ids))]}


def flat(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pairs' rows one below the other: [2 B, ...], chosen and rejected by turns."""
    return {name: data[name].flatten(0, 1) for name in ("tokens", "loss_mask")}


def reference_logprobs(model: nn.Module, source: PairSource, *, batch_size: int = 32, ledger: Ledger | None = None) -> Tensor:
    """[N, 2] summed log-probabilities of a source's completions under a frozen model, for `PairSource(reference=...)`.

    ledger: charged the tokens and operations under "prepare".
    """
    parts: list[Tensor] = []
    tokens = 0
    with evaluating(model) as device, FlopCounter() as counter:
        for start in range(0, len(source), batch_size):
            data = source.get(np.arange(start, min(start + batch_size, len(source))))
            tokens += int(data["lengths"].sum()) - data["lengths"].numel()
            rows = {name: values.to(device) for name, values in flat(data).items()}
            parts.append(frozen_logprobs(model, rows, batch_size=2 * batch_size).sum(1).view(-1, 2).cpu())
    if ledger is not None:
        ledger.charge("prepare", tokens=tokens, flops=counter.total)
    return torch.cat(parts)
