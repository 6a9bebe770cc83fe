"""Policy gradients over a batch of rollouts: REINFORCE, GRPO, Dr. GRPO, DAPO and what lies between, by settings.

Shapes: B rollouts, T target positions; every sum runs over the tokens that the model itself produced.

    ratio      r_t = exp(log pi(a_t) - log mu(a_t))          mu: the policy that sampled, at the sampling temperature
    surrogate  "log":   A_t log pi(a_t)                                               REINFORCE (Williams 1992)
               "ratio": r_t A_t
               "clip":  min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t)                PPO (1707.06347, eq. 7); low < high: DAPO
    KL         k3 = q/pi - log(q/pi) - 1 >= 0 at the token sampled, q the reference    GRPO (2402.03300, eq. 4)
    loss       -(surrogate - kl k3 + entropy H), over tokens by `mean_over`:
               "tokens": sum over all / number of tokens                              DAPO (2503.14476, eq. 8)
               "rows":   mean of the rows' means                                      GRPO (2402.03300, eq. 3)
               "length": mean of the rows' sums / max_tokens                          Dr. GRPO (2503.20783), ReLIFT (2506.07527)

At the first pass over fresh rollouts r_t = 1 and the three surrogates have one gradient.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.errors import BadInput, one_of
from etude.learn.logprobs import masked_work, token_logprobs

SURROGATES = ("log", "ratio", "clip")
MEANS = ("tokens", "rows", "length")


def surrogate(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, how: str, low: float, high: float) -> Tensor:
    """What is maximised at each token. All [B, T]; logprobs with gradient."""
    if how == "log":
        return advantages * logprobs
    ratio = (logprobs - behaviour).exp()
    if how == "ratio":
        return ratio * advantages
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimator of KL(pi || q) from samples of pi: unbiased, never negative, of low variance. [B, T] nats."""
    difference = reference - logprobs
    return torch.expm1(difference) - difference


def mean_over(values: Tensor, mask: Tensor, how: str, max_tokens: int) -> tuple[Tensor, float]:
    """The mean of [B, T] values, 0 off the mask, and how many items it is over, so that micro-batches add up exactly."""
    if how == "tokens":
        count = float(mask.sum())
        return values.sum() / count, count
    rows = values.sum(1) / (mask.sum(1).clamp(min=1) if how == "rows" else max_tokens)
    return rows.mean(), float(len(rows))


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of `PolicyGradient`; defaults are GRPO's.

    surrogate, mean_over: see the module. clip_low, clip_high: epsilons around ratio 1. kl: weight of k3 to the reference.
    entropy: weight of the bonus, nats. max_tokens: the divisor of "length".
    """

    surrogate: str = "clip"
    clip_low: float = 0.2  # PPO, GRPO; DAPO too
    clip_high: float = 0.2  # DAPO: 0.28
    mean_over: str = "rows"
    kl: float = 0.04  # GRPO; DAPO and Dr. GRPO: 0; DUMP: 0.001
    entropy: float = 0.0  # ReLIFT: 0.001
    max_tokens: int = 1

    def __post_init__(self) -> None:
        for name, known in (("surrogate", SURROGATES), ("mean_over", MEANS)):
            if getattr(self, name) not in known:
                raise one_of(f"PolicyConfig.{name}", getattr(self, name), known)
        for name in ("kl", "entropy", "clip_low", "clip_high"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"PolicyConfig.{name}", repr(getattr(self, name)), "a number >= 0")
        if self.max_tokens < 1:
            raise BadInput("PolicyConfig.max_tokens", repr(self.max_tokens), "a whole number >= 1")


REINFORCE = PolicyConfig(surrogate="log", kl=0.0)
GRPO = PolicyConfig()
DAPO = PolicyConfig(clip_high=0.28, mean_over="tokens", kl=0.0)


def dr_grpo(max_tokens: int) -> PolicyConfig:
    """Dr. GRPO: sums over tokens by a fixed length, no KL. With `GroupAdvantages(by_std=False)`."""
    return PolicyConfig(mean_over="length", kl=0.0, max_tokens=max_tokens)


def relift(max_tokens: int) -> PolicyConfig:
    """ReLIFT's reinforcement part: no ratio clip, no KL, sums by the maximal length. With `GroupAdvantages(by_std=False)`."""
    return PolicyConfig(surrogate="ratio", mean_over="length", kl=0.0, entropy=0.001, max_tokens=max_tokens)


class PolicyGradient:
    """The policy-gradient loss of a batch of rollouts (`RolloutStream`).

    From the batch: `tokens` [B, T + 1], `loss_mask` [B, T], `logprobs` [B, T] of the behaviour policy, `advantages` [B, T],
    `temperature` [B] it was sampled at, and with kl > 0 `reference` [B, T]. `per_sample` is each row's mean loss.
    Signals: `ratio` (mean) and `ratio_deviation` (largest distance from 1), `clip_share` (of tokens whose gradient is cut),
    `kl` (k3, where there is a reference), `entropy`, `advantage` (mean of |A|), `zero_advantage` (share of rows without any).
    """

    def __init__(self, config: PolicyConfig = GRPO) -> None:
        self.config = config

    def work_of(self, batch: Batch) -> Hashable:
        return masked_work(batch)

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        config, data = self.config, batch.data
        mask = data["loss_mask"]
        entropy = "gradient" if config.entropy else "value"
        scored = token_logprobs(model, data["tokens"], mask, data["temperature"], entropy=entropy)
        assert scored.entropy is not None
        objective = surrogate(scored.logprobs, data["logprobs"], data["advantages"], config.surrogate, config.clip_low, config.clip_high)
        if config.kl:
            if "reference" not in data:
                raise BadInput("PolicyConfig.kl", f"{config.kl:g} without a reference", "a stream with a reference model, or kl = 0")
            objective = objective - config.kl * k3(scored.logprobs, data["reference"])
        if config.entropy:
            objective = objective + config.entropy * scored.entropy
        loss, weight = mean_over(-objective, mask, config.mean_over, config.max_tokens)
        if scored.auxiliary is not None:
            loss = loss + scored.auxiliary
        signals = policy_signals(scored.logprobs, scored.entropy, data, config)
        return Output(loss, -objective.detach().sum(1) / mask.sum(1).clamp(min=1), weight, signals)


@torch.no_grad()
def policy_signals(logprobs: Tensor, entropy: Tensor, data: dict[str, Tensor], config: PolicyConfig) -> dict[str, Tensor]:
    """See `PolicyGradient`."""
    mask, advantages = data["loss_mask"], data["advantages"]
    count = mask.sum()
    ratio = (logprobs - data["logprobs"]).exp()
    signals = {
        "ratio": (ratio * mask).sum() / count,
        "ratio_deviation": ((ratio - 1).abs() * mask).max(),
        "entropy": entropy.sum() / count,
        "advantage": advantages.abs().sum() / count,
        "zero_advantage": (advantages == 0).all(1).float().mean(),
    }
    if config.surrogate == "clip":
        # Only where the clipped branch is the smaller one is the gradient gone.
        cut = ((advantages > 0) & (ratio > 1 + config.clip_high)) | ((advantages < 0) & (ratio < 1 - config.clip_low))
        signals["clip_share"] = (cut & mask).sum() / count
    if "reference" in data:
        signals["kl"] = k3(logprobs, data["reference"]).sum() / count
    return signals
