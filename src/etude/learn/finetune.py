"""Supervised fine-tuning on completions, every row with a weight of its own where it has one.

    tokens:  sum_r w_r sum_t nll_rt / number of targets          (Tülu 3, arXiv 2411.15124, section 4.3: summed over the batch)
    rows:    sum_r w_r mean_t nll_rt / number of rows             (RISE, arXiv 2407.18219, eq. 5, with w_r = exp(reward_r / tau))

A mean of micro-batches' means would give the targets of short batches more weight; the `weight` of the output says how many
targets (rows) the mean is over, and the trainer adds micro-batches up by it. The divisor counts targets or rows, never weights: a row
of weight 12 pulls twelve times as hard whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.errors import BadInput, one_of
from etude.learn.logprobs import masked_work, token_logprobs


def exponential_weights(rewards: np.ndarray, tau: float) -> np.ndarray:
    """exp(reward / tau): the weights of reward-weighted regression (RISE, eq. 5). rewards: [N]. Raises BadInput for tau <= 0."""
    if not tau > 0:
        raise BadInput("tau", repr(tau), "a number > 0")
    return np.exp(np.asarray(rewards, dtype=np.float64) / tau).astype(np.float32)


def finetune_loss(logprobs: Tensor, mask: Tensor, weights: Tensor | None, mean_over: str) -> tuple[Tensor, float]:
    """The loss and what it is a mean over. logprobs, mask: [B, T]; weights: [B] or None for ones."""
    rows = -logprobs.sum(1)
    counts = mask.sum(1)
    if mean_over == "rows":
        rows = rows / counts.clamp(min=1)
    if weights is not None:
        rows = rows * weights
    divisor = float(len(rows)) if mean_over == "rows" else float(counts.sum())
    return rows.sum() / divisor, divisor


class Finetune:
    """The weighted negative log-likelihood of the marked targets. mean_over: "tokens" or "rows". entropy: coefficient of a bonus.

    Takes `tokens`, `loss_mask` and optionally `weights` [B] from the batch (`CompletionSource`). The model's "auxiliary" is added.
    `per_sample` is each row's mean loss without its weight.
    """

    def __init__(self, mean_over: str = "tokens", entropy: float = 0.0) -> None:
        if mean_over not in ("tokens", "rows"):
            raise one_of("Finetune.mean_over", mean_over, ("tokens", "rows"))
        if not entropy >= 0:
            raise BadInput("Finetune.entropy", repr(entropy), "a number >= 0")
        self.mean_over, self.entropy = mean_over, entropy

    def work_of(self, batch: Batch) -> Hashable:
        return masked_work(batch)

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        mask, weights = batch.data["loss_mask"], batch.data.get("weights")
        scored = token_logprobs(model, batch.data["tokens"], mask, entropy="gradient" if self.entropy else "none")
        loss, weight = finetune_loss(scored.logprobs, mask, weights, self.mean_over)
        signals = {}
        if scored.entropy is not None:
            spread = finetune_loss(-scored.entropy, mask, None, self.mean_over)[0]
            loss, signals["entropy"] = loss - self.entropy * spread, spread.detach()
        if scored.auxiliary is not None:
            loss, signals["auxiliary"] = loss + scored.auxiliary, scored.auxiliary.detach()
        with torch.no_grad():
            per_sample = -scored.logprobs.sum(1) / mask.sum(1).clamp(min=1)
        return Output(loss, per_sample, weight, signals)
