"""From rewards to advantages: baselines, groups, generalised advantage estimation, whitening, shaping by length.

Shapes: N rollouts, T target positions, G rollouts a prompt. Groups are formed by prompt id, never by place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from etude.errors import BadInput, one_of

BASELINES = ("none", "batch", "group", "leave-one-out")


def check_groups(prompts: np.ndarray, size: int) -> None:
    """Raises BadInput unless every prompt id stands there exactly `size` times, naming the first that does not."""
    ids, counts = np.unique(prompts, return_counts=True)
    wrong = np.flatnonzero(counts != size)
    if len(wrong):
        raise BadInput(f"prompt {ids[wrong[0]]}", f"{counts[wrong[0]]} rollouts", f"the {size} of its group")


def grouped(rewards: Tensor, prompts: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """rewards [N] as [N / G, G] by prompt id, and the order [N] that brings them back: `rows.flatten()[order]` is as given."""
    check_groups(prompts, size)
    order = np.argsort(prompts, kind="stable")
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return rewards[torch.from_numpy(order)].view(-1, size), torch.from_numpy(back)


def group_advantages(
    rewards: Tensor, prompts: np.ndarray, size: int, *, baseline: str = "group", by_std: bool = True, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """(advantages [N], zero [N] bool): reward less a baseline, over the group's standard deviation where `by_std`.

    baseline: "none"; "batch", the mean of all; "group", the mean of the prompt's own (GRPO, arXiv 2402.03300, section 4.1.2);
    "leave-one-out", the mean of the prompt's others (RLOO, 2402.14740, section 2).
    The deviation is the sample's (divisor G - 1); the paper leaves it open. Dr. GRPO (2503.20783) is `by_std=False`.
    Where a group's rewards are all equal there is no deviation to divide by: under "none" and "batch" the difference stays as it is.
    zero: the rollouts of groups whose rewards are all equal; under a baseline of the group they teach nothing, and their
    advantages are exactly 0. Raises BadInput for a group of another size, or a reward that is not finite.
    """
    if baseline not in BASELINES:
        raise one_of("baseline", baseline, BASELINES)
    if not bool(torch.isfinite(rewards).all()):
        wrong = int((~torch.isfinite(rewards)).nonzero()[0])
        raise BadInput(f"prompt {prompts[wrong]}: reward", str(float(rewards[wrong])), "a finite number")
    rows, back = grouped(rewards.double(), prompts, size)
    equal = (rows.amax(1) == rows.amin(1)).unsqueeze(1).expand_as(rows)
    if baseline == "none":
        centred = rows
    elif baseline == "batch":
        centred = rows - rows.mean()
    else:
        centred = rows - rows.mean(1, keepdim=True)
        if baseline == "leave-one-out":
            centred = centred * (size / (size - 1))
        # Rounding in the mean would leave a remainder, which the deviation, equally small, would blow up.
        centred = torch.where(equal, 0.0, centred)
    if by_std:
        scaled = centred / (rows.std(1, keepdim=True) + eps)
        # Over eps alone a reward would be a million.
        centred = torch.where(equal, centred, scaled)
    return centred.flatten()[back].to(rewards.dtype), equal.flatten()[back]


def whitened(values: Tensor, mask: Tensor, *, centre: bool = True, eps: float = 1e-8) -> Tensor:
    """Values [N, T] with mean 0 (where `centre`) and variance 1 over the marked places; 0 elsewhere."""
    marked = values[mask]
    mean = marked.mean()
    spread = marked.var(unbiased=False)
    scaled = (values - (mean if centre else 0.0)) * torch.rsqrt(spread + eps)
    return torch.where(mask, scaled, 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both [N, T], by generalised advantage estimation (arXiv 1506.02438, eq. 16); returns = A + V.

    A_t = delta_t + gamma lam A_t', delta_t = r_t + gamma V_t' - V_t, where t' is the next place that the mask marks: words of an
    environment between two turns are no steps. After the last marked place V and A are 0. values[t]: of the state before target t.
    """
    advantages = torch.zeros_like(values)
    following_value = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        here = mask[:, t]
        step = rewards[:, t] + gamma * following_value - values[:, t] + gamma * lam * following
        following = torch.where(here, step, following)
        following_value = torch.where(here, values[:, t], following_value)
        advantages[:, t] = torch.where(here, step, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """DAPO's soft punishment of length (arXiv 2503.14476, eq. 13): 0 up to max_tokens - margin, then linearly to -1.

    max_tokens: L_max; margin: L_cache, in tokens.
    """

    max_tokens: int
    margin: int

    def __post_init__(self) -> None:
        if not 0 < self.margin <= self.max_tokens:
            raise BadInput("Overlong.margin", repr(self.margin), f"between 1 and the {self.max_tokens} of max_tokens")

    def __call__(self, num_tokens: int, finish: str, reward: float) -> float:
        over = num_tokens - (self.max_tokens - self.margin)
        return 0.0 if over <= 0 else max(-1.0, -over / self.margin)


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A fixed reward for a completion that never stopped, whatever it had earned (Tülu 3's -10, arXiv 2411.15124, table 21).

    Their code puts it in the score's place; added to a score of 10 it would be worth as much as a wrong answer.
    """

    penalty: float = -10.0

    def __call__(self, num_tokens: int, finish: str, reward: float) -> float:
        return 0.0 if finish == "stop" else self.penalty - reward
