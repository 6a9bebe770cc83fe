"""The routers and the equations of mixture-of-recursions (Bae et al. 2025, arXiv 2507.10524, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import BadInput
from etude.nn.linear import Projection

KINDS = ("expert", "token", "random", "none")


def capacities(num_recursions: int) -> tuple[float, ...]:
    """Shares of tokens that take recursion 1, 2, ...: N/N, (N-1)/N, ..., 1/N (section 2.2, expert-choice)."""
    return tuple((num_recursions - r) / num_recursions for r in range(num_recursions))


def check_capacities(shares: Sequence[float], num_recursions: int) -> None:
    """Raises BadInput where a share lies outside (0, 1], the shares increase, or their number is not that of the recursions."""
    if len(shares) != num_recursions:
        raise BadInput("capacities", f"{len(shares)} of them", f"one for each of {num_recursions} recursions")
    for r, share in enumerate(shares):
        if not 0 < share <= 1:
            raise BadInput(f"capacities[{r}]", repr(share), "a share above 0 and at most 1")
        if r and share > shares[r - 1]:
            raise BadInput(
                f"capacities[{r}]", repr(share), f"at most {shares[r - 1]:g}, that of the recursion before: fewer tokens go deeper"
            )


def num_kept(share: float, length: int) -> int:
    """k = floor(c T), at least 1. length: T of the whole sequence, not of what the recursion before has kept."""
    # The tiny slack keeps a third of 96 at 32 where the product falls just short of it.
    return max(1, int(share * length + 1e-9))


def choose(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of `logits` [B, S]: their places [B, k] in ascending order, and 0/1 targets [B, S] for the auxiliary loss."""
    places = logits.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    return places, torch.zeros_like(logits).scatter_(1, places, 1.0)


def auxiliary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of sigmoid(logits) against kept (1) or dropped (0): makes a threshold of 0.5 work without the future."""
    return F.binary_cross_entropy_with_logits(logits, targets)


def balance_loss(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """N sum_i f_i P_i for token-choice (section 2.2): f_i the share of tokens that chose depth i, P_i its mean probability.

    probabilities: [B, T, N]. chosen: [B, T] in 0..N-1. Equals 1 where both are uniform.
    """
    num = probabilities.shape[-1]
    shares = F.one_hot(chosen, num).to(probabilities.dtype).mean((0, 1))
    return num * (shares * probabilities.mean((0, 1))).sum()


def z_loss(logits: Tensor) -> Tensor:
    """mean(logsumexp(logits)^2) over tokens; logits [B, T, N]."""
    return torch.logsumexp(logits, dim=-1).square().mean()


class Router(nn.Module):
    """A linear map from the hidden state to one logit (expert-choice) or one a depth (token-choice)."""

    def __init__(self, width: int, outputs: int = 1) -> None:
        super().__init__()
        self.linear = Projection(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, S, D] -> [B, S, outputs]."""
        return self.linear(x)
