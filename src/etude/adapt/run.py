"""The run as methods see it, when a trainer of transformers makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from etude.adapt.data import plain
from etude.adapt.losses import predicts_next, row_losses
from etude.adapt.objective import Given
from etude.engine.hooks import Hooks
from etude.engine.ledger import Budget
from etude.engine.metrics import MetricsLog
from etude.engine.protocols import Batch, Mapping_, Method, Metrics, Output, Stream
from etude.engine.run import Run
from etude.engine.schedule import Schedule
from etude.errors import BadInput


class TheirOwn:
    """The schedule of a run whose learning rate the trainer sets."""

    def __call__(self, share: float) -> float:
        return 1.0


class TheirLoss:
    """The mean loss over a batch's labels, as an objective for extra gradients and scores; without smoothing or auxiliary losses.

    given: the objective in the trainer's place of its own.
    """

    def __init__(self, trainer: Any, given: Given) -> None:
        self.trainer, self.given = trainer, given

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        inputs = plain(batch.data)
        if self.given.rewrites:
            inputs = self.given.rewritten(inputs, batch.ids, batch.key)
        asked = dict(inputs)
        labels = inputs.pop("labels", None)
        with self.trainer.compute_loss_context_manager():
            outputs = model(**inputs)
            sums, counts = row_losses(outputs, labels, predicts_next(model))
            extra = self.given.extra(Batch(asked, batch.ids, key=batch.key), outputs)
        per_sample, total = sums.detach() / counts.clamp(min=1), sums.sum() if extra is None else sums.sum() + extra.sum()
        return Output(total / counts.sum().clamp(min=1), per_sample, float(counts.sum()))


class TrainerRun(Run):
    """A `Run` over a trainer. Its budget is the trainer's number of updates, its seed the trainer's.

    preparing: while surgery is done, before the first update; the budget then counts as spent, so that a method which waits for its
    share of it acts at once.
    """

    def __init__(self, trainer: Any, model: nn.Module, stream: Stream | None, hooks: Hooks, seed: int, given: Given) -> None:
        self.trainer, self.preparing, self.was_replaced = trainer, False, False
        super().__init__(
            model=model, stream=cast(Stream, stream), objectives={"": TheirLoss(trainer, given)}, optimizer=cast(Any, None),
            schedule=TheirOwn(),
            hooks=hooks, budget=Budget(steps=1), seed=seed, device=torch.device(trainer.args.device), log=MetricsLog(None),
            count_flops=False, autocast=False,
        )  # fmt: skip

    @property
    def share(self) -> float:
        return 1.0 if self.preparing else super().share

    def _refresh(self) -> None:
        self._named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not self._named:
            raise BadInput("trainer.model", "no trainable parameter", "at least one")
        self.optimizers = {}  # the trainer makes it when it begins

    def factor(self, share: float) -> float:
        """On the learning rate, at a share of the budget."""
        left = 1 - self.schedule_start
        return self.schedule(min(1.0, (share - self.schedule_start) / left) if left > 0 else 1.0)

    def replace(
        self,
        model: nn.Module,
        mapping: Mapping_,
        *,
        method: Method,
        moments: str = "reset",
        schedule: Schedule | None = None,
        note: dict[str, Any] | None = None,
    ) -> None:
        """As `Run.replace`, before the first update alone: the trainer's optimizer and wrappers are made after it."""
        if not self.preparing or self.was_replaced:
            again = "a second time" if self.preparing else "during the run"
            raise BadInput(method.name, f"a model replaced {again}", "in another trainer than etude's, once and before the first update")
        if self.hooks.owner.get("surgery") != method.name:
            raise BadInput(f"{method.name}.slots", "no 'surgery', though it replaces the model", "the slot of what it does")
        self._check_mapping(f"{method.name}: mapping", self._named, model, mapping)
        self.model, self.was_replaced = model, True
        self._refresh()
        if schedule is not None:
            self.schedule, self.schedule_start = schedule, 0.0
        self.hooks.call("replaced", self, mapping)

    def gradient(self, batch: Batch, objective: str = "") -> dict[str, Tensor]:
        self._need_losses("an extra gradient")
        return super().gradient(batch, objective)

    def score(self, ids: np.ndarray | None, batch_size: int) -> np.ndarray:
        """As `Run.score`, in batches of the trainer's evaluation."""
        self._need_losses("a score")
        return super().score(ids, min(batch_size, self.trainer.args.eval_batch_size))

    def evaluate(self, evaluators: Mapping[str, Any], charged: str = "") -> Metrics:
        raise BadInput("run.evaluate", "a trainer that evaluates by itself", "etude's own trainer for evaluators that steer")

    def _need_losses(self, what: str) -> None:
        if self.trainer._etude.grpo:
            raise BadInput("trainer", f"{type(self.trainer).__name__}, whose prompts have no loss for {what}", "a Trainer or an SFTTrainer")
