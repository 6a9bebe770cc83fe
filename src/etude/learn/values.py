"""Values of states: a head of one number on any language model. Critic, scalar reward model, process value model.

Shapes: B rows of T + 1 tokens. The value at input position t is that of the text up to and including it; where the next token is
target t, that is the state before it.

    Bradley-Terry   -log sig(R(c) - R(r)), R the value at a completion's last token         InstructGPT, arXiv 2203.02155, eq. 1
    process value   mean over marked places of (V_t - target_t)^2                           ReST-MCTS*, arXiv 2406.03816
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.arguments import shown
from etude.engine.protocols import Batch, Output
from etude.errors import BadInput
from etude.learn.pairs import CHOSEN, REJECTED
from etude.learn.rows import Row as TextRow
from etude.learn.rows import Text, encoded, filled


class ValueHead(nn.Linear):
    """Hidden states to one number; begins at zero, so that a new critic says 0 everywhere (a half under a sigmoid)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ValueModel(nn.Module):
    """A language model's hidden states [B, T, D] and one number for each, [B, T].

    body: any model whose forward gives "hidden"; its own head stays unused. squash: a sigmoid, for values from 0 to 1.
    Raises BadInput for a body without "hidden".
    """

    def __init__(self, body: nn.Module, width: int, *, squash: bool = False) -> None:
        super().__init__()
        self.body, self.squash = body, squash
        self.value_head = ValueHead(width)

    @classmethod
    def from_policy(cls, policy: nn.Module, *, squash: bool = False) -> ValueModel:
        """A value model on a copy of an etude language model."""
        return cls(copy.deepcopy(policy).requires_grad_(True), policy.config.width, squash=squash)  # type: ignore[union-attr]

    def forward(self, tokens: Tensor) -> Tensor:
        result = self.body(tokens)
        if not isinstance(result, dict) or "hidden" not in result:
            raise BadInput("ValueModel.body", f"{shown(result)} from forward", 'a dict with "hidden"')
        values = self.value_head(result["hidden"]).squeeze(-1).float()
        return values.sigmoid() if self.squash else values


class ActorCritic(nn.Module):
    """A policy and its value net as one trained module; generators and objectives of language models see the policy.

    Parameters are named "policy...." and "value....", so that `Several` can give each its optimizer.
    """

    def __init__(self, policy: nn.Module, value: ValueModel) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    @property
    def config(self) -> Any:
        return self.policy.config

    def head(self, hidden: Tensor) -> Tensor:
        return self.policy.head(hidden)  # type: ignore[operator]

    def forward(self, tokens: Tensor, *rest: Any, **named: Any) -> Any:
        return self.policy(tokens, *rest, **named)


def last_values(values: Tensor, lengths: Tensor) -> Tensor:
    """The value at each row's last own token. values: [B, T + 1] over all tokens; lengths: [B]."""
    return values.gather(1, (lengths - 1).unsqueeze(1)).squeeze(1)


def scalar_rewards(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    """[N] rewards of whole rows (`tokens` [N, T + 1], `lengths` [N]) under a scalar reward model."""
    return last_values(model(data["tokens"]), data["lengths"])


class BradleyTerry:
    """Trains a scalar reward model (`ValueModel`) on `PairSource`. Signals: `accuracy`, `margin`, `chosen`, `rejected`."""

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        data = {name: batch.data[name].flatten(0, 1) for name in ("tokens", "lengths")}
        rewards = scalar_rewards(model, data).view(-1, 2)
        margin = rewards[:, CHOSEN] - rewards[:, REJECTED]
        each = -F.logsigmoid(margin)
        known = {"accuracy": (margin > 0).float(), "margin": margin, "chosen": rewards[:, CHOSEN], "rejected": rewards[:, REJECTED]}
        return Output(each.mean(), each.detach(), float(len(batch)), {k: v.detach().mean() for k, v in known.items()})


class StepValues:
    """Trains a process value model: squared error at the marked places, mean over all of them. Takes `StepSource`'s batches."""

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        mask = batch.data["value_mask"]
        errors = torch.where(mask, (model(batch.data["tokens"]) - batch.data["values"]).square(), 0.0)
        count = float(mask.sum())
        return Output(errors.sum() / count, errors.detach().sum(1) / mask.sum(1).clamp(min=1), count)


class StepSource:
    """Texts cut in steps, with a value for the state after each: samples for `StepValues`.

    rows: (prompt, [(step, value), ...]); a value is learned at its step's last token; None leaves a step out.
    get(ids) -> {"tokens" [B, T + 1] int64, "lengths" [B], "values" [B, T + 1] float32, "value_mask" [B, T + 1] bool}.
    Raises BadInput naming the row: no step with a value, an empty step, a value that is not finite, too many tokens.
    """

    def __init__(
        self, rows: Sequence[tuple[Text, Sequence[tuple[Text, float | None]]]], *, context: int, tokenizer: Any = None, name: str = "row"
    ) -> None:
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for number, (prompt, steps) in enumerate(rows):
            where = f"{name} {number}"
            tokens, places, values = encoded(prompt, tokenizer, where), [], []
            for place, (step, value) in enumerate(steps):
                ids = encoded(step, tokenizer, where)
                if not len(ids):
                    raise BadInput(f"{where}, step {place}", "no tokens", "at least one")
                tokens = np.concatenate([tokens, ids])
                if value is not None:
                    if not np.isfinite(value):
                        raise BadInput(f"{where}, step {place}: value", repr(value), "a finite number")
                    places.append(len(tokens) - 1)
                    values.append(value)
            if not places:
                raise BadInput(where, "no step with a value", "at least one")
            if len(tokens) > context:
                raise BadInput(where, f"{len(tokens)} tokens", f"at most the context of {context}")
            self.rows.append((tokens, np.array(places), np.array(values, dtype=np.float32)))
        if not self.rows:
            raise BadInput(name, "no rows", "at least one")

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        rows = [self.rows[int(i)] for i in ids]
        data = filled([TextRow(tokens, np.ones(len(tokens) - 1, dtype=bool)) for tokens, _, _ in rows])
        values, mask = torch.zeros(data["tokens"].shape), torch.zeros(data["tokens"].shape, dtype=torch.bool)
        for place, (_, where, what) in enumerate(rows):
            values[place, where], mask[place, where] = torch.from_numpy(what), True
        del data["loss_mask"]
        return data | {"values": values, "value_mask": mask}
