"""Unlikelihood training: next tokens made likely, and tokens that the text holds already made unlikely (arXiv 1908.04319).

    tokens     loss_t = -log p(x_t) - alpha sum_{c in C_t} log(1 - p(c))     C_t = {x_1, ..., x_{t-1}} without x_t     (section 5.1)
    sequences  loss_t = -log(1 - p(y_t)) where y_t, of what the model itself continues with, is part of a repeated n-gram    (5.2)

Shapes: B rows, T targets, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output, Sampling
from etude.errors import BadInput
from etude.generate.degeneration import ngrams
from etude.generate.local import LocalGenerator
from etude.learn.language import CausalLM, target_mask, token_losses

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


def repeated_ngrams(tokens: Tensor, n: int) -> Tensor:
    """tokens [B, T] -> [B, T] bool: which are part of an n-gram that the row holds before (it may overlap its first time)."""
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, found in zip(tokens.tolist(), mask, strict=True):
        seen: set[tuple[Hashable, ...]] = set()
        for start, gram in enumerate(ngrams(row, n)):
            if gram in seen:
                found[start : start + n] = True
            seen.add(gram)
    return mask


class SequenceUnlikelihood:
    """Unlikelihood of what a greedy continuation of each row's beginning repeats: the mean over all generated tokens.

    prefix: tokens of a row that are continued. length: tokens of the continuation. ngram: n. What decoding costs counts as training.
    The signal "repeated" is the share of generated tokens that are punished. For updates in between, see `dispatch.Sometimes`.
    Raises BadInput for rows shorter than the prefix, and where prefix and continuation do not fit the model's context.
    """

    def __init__(self, prefix: int = 50, length: int = 100, ngram: int = 4) -> None:
        for name, value in {"prefix": prefix, "length": length, "ngram": ngram}.items():
            if value < 1:
                raise BadInput(f"SequenceUnlikelihood.{name}", repr(value), "a whole number >= 1")
        self.prefix, self.length, self.ngram = prefix, length, ngram

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        tokens = batch.data["tokens"]
        if tokens.shape[1] < self.prefix:
            raise BadInput("SequenceUnlikelihood.prefix", repr(self.prefix), f"at most the {tokens.shape[1]} tokens of a row")
        prompts = tokens[:, : self.prefix]
        generator = LocalGenerator(model)
        if generator.context is not None and generator.context < self.prefix + self.length - 1:
            found = f"{self.length} after {self.prefix} tokens"
            raise BadInput("SequenceUnlikelihood.length", found, f"at most {generator.context + 1} together, by the model's context")
        written = generator.complete(list(prompts.cpu().numpy()), Sampling(temperature=0, max_tokens=self.length))
        continued = torch.from_numpy(np.stack([group[0].tokens for group in written])).to(tokens)
        losses, _ = token_losses(model, Batch({"tokens": torch.cat([prompts, continued], 1)}, batch.ids))
        mask = repeated_ngrams(continued, self.ngram).to(losses)
        unlikely = -(1 - (-losses[:, self.prefix - 1 :]).exp()).clamp(min=SMALLEST).log() * mask
        return Output(unlikely.mean(), unlikely.detach().mean(1), float(mask.numel()), {"repeated": mask.mean()})
