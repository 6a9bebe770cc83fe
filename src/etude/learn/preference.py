"""Learning from preferences: DPO (plain and length-normalised), IPO, ORPO, SimPO.

Shapes: B pairs. c and r are the chosen and the rejected completion, |c| its tokens, log p the summed log-probability of a
completion under the policy, log q under the frozen reference.

    DPO         -log sig(beta [(log p(c) - log q(c)) - (log p(r) - log q(r))])                 Rafailov et al., 2305.18290, eq. 7
    DPO, norm.  the same with every sum divided by its completion's tokens                    Tülu 3, 2411.15124, section 5
    IPO         ([(log p(c) - log q(c)) - (log p(r) - log q(r))] - 1 / (2 beta))^2             Azar et al., 2310.12036, eq. 17
    ORPO        -log p(c) / |c| - lambda log sig(logit P(c) - logit P(r)), log P = log p / |.|  Hong et al., 2403.07691, eq. 4-7
    SimPO       -log sig(beta log p(c) / |c| - beta log p(r) / |r| - gamma)                    Meng et al., 2405.14734, eq. 6
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.errors import BadInput
from etude.learn.logprobs import masked_work, token_logprobs
from etude.learn.pairs import CHOSEN, REJECTED, flat


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """policy, reference: [B, 2] summed log-probabilities (chosen, rejected); reference None where there is none. tokens: [B, 2] counts."""

    policy: Tensor
    reference: Tensor | None
    tokens: Tensor

    @property
    def mean(self) -> PairLogprobs:
        """The same per token."""
        reference = None if self.reference is None else self.reference / self.tokens
        return PairLogprobs(self.policy / self.tokens, reference, torch.ones_like(self.tokens))

    @property
    def log_ratios(self) -> Tensor:
        """[B, 2] log p - log q. Raises BadInput without a reference."""
        if self.reference is None:
            raise BadInput("Preference.reference", "none", "a reference model, or pairs with precomputed log-probabilities")
        return self.policy - self.reference

    @property
    def margin(self) -> Tensor:
        """[B] the chosen completion's log ratio over the rejected one's."""
        return self.log_ratios[:, CHOSEN] - self.log_ratios[:, REJECTED]


class PairLoss(Protocol):
    """One loss a pair: __call__ -> [B]; rewards -> [B, 2], what it implicitly pays each completion. needs_reference: says itself."""

    needs_reference: bool

    def __call__(self, pairs: PairLogprobs) -> Tensor: ...
    def rewards(self, pairs: PairLogprobs) -> Tensor: ...


def _positive(where: str, value: float) -> None:
    if not value > 0:
        raise BadInput(where, repr(value), "a number > 0")


@dataclass(frozen=True, kw_only=True)
class DPO:
    """beta: how closely the policy keeps to the reference; dimensionless. normalised: means over tokens, not sums.

    The right beta differs with it: 0.1 for sums, 5 for means (Tülu 3); with sums, 5 saturates.
    """

    beta: float = 0.1
    normalised: bool = False
    needs_reference = True

    def __post_init__(self) -> None:
        _positive("DPO.beta", self.beta)

    def rewards(self, pairs: PairLogprobs) -> Tensor:
        return self.beta * (pairs.mean if self.normalised else pairs).log_ratios

    def __call__(self, pairs: PairLogprobs) -> Tensor:
        return -F.logsigmoid(self.beta * (pairs.mean if self.normalised else pairs).margin)


@dataclass(frozen=True, kw_only=True)
class IPO:
    """beta: their tau; the margin is regressed on 1 / (2 beta). Sums over tokens, as in the paper (some code takes means)."""

    beta: float = 0.1
    needs_reference = True

    def __post_init__(self) -> None:
        _positive("IPO.beta", self.beta)

    def rewards(self, pairs: PairLogprobs) -> Tensor:
        return self.beta * pairs.log_ratios

    def __call__(self, pairs: PairLogprobs) -> Tensor:
        return (pairs.margin - 1 / (2 * self.beta)).square()


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log [P / (1 - P)] for P = exp(mean_logprob), which is below 1: exact where P is near it, too."""
    return mean_logprob - torch.log(-torch.expm1(mean_logprob.clamp(max=-1e-7)))


@dataclass(frozen=True, kw_only=True)
class ORPO:
    """weight: lambda of the odds-ratio term beside the likelihood of the chosen completion; no reference."""

    weight: float = 0.1
    needs_reference = False

    def __post_init__(self) -> None:
        _positive("ORPO.weight", self.weight)

    def rewards(self, pairs: PairLogprobs) -> Tensor:
        return self.weight * pairs.mean.policy

    def __call__(self, pairs: PairLogprobs) -> Tensor:
        mean = pairs.mean.policy
        odds = log_odds(mean)
        return -mean[:, CHOSEN] - self.weight * F.logsigmoid(odds[:, CHOSEN] - odds[:, REJECTED])


@dataclass(frozen=True, kw_only=True)
class SimPO:
    """beta: scale of the mean log-probabilities. gamma: the margin asked for, in the same unit.

    The paper's best: beta 2 to 2.5, gamma / beta 0.3 to 0.6.
    """

    beta: float = 2.0
    gamma: float = 1.0
    needs_reference = False

    def __post_init__(self) -> None:
        _positive("SimPO.beta", self.beta)
        if not self.gamma >= 0:
            raise BadInput("SimPO.gamma", repr(self.gamma), "a number >= 0")

    def rewards(self, pairs: PairLogprobs) -> Tensor:
        return self.beta * pairs.mean.policy

    def __call__(self, pairs: PairLogprobs) -> Tensor:
        rewards = self.rewards(pairs)
        return -F.logsigmoid(rewards[:, CHOSEN] - rewards[:, REJECTED] - self.gamma)


class Preference:
    """The mean of a pair loss over a batch of `PairSource`.

    loss: DPO, IPO, ORPO, SimPO or one's own. reference: a frozen model, scored with every batch (charged with the training);
    without one, the batch's precomputed "reference". Signals: `accuracy` (chosen paid more than rejected), `margin`, `chosen`,
    `rejected` (mean implicit rewards). Raises BadInput where a loss that needs a reference has none, or where the reference is
    the model in training.
    """

    def __init__(self, loss: PairLoss, reference: nn.Module | None = None) -> None:
        self.loss, self.reference = loss, reference
        if reference is not None:
            reference.eval().requires_grad_(False)

    def work_of(self, batch: Batch) -> Hashable:
        return masked_work(batch)

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        rows = flat(batch.data)
        mask = rows["loss_mask"]
        scored = token_logprobs(model, rows["tokens"], mask)
        pairs = PairLogprobs(
            scored.logprobs.sum(1).view(-1, 2), self._reference(model, batch, rows), mask.sum(1).view(-1, 2).to(scored.logprobs)
        )
        each = self.loss(pairs)
        with torch.no_grad():
            rewards = self.loss.rewards(pairs)
            margin = rewards[:, CHOSEN] - rewards[:, REJECTED]
            signals = {
                "accuracy": (margin > 0).float().mean(), "margin": margin.mean(),
                "chosen": rewards[:, CHOSEN].mean(), "rejected": rewards[:, REJECTED].mean(),
            }  # fmt: skip
        loss = each.mean()
        if scored.auxiliary is not None:
            loss = loss + scored.auxiliary
        return Output(loss, each.detach(), float(len(batch)), signals)

    def _reference(self, model: nn.Module, batch: Batch, rows: dict[str, Tensor]) -> Tensor | None:
        if not self.loss.needs_reference:
            return None
        if self.reference is None:
            return batch.data.get("reference")
        if self.reference is model:
            raise BadInput("Preference.reference", "the model in training itself", "a frozen copy")
        with torch.no_grad():
            return token_logprobs(self.reference.to(rows["tokens"].device), rows["tokens"], rows["loss_mask"]).logprobs.sum(1).view(-1, 2)
