"""The mixture of objectives as a method: some rows of each batch are corrupted, the others stay.

Which rows, and which spans of them, depends on the run's seed, the update and the row's number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature

import numpy as np
import torch

from etude.engine.protocols import Batch, Method
from etude.engine.run import Run
from etude.engine.streams import derive, sample_uniforms
from etude.errors import BadInput
from etude.generate.states import vocabulary
from etude.learn.corruption import SPARE_BYTES, Corruption, Marks, SpanCorruption

BYTES = 256


def mixed(batch: Batch, chosen: np.ndarray, corruption: Corruption) -> Batch:
    """The batch with the rows `chosen` [n] corrupted and the others as they were, with every target. Draws come from `batch.key`."""
    tokens, documents = batch.data["tokens"], batch.data.get("document_ids")
    rows = torch.from_numpy(chosen).to(tokens.device)
    part = {"tokens": tokens[rows]} | ({} if documents is None else {"document_ids": documents[rows]})
    made = corruption.corrupt(replace(batch, data=part, ids=batch.ids[chosen])).data
    mask = batch.data.get("loss_mask")
    whole = {
        "tokens": tokens.clone(),
        "document_ids": torch.zeros_like(tokens) if documents is None else documents.clone(),
        "loss_mask": torch.ones_like(tokens[:, 1:], dtype=torch.bool) if mask is None else mask.clone(),
    }
    if corruption.prefix:
        whole["prefix"] = torch.zeros_like(tokens, dtype=torch.bool)
    for name, values in whole.items():
        values[rows] = made[name].to(values.dtype)
    return replace(batch, data={**batch.data, **whole})


class SpanMixture(Method):
    """Each row of a batch has spans taken out with probability `rate`, else it is learnt from left to right.

    ratio:      share of a file's tokens that is taken out. mean_span: tokens of a span, on average.
    prefix:     a corrupted row's holed text is read both ways, and only what follows it is learnt.
    everywhere: without `prefix`, a corrupted row's holed text is learnt too.
    marks:      ids that no text has: any number for spans, then separator, end of text, end of span. The default are the bytes that
                UTF-8 leaves free, for models of bytes.
    Raises BadInput for a rate outside [0, 1], a model without room for the marks or (with `prefix`) whose forward takes no prefix, rows
    that are no running text, and as `SpanCorruption` and `Marks` do.
    """

    slots = ("objective",)

    def __init__(
        self,
        *,
        rate: float = 0.5,
        ratio: float = 0.15,
        mean_span: float = 3.0,
        prefix: bool = False,
        everywhere: bool = True,
        marks: Sequence[int] = SPARE_BYTES,
    ) -> None:
        if not 0 <= rate <= 1:
            raise BadInput(f"{self.name}.rate", repr(rate), "a share from 0 to 1")
        self.rate, self.ids = rate, tuple(marks)
        self.corruption = SpanCorruption(Marks.of(marks), ratio=ratio, mean_span=mean_span, prefix=prefix, everywhere=everywhere)

    def start(self, run: Run) -> None:
        size = vocabulary(run.model)
        if size is not None and max(self.ids) >= size:
            raise BadInput(f"{self.name}.marks", f"token {max(self.ids)}", f"ids below the model's vocabulary of {size}")
        if size != BYTES and set(self.ids) <= set(SPARE_BYTES):
            raise BadInput(f"{self.name}.marks", f"the spare bytes for a vocabulary of {size}", "ids that its tokenizer never gives")
        if self.corruption.prefix and "prefix" not in signature(run.model.forward).parameters:
            raise BadInput(f"{self.name}.prefix", f"it for a {type(run.model).__name__}", "a model whose forward takes `prefix`")

    def batch(self, run: Run, batch: Batch) -> Batch | None:
        tokens = batch.data.get("tokens")
        if tokens is None or tokens.ndim != 2 or "lengths" in batch.data:
            raise BadInput(self.name, "samples that are no running text", "rows of tokens, such as a text's windows")
        key = derive(run.seed, "forward", run.step)
        chosen = np.flatnonzero(sample_uniforms(derive(key, "mixture"), batch.ids, 1)[:, 0] < self.rate)
        return mixed(replace(batch, key=key), chosen, self.corruption) if len(chosen) else None
