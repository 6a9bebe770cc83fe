"""One round of on-policy training: its size, its groups, its tensors and what is told of it.

Shapes: N rollouts of T + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.engine.protocols import Problem
from etude.errors import BadInput
from etude.learn.rollouts import Rollout
from etude.learn.rows import MULTIPLE, filled


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """How much a round makes and how it is trained on.

    prompts, samples: problems a round and rollouts of each. epochs: passes over them. minibatch: rollouts a micro-batch.
    max_draws: how many times a round may draw problems to fill its groups where some are rejected; what is still missing
    then is filled with the rejected groups first drawn.
    """

    prompts: int = 8
    samples: int = 8
    epochs: int = 1
    minibatch: int = 64
    max_draws: int = 1

    def __post_init__(self) -> None:
        for name in ("prompts", "samples", "epochs", "minibatch", "max_draws"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"RoundConfig.{name}", repr(value), "a whole number >= 1")


def informative(rewards: np.ndarray) -> bool:
    """Whether a group can teach anything: its rewards are not all equal (DAPO's dynamic sampling, arXiv 2503.14476, section 3.2)."""
    return bool(rewards.max() > rewards.min())


@dataclass(slots=True)
class Group:
    """The rollouts of one prompt. draw: in which of the round's draws; accepted: by the rule; used: trained on.

    advantages: of each rollout, mean over its tokens; zeros where it is not used.
    """

    rollouts: list[Rollout]
    draw: int
    accepted: bool
    used: bool = False
    advantages: list[float] = field(default_factory=list)

    @property
    def rewards(self) -> np.ndarray:
        return np.array([r.reward for r in self.rollouts])


def choose(groups: Sequence[Group], count: int) -> list[Group]:
    """The first `count` groups, accepted ones before the others; marked as used."""
    chosen = sorted(groups, key=lambda g: not g.accepted)[:count]
    for group in chosen:
        group.used = True
    return chosen


def round_tensors(rollouts: Sequence[Rollout], temperature: float) -> dict[str, Tensor]:
    """`tokens`, `loss_mask`, `lengths` as `filled` gives them; `logprobs` and `step_rewards` [N, T]; `rewards`, `temperature` [N]."""
    data = filled([r.row for r in rollouts])
    for name, values in (("logprobs", [r.logprobs for r in rollouts]), ("step_rewards", [r.rewards for r in rollouts])):
        data[name] = torch.zeros(data["loss_mask"].shape)
        for place, row in enumerate(values):
            data[name][place, : len(row) - 1] = torch.tensor(row[1:])
    data["rewards"] = torch.tensor([r.reward for r in rollouts], dtype=torch.float32)
    data["temperature"] = torch.full((len(rollouts),), temperature)
    return data


def rows_of(data: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """A mini-batch, without the columns that only the round's longer rows need."""
    picked = {name: values[rows] for name, values in data.items()}
    width = -(-(int(picked["lengths"].max()) - 1) // MULTIPLE) * MULTIPLE
    return {k: v[:, : width + (k == "tokens")] if v.dim() == 2 else v for k, v in picked.items()}


def log_record(rollout: Rollout, problem: Problem, group: Group, number: int) -> dict[str, Any]:
    """A rollout's line in the log."""
    texts = rollout.texts
    record = {
        "round": number, "draw": group.draw, "prompt_id": rollout.prompt_id, "sample": rollout.sample, "problem": problem.id,
        "number": rollout.problem, "difficulty": problem.difficulty, "prompt": rollout.prompt,
        "completion": texts[0] if len(texts) == 1 else texts, "reward": rollout.reward,
        "advantage": group.advantages[rollout.sample] if group.advantages else 0.0, "used": group.used, "finish": rollout.finish,
        "ids": [t for t, own in zip(rollout.tokens, rollout.mask, strict=True) if own],
    }  # fmt: skip
    return record | ({"error": rollout.error} if rollout.error else {})


def round_metrics(groups: Sequence[Group], data: dict[str, Tensor]) -> dict[str, float]:
    """Of all that was generated: mean reward, response length, share that stopped; groups and tokens that taught nothing."""
    everyone = [r for g in groups for r in g.rollouts]
    size = len(groups[0].rollouts)
    found = {
        "reward": float(np.mean([r.reward for r in everyone])),
        "response_tokens": float(np.mean([r.num_generated for r in everyone])),
        "finished": float(np.mean([r.finish == "stop" for r in everyone])),
        "zero_advantage_groups": float(data["uninformative"].sum()) / size,
        "rejected_groups": float(sum(not g.used for g in groups)),
        "rejected_tokens": float(sum(r.num_generated for g in groups if not g.used for r in g.rollouts)),
    }
    if "kl_reward" in data:
        found["kl_reward"] = float(data["kl_reward"].mean())
    failures = sum(bool(r.error) for r in everyone)
    return found | ({"verifier_failures": float(failures)} if failures else {})


def told(groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """For the sampler: `ids` of the problems [n] int64, `reward` and `advantage` [n]."""
    everyone = [(r.problem, r.reward, a) for g in groups for r, a in zip(g.rollouts, g.advantages, strict=True)]
    ids, rewards, advantages = zip(*everyone, strict=True)
    return {"ids": np.array(ids, dtype=np.int64), "reward": np.array(rewards), "advantage": np.array(advantages)}
