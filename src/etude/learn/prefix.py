"""Prefix language modelling: a text's beginning is read in both directions, the rest is predicted (T5, arXiv 1910.10683, section 3.2.1).

Shapes: B rows, T + 1 tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.engine.streams import numpy_rng
from etude.errors import BadInput
from etude.learn.language import CausalLM


class PrefixLM:
    """Next-token loss on what follows each text's prefix, inside which attention looks both ways.

    Where the prefix ends is drawn evenly for each document of a row and each update. prompts: it is what comes before a row's first target
    (`loss_mask`) instead: the prompt of a completion. The model's forward takes `prefix` (see `check_two_way`).
    """

    def __init__(self, *, prompts: bool = False) -> None:
        self.prompts = prompts

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        return CausalLM()(model, self.divide(batch))

    def divide(self, batch: Batch) -> Batch:
        """The batch with "prefix" [B, T + 1], and the targets inside it taken out of "loss_mask" [B, T]."""
        tokens, mask = batch.data["tokens"], batch.data.get("loss_mask")
        prefix = self._before_targets(tokens, mask) if self.prompts else self._drawn(batch)
        kept = ~prefix[:, 1:]
        return replace(batch, data={**batch.data, "prefix": prefix, "loss_mask": kept if mask is None else kept & mask.bool()})

    @staticmethod
    def _before_targets(tokens: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            raise BadInput("prefix", "rows whose targets are not marked", "completions, whose prompts are the prefix")
        before = mask.int().cumsum(1) == 0
        return torch.cat([torch.ones_like(before[:, :1]), before], 1)

    @staticmethod
    def _drawn(batch: Batch) -> Tensor:
        tokens, given = batch.data["tokens"], batch.data.get("document_ids")
        documents = np.zeros(tokens.shape, np.int64) if given is None else given.cpu().numpy()
        prefix = np.zeros(documents.shape, bool)
        for row, (own, i) in enumerate(zip(documents, batch.ids, strict=True)):
            rng, edges = numpy_rng(batch.key, "prefix", int(i)), np.flatnonzero(np.diff(own)) + 1
            for start, end in zip([0, *edges], [*edges, len(own)], strict=True):
                if end - start > 1:
                    prefix[row, start : start + int(rng.integers(1, end - start))] = True
        return torch.from_numpy(prefix).to(tokens.device)


def check_two_way(model: nn.Module, where: str, what: str) -> None:
    """Raises BadInput for a model whose attention cannot look both ways."""
    if "prefix" not in inspect.signature(model.forward).parameters:
        raise BadInput(where, f"{what} for a {type(model).__name__}", "a model whose attention can look both ways (forward takes `prefix`)")
