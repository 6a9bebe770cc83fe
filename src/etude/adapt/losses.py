"""Each row's loss from what a model gave, whichever trainer asked it.

Shapes: B rows, T tokens, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.arguments import shown
from etude.errors import BadInput

IGNORED = -100
"""The label of a position that no loss counts, in transformers."""


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[Any]]:
    """What `model` returns inside the block, call by call."""
    seen: list[Any] = []
    handle = model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def row_losses(outputs: Any, labels: Tensor | None, shifted: bool) -> tuple[Tensor, Tensor]:
    """(sums [B] of each row's losses, counts [B] of what they are over), in nats.

    labels: [B, T] with `IGNORED`, or [B] classes or numbers. shifted: whether position t predicts label t + 1.
    Raises BadInput where there are neither logits nor log-probabilities, or rows lie end to end.
    """
    logprobs = getattr(outputs, "log_probs", None)
    if logprobs is not None:  # TRL's own head: zero where a label is ignored
        return -logprobs.float().sum(1), outputs.label_mask.sum(1)
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if logits is None or labels is None:
        found = "no labels" if labels is None else f"an output without logits ({shown(outputs)})"
        raise BadInput("each sample's loss", found, "a model that gives logits for labels (without a fused loss such as Liger's)")
    if logits.ndim == 3 and labels.ndim == 2:
        if shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        each = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=IGNORED)
        return each.view(labels.shape).sum(1), (labels != IGNORED).sum(1)
    if logits.ndim != 2 or labels.numel() != len(logits):
        found = f"logits {tuple(logits.shape)} for labels {tuple(labels.shape)}"
        raise BadInput("each sample's loss", found, "one label a token, or one class or number a row")
    if labels.is_floating_point():
        each = (logits.float().squeeze(-1) - labels.view(-1)).square()
    else:
        each = F.cross_entropy(logits.float(), labels.view(-1), reduction="none")
    return each, torch.ones_like(each)


def weighted_part(weights: Tensor, sums: Tensor, divisor: Tensor | float) -> Tensor:
    """What weights [B] add to a mean over all rows: sum_r (w_r - 1) sums_r / divisor. Zero, and no gradient, where all are 1."""
    return ((weights.to(sums) - 1) * sums).sum() / divisor


def predicts_next(model: Any) -> bool:
    """Whether a model's labels are its own inputs, each predicted from those before (a causal language model)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).__name__ in CAUSAL.values() or type(base).__name__.endswith(("ForCausalLM", "LMHeadModel"))
