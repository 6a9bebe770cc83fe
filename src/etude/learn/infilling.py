"""Infilling as an objective: each text's middle is moved to its end, and the whole is read from left to right.

    <pre> prefix <suf> suffix <mid> middle <end>          "psm"
    <pre> <suf> suffix <mid> prefix middle <end>          "spm"          (FIM, arXiv 2207.14255, section 3)

Shapes: B rows, T + 1 tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.engine.protocols import Batch, Output
from etude.engine.streams import numpy_rng
from etude.errors import BadInput, one_of
from etude.learn.corruption import MiddleMarks, infilling_row
from etude.learn.language import CausalLM

ORDERS = ("psm", "spm", "both")
MARKS = 4


class Infilling:
    """Next-token loss on rows whose texts have their middle at the end; its place is drawn evenly for each sample and update.

    order: "psm", "spm", or "both", each for half of the texts. A row keeps its length, so that it holds a few tokens less of the original.
    Documents of a row (`document_ids`) are rearranged each by itself, filling (a negative id) not at all; one that does not
    fit any more is cut, and its end left out.
    Raises BadInput for another order, and for rows too short for a text and its marks.
    """

    def __init__(self, marks: MiddleMarks, order: str = "psm") -> None:
        if order not in ORDERS:
            raise one_of("infilling, order", order, ORDERS)
        self.marks, self.order = marks, order

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        return CausalLM()(model, self.rearrange(batch))

    def rearrange(self, batch: Batch) -> Batch:
        """The batch with rearranged rows of the same length, "document_ids" and "loss_mask"."""
        given = batch.data["tokens"]
        tokens, documents = given.cpu().numpy(), batch.data.get("document_ids")
        owners = np.zeros_like(tokens) if documents is None else documents.cpu().numpy()
        made = [self._row(t, d, numpy_rng(batch.key, "middle", int(i))) for t, d, i in zip(tokens, owners, batch.ids, strict=True)]
        rows, owned, losses = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
        return replace(batch, data={**batch.data, "tokens": rows, "document_ids": owned, "loss_mask": losses[:, 1:]}).to(given.device)

    def _row(self, tokens: np.ndarray, documents: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        size, place = len(tokens), 0
        row, owner, loss = np.full(size, self.marks.end, tokens.dtype), np.full(size, -1, np.int64), np.zeros(size, bool)
        edges = np.flatnonzero(np.diff(documents)) + 1
        for text, document in zip(np.split(tokens, edges), documents[np.concatenate([[0], edges])], strict=True):
            length = min(len(text), size - place - MARKS)
            if length < 1 or document < 0:
                break
            start, end = sorted(rng.choice(length + 1, 2, replace=False).tolist())
            order = ("psm", "spm")[int(rng.integers(2))] if self.order == "both" else self.order
            made = infilling_row(text[:length], start, end, self.marks, order)
            here = slice(place, place + len(made))
            row[here], owner[here], loss[here] = made, place, True
            place += len(made)
        if not place:
            raise BadInput("infilling", f"rows of {size} tokens", f"texts long enough for a middle and its {MARKS} marks")
        return row, owner, loss
