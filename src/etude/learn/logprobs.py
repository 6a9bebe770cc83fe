"""Log-probabilities of given tokens under a model: what fine-tuning, preferences and policy gradients share.

Shapes: B rows of T + 1 tokens, T targets, N of them marked by the mask, V vocabulary. The head runs on the marked
targets alone. Their number is rounded up to a sixteenth of B T, so that the work, and with it the counted operations,
takes few different sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.protocols import Batch
from etude.errors import BadInput
from etude.learn.language import unknown_token
from etude.nn.lora import frozen

M = TypeVar("M", bound=nn.Module)

STEPS = 16
"""How many sizes the number of computed targets takes between none and all."""


@dataclass(slots=True)
class Scored:
    """logprobs: [B, T] nats, 0 where the mask is off. entropy: [B, T] nats of the same softmax, or None. result: what the model gave."""

    logprobs: Tensor
    entropy: Tensor | None
    result: Any

    @property
    def auxiliary(self) -> Tensor | None:
        """The model's own addition to the loss, if any."""
        return self.result.get("auxiliary") if isinstance(self.result, dict) else None


def rounded(count: int, total: int) -> int:
    """How many targets are computed for `count` marked ones of `total`."""
    step = max(1, -(-total // STEPS))
    return min(total, -(-count // step) * step)


def places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the marked targets through all rows, [N], and the same filled up with zeros to the `rounded` number.

    Raises BadInput where there are none.
    """
    where = mask.flatten().nonzero().squeeze(1)
    if not len(where):
        raise BadInput("data", "a batch whose loss mask leaves nothing", "at least one target")
    return where, torch.cat((where, where.new_zeros(rounded(len(where), mask.numel()) - len(where))))


def logits_at(model: nn.Module, result: Any, picked: Tensor) -> Tensor:
    """[P, V] logits in float32 or finer of the picked targets, from what the model gave for [B, T] inputs."""
    states = (result["hidden"] if isinstance(result, dict) else result).flatten(0, 1)[picked].unsqueeze(0)
    logits = (model.head(states) if isinstance(result, dict) else states).squeeze(0)  # type: ignore[operator]
    return logits if logits.dtype == torch.float64 else logits.float()


def token_logprobs(model: nn.Module, tokens: Tensor, mask: Tensor, temperature: Tensor | float = 1.0, *, entropy: str = "none") -> Scored:
    """log softmax(logits / temperature) at each marked target.

    tokens: [B, T + 1] int64, filled up at the end of a row. mask: [B, T] bool, True at targets that count.
    temperature: a number or [B], > 0. entropy: "none", "value" (without gradient) or "gradient".
    Raises BadInput for a mask that marks nothing, or tokens that the model's vocabulary does not hold.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    where, picked = places(mask)
    try:
        result = model(inputs)
        logits = logits_at(model, result, picked)
        if isinstance(temperature, Tensor):
            logits = logits / temperature.repeat_interleave(targets.shape[1])[picked].unsqueeze(1)
        elif temperature != 1.0:
            logits = logits / temperature
        spread = F.log_softmax(logits, -1)
        chosen = -F.nll_loss(spread, targets.flatten()[picked], reduction="none")
    except IndexError as error:
        unknown = unknown_token(tokens, model)
        if unknown is None:
            raise
        raise unknown from error
    return Scored(_back(chosen, where, mask), _entropy(spread, where, mask, entropy), result)


def _back(values: Tensor, where: Tensor, mask: Tensor) -> Tensor:
    """[>= N] values at their places in [B, T], 0 elsewhere."""
    return values.new_zeros(mask.numel()).scatter(0, where, values[: len(where)]).view(mask.shape)


def _entropy(spread: Tensor, where: Tensor, mask: Tensor, how: str) -> Tensor | None:
    if how == "none":
        return None
    spread = spread if how == "gradient" else spread.detach()
    return _back(-(spread.exp() * spread).sum(-1), where, mask)


def frozen_copy(model: M) -> M:
    """A copy that no training changes, in evaluation mode: the reference of a KL or a preference.

    What LoRA has frozen is shared, not copied.
    """
    shared: dict[int, Any] = {id(parameter): parameter for parameter in frozen(model).values()}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


@torch.no_grad()
def frozen_logprobs(model: nn.Module, data: dict[str, Tensor], temperature: Tensor | float = 1.0, batch_size: int = 64) -> Tensor:
    """[N, T] log-probabilities of N rows (`tokens`, `loss_mask`) under a model in evaluation mode, `batch_size` at a time."""
    parts = []
    for start in range(0, len(data["tokens"]), batch_size):
        rows = slice(start, start + batch_size)
        local = temperature[rows] if isinstance(temperature, Tensor) else temperature
        parts.append(token_logprobs(model, data["tokens"][rows], data["loss_mask"][rows], local).logprobs)
    return torch.cat(parts)


def masked_work(batch: Batch) -> Hashable:
    """How many targets the head is computed for: what an objective over marked targets answers as `work_of`."""
    mask = batch.data["loss_mask"]
    return rounded(int(mask.sum()), mask.numel())
