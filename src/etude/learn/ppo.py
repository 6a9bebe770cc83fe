"""PPO with a value net: the clipped ratio of `policy` and a clipped value loss, in one objective over an `ActorCritic`.

    value loss   1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2)

Sources: Schulman et al., 1707.06347, eq. 7 and 9; the value clip is that of their code; KL in the reward and advantages from a value
net that begins as a reward model as in Tülu 3, 2411.15124, section 6 (see `GeneralisedAdvantages`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.errors import BadInput
from etude.learn.logprobs import masked_work
from etude.learn.policy import PolicyConfig, PolicyGradient, mean_over


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Per token, all [B, T]. clip: how far a value may move from the old one before moving on stops to pay; in rewards' unit."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


PPO_POLICY = PolicyConfig(mean_over="tokens", kl=0.0)


class PPO:
    """`PolicyGradient` plus value_weight x the clipped value loss, over tokens alike.

    Takes what `PolicyGradient` takes and `values` [B, T] (the old ones) and `returns` [B, T], for a model with `value(tokens)`.
    Adds the signals `value_loss`, `value` (mean), `explained` (1 - variance of returns - values over that of returns).
    """

    def __init__(self, policy: PolicyConfig = PPO_POLICY, *, value_clip: float = 0.2, value_weight: float = 0.5) -> None:
        for name, number in (("value_clip", value_clip), ("value_weight", value_weight)):
            if not number > 0:
                raise BadInput(f"PPO.{name}", repr(number), "a number > 0")
        self.policy, self.value_clip, self.value_weight = PolicyGradient(policy), value_clip, value_weight

    def work_of(self, batch: Batch) -> Hashable:
        return masked_work(batch)

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        data = batch.data
        if not hasattr(model, "value"):
            raise BadInput("model", type(model).__name__, "an ActorCritic, whose `value` PPO trains")
        if "returns" not in data:
            raise BadInput("data", "rollouts without returns", "a stream with GeneralisedAdvantages")
        output = self.policy(model, batch, carried)
        mask, returns = data["loss_mask"], data["returns"]
        values = model.value(data["tokens"][:, :-1])  # type: ignore[operator]
        errors = torch.where(mask, value_loss(values, data["values"], returns, self.value_clip), 0.0)
        config = self.policy.config
        loss, _ = mean_over(errors, mask, config.mean_over, config.max_tokens)
        output.loss = output.loss + self.value_weight * loss
        with torch.no_grad():
            known, left = returns[mask], (returns - values)[mask]
            output.signals |= {
                "value_loss": loss.detach(),
                "value": values[mask].mean(),
                "explained": 1 - left.var(unbiased=False) / known.var(unbiased=False).clamp(min=1e-8),
            }
        return output
