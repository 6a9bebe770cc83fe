"""How a round's rewards become advantages at its tokens: by groups (REINFORCE, RLOO, GRPO, DAPO), or by a value net (PPO).

Shapes: N rollouts, T target positions. Both take the round's tensors `loss_mask` [N, T] and `rewards` [N] and give `advantages` [N, T].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from etude.errors import BadInput, one_of
from etude.learn.advantages import BASELINES, check_groups, gae, group_advantages, whitened


class Estimator(Protocol):
    """needs_values: the stream adds `values` [N, T] of the model's value net. needs_reference: it adds `reference` [N, T].

    check(samples): raises BadInput where groups of that size cannot be used. __call__: adds to `data`, and returns [N] bool, the
    rollouts that teach nothing because all of their group were paid alike.
    """

    @property
    def needs_values(self) -> bool: ...
    @property
    def needs_reference(self) -> bool: ...
    def check(self, samples: int) -> None: ...
    def __call__(self, data: dict[str, Tensor], prompts: np.ndarray, samples: int) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class GroupAdvantages:
    """One advantage a rollout, the same at all its tokens; see `group_advantages`. Defaults are GRPO's."""

    baseline: str = "group"
    by_std: bool = True
    eps: float = 1e-6
    needs_values = False
    needs_reference = False

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise one_of("GroupAdvantages.baseline", self.baseline, BASELINES)

    def check(self, samples: int) -> None:
        if samples < 2 and (self.by_std or self.baseline in ("group", "leave-one-out")):
            raise BadInput(
                "samples", f"groups of {samples}", "at least 2 rollouts a prompt, or the baseline none or batch without a deviation"
            )

    def __call__(self, data: dict[str, Tensor], prompts: np.ndarray, samples: int) -> Tensor:
        advantages, equal = group_advantages(data["rewards"], prompts, samples, baseline=self.baseline, by_std=self.by_std, eps=self.eps)
        data["advantages"] = advantages.unsqueeze(1) * data["loss_mask"]
        return equal


@dataclass(frozen=True, kw_only=True)
class GeneralisedAdvantages:
    """PPO's: GAE over token rewards, a value net's states and a penalty of kl (log pi - log q) at each token (2411.15124, eq. 8).

    kl: weight of that penalty; 0 needs no reference. whiten: advantages to mean 0 and variance 1 over the round's tokens.
    Adds `returns` [N, T] and `kl_reward` [N], the penalty of each rollout.
    """

    gamma: float = 1.0
    lam: float = 0.95
    kl: float = 0.05
    whiten: bool = True
    needs_values = True

    def __post_init__(self) -> None:
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"GeneralisedAdvantages.{name}", repr(getattr(self, name)), "a number from 0 to 1")
        if not self.kl >= 0:
            raise BadInput("GeneralisedAdvantages.kl", repr(self.kl), "a number >= 0")

    @property
    def needs_reference(self) -> bool:
        return self.kl > 0

    def check(self, samples: int) -> None: ...

    def __call__(self, data: dict[str, Tensor], prompts: np.ndarray, samples: int) -> Tensor:
        check_groups(prompts, samples)
        mask, rewards = data["loss_mask"], data["step_rewards"]
        if self.kl:
            penalty = self.kl * (data["logprobs"] - data["reference"])
            rewards = rewards - penalty
            data["kl_reward"] = -penalty.sum(1)
        advantages, data["returns"] = gae(rewards, data["values"], mask, gamma=self.gamma, lam=self.lam)
        data["advantages"] = whitened(advantages, mask) if self.whiten else advantages
        return torch.zeros(len(mask), dtype=torch.bool)
