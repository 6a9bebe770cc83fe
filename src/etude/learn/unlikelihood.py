"""Unlikelihood training: next tokens made likely, and tokens that the text holds already made unlikely (arXiv 1908.04319).

    loss_t = -log p(x_t) - alpha sum_{c in C_t} log(1 - p(c))          C_t = {x_1, ..., x_{t-1}} without x_t     (section 5.1)

Shapes: B rows, T targets, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.errors import BadInput
from etude.learn.language import CausalLM, target_mask

SMALLEST = 1e-20
"""1 - p is cut off here before its logarithm."""


def previous_tokens(inputs: Tensor, targets: Tensor, vocab: int, documents: Tensor | None = None) -> Tensor:
    """inputs, targets [B, T] -> [B, T, V] bool: which ids stood among the inputs so far (of the same document) and are not the target."""
    seen = torch.zeros(*inputs.shape, vocab, dtype=torch.bool, device=inputs.device)
    seen.scatter_(2, inputs.unsqueeze(2), True)
    if documents is None:
        held = seen.cumsum(1) > 0
    else:
        same = (documents.unsqueeze(2) == documents.unsqueeze(1)).tril()
        held = (same.float() @ seen.float()) > 0
    return held.scatter(2, targets.unsqueeze(2), False)


def unlikelihood(logits: Tensor, candidates: Tensor) -> Tensor:
    """-sum over candidates of log(1 - p), [B, T]. logits, candidates: [B, T, V]."""
    return -((1 - logits.softmax(-1)).clamp(min=SMALLEST).log() * candidates).sum(-1)


class Unlikelihood:
    """`CausalLM` plus `alpha` times the unlikelihood of what stood before, the mean over the same targets; alpha 0 is `CausalLM` itself.

    The signal "unlikelihood" is that mean. It makes [B, T, V] of candidates: for vocabularies of thousands, take small batches.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if not alpha >= 0:
            raise BadInput("Unlikelihood.alpha", repr(alpha), "a number >= 0")
        self.alpha = alpha

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        kept: dict[str, Tensor] = {}

        def keep(module: nn.Module, arguments: Any, logits: Tensor) -> None:
            kept["logits"] = logits

        if not self.alpha:
            return CausalLM()(model, batch)
        # The logits that the causal loss computes are the ones needed here: they are not computed twice.
        head = getattr(model, "output_layer", getattr(model, "head", model))
        hook = head.register_forward_hook(keep)
        try:
            output = CausalLM()(model, batch)
        finally:
            hook.remove()
        tokens = batch.data["tokens"]
        documents = batch.data.get("document_ids")
        candidates = previous_tokens(
            tokens[:, :-1], tokens[:, 1:], kept["logits"].shape[-1], None if documents is None else documents[:, :-1]
        )
        losses, mask = unlikelihood(kept["logits"], candidates), target_mask(batch)
        extra = (losses if mask is None else losses * mask).sum() / output.weight
        signals = output.signals | {"unlikelihood": extra.detach()}
        return Output(output.loss + self.alpha * extra, output.per_sample, output.weight, signals)
