"""Language-model objectives.

Shapes: B sequences of T + 1 tokens, V vocabulary. A model that returns a dict gives "hidden" [B, T, D] and has `head`; any
other returns logits [B, T, V].
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.arguments import typed
from etude.engine.device import device_of
from etude.engine.protocols import Batch, Metrics, Objective, Output, Source
from etude.engine.streams import halves
from etude.errors import BadInput


def token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    """Negative log-likelihood of each next token in nats, [B, T], and what the model returned.

    Raises BadInput for tokens that the model's vocabulary does not hold, or logits of another shape than [B, T, V].
    """
    tokens = batch.data["tokens"]
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    more = {name: batch.data[name][:, :-1] for name in ("document_ids", "prefix") if name in batch.data}
    vocab = None
    try:
        result = model(inputs, **more)
        logits = model.head(result["hidden"]) if isinstance(result, dict) else result  # type: ignore[operator]
        if logits.ndim != 3 or logits.shape[:2] != targets.shape:
            raise BadInput("model", f"an output of shape {tuple(logits.shape)}", f"logits {tuple(targets.shape)} by vocabulary")
        vocab = logits.shape[-1]
        losses = F.cross_entropy(logits.reshape(-1, vocab), targets.reshape(-1), reduction="none")
    except IndexError as error:
        unknown = unknown_token(tokens, model, vocab)
        if unknown is None:
            raise
        raise unknown from error
    return losses.view(targets.shape), result


def unknown_token(tokens: Tensor, model: nn.Module, vocab: int | None = None) -> BadInput | None:
    """Names the id that an embedding or a loss did not hold, once one has refused it, so that no step pays for the look."""
    low, high = int(tokens.min()), int(tokens.max())
    vocab = vocab or next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), None)
    if low >= 0 and (vocab is None or high < vocab):
        return None
    expected = "ids of 0 and above" if vocab is None else f"ids below the model's vocabulary of {vocab}"
    return BadInput("data", f"token {low if low < 0 else high}", expected)


def target_mask(batch: Batch) -> Tensor | None:
    """[B, T], which targets count: those of `loss_mask`, and in their input's own document; None where all do."""
    mask, documents = batch.data.get("loss_mask"), batch.data.get("document_ids")
    if documents is None:
        return mask
    same = documents[:, 1:] == documents[:, :-1]
    return same if mask is None else mask.bool() & same


class CausalLM:
    """Next-token prediction: the mean negative log-likelihood over target positions (those of `loss_mask` where there is one).

    Targets in another document than their input are left out. The model's "auxiliary" is added; "signals" are passed on.
    """

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        losses, result = token_losses(model, batch)
        mask = target_mask(batch)
        if mask is None:
            per_sample, weight, loss = losses.detach().mean(1), float(losses.numel()), losses.mean()
        else:
            kept = mask.to(losses.dtype)
            counts = kept.sum(1)
            weight = float(counts.sum())
            if not weight:
                raise BadInput("data", "a batch whose loss mask leaves nothing", "at least one target")
            per_sample = (losses.detach() * kept).sum(1) / counts.clamp(min=1)
            loss = (losses * kept).sum() / weight
        signals: dict[str, Tensor] = {}
        if isinstance(result, dict):
            signals = dict(result.get("signals") or {})
            if "auxiliary" in result:
                signals["auxiliary"] = result["auxiliary"].detach()
                loss = loss + result["auxiliary"]
        return Output(loss, per_sample, weight, signals)


def spread(count: int, limit: int | None) -> np.ndarray:
    """At most `limit` numbers below `count`, evenly spread: several texts in a row must not be measured on the first alone."""
    return np.linspace(0, count - 1, count if limit is None else min(limit, count)).round().astype(np.int64)


class HeldOutLoss:
    """{"loss": mean nats per token} over `limit` samples spread evenly over a source (all by default), the same at each call.

    objective: another loss than next-token prediction, then the mean over its items; a model's "auxiliary" is left out.
    It sums in double precision, so that it does not depend on the batch size beyond rounding.
    """

    @typed()
    def __init__(self, source: Source, objective: Objective | None = None, *, batch_size: int = 32, limit: int | None = None) -> None:
        for name, value in {"limit": limit, "batch_size": batch_size}.items():
            if value is not None and value < 1:
                raise BadInput(f"HeldOutLoss.{name}", repr(value), "a whole number >= 1")
        self.source, self.objective, self.batch_size, self.limit = source, objective or CausalLM(), batch_size, limit
        self.ids = spread(len(source), limit)

    def half(self, which: int) -> HeldOutLoss | None:
        if len(self.source) < 2:
            return None
        made, ids = copy(self), halves(len(self.source))[which]
        made.ids = ids[spread(len(ids), self.limit)]
        return made

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Metrics:
        device = device_of(model)
        total, count = 0.0, 0.0
        for start in range(0, len(self.ids), self.batch_size):
            ids = self.ids[start : start + self.batch_size]
            output = self.objective(model, Batch(self.source.get(ids), ids).to(device))
            auxiliary = float(output.signals.get("auxiliary", 0.0))
            total += (float(output.loss) - auxiliary) * output.weight
            count += output.weight
        return {"loss": total / count}


class PerDomainLoss:
    """{domain: mean nats per token} over `limit` samples of each named source, as `HeldOutLoss` takes them."""

    @typed()
    def __init__(self, sources: dict[str, Source], *, batch_size: int = 32, limit: int | None = None) -> None:
        self.parts = {name: HeldOutLoss(source, batch_size=batch_size, limit=limit) for name, source in sources.items()}

    def __call__(self, model: nn.Module) -> Metrics:
        return {name: part(model)["loss"] for name, part in self.parts.items()}
