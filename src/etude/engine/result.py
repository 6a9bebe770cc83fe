"""How a run ends: with a result, or stopped by one of three errors, and what in the data one of them came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import nn

from etude.engine.ledger import Ledger
from etude.engine.protocols import Batch, Metrics
from etude.errors import numbered, one_of

M = TypeVar("M", bound=nn.Module)


class NonFinite(ArithmeticError):
    """NaN or Inf stopped the run before the weights were touched. `step`: updates done; `tensor`: the first bad one.

    cause: what in the batch was NaN or infinite, such as "x of sample 3"; empty where the data was in order.
    """

    def __init__(self, step: int, tensor: str, cause: str = "") -> None:
        self.step, self.tensor, self.cause = step, tensor, cause
        found = f"NaN or infinity in {cause} and so in {tensor}" if cause else f"NaN or infinity in {tensor}"
        tries = f"{'a lower learning rate may help, or ' * (step > 0)}look at the data"
        wanted = "data of finite numbers" if cause else f"finite numbers: {tries}"
        super().__init__(f"step {step + 1}: found {found}, expected {wanted}; weights are as after step {step}")


def not_finite(batches: list[Batch]) -> str:
    """ "x of samples 3 and 7", the first tensor of the batches that holds NaN or infinity; "" where none does."""
    for name in batches[0].data:
        samples: list[int] = []
        for batch in batches:
            values = batch.data.get(name)
            if values is not None and values.is_floating_point() and values.numel() and len(values) == len(batch):
                samples += batch.ids[(~torch.isfinite(values)).reshape(len(batch), -1).any(1).cpu().numpy()].tolist()
        if samples:
            return f"{name} of {numbered('sample', samples)}"
    return ""


class DataEnded(RuntimeError):
    """The stream ended before the budget was spent."""


class Interrupted(RuntimeError):
    """The run stopped on request, with a checkpoint; resume to go on."""


@dataclass
class RunResult(Generic[M]):
    """What a run came to.

    metrics: of the last evaluation, "evaluator/name" -> value. history: one dict an evaluation, with step, share, tokens,
    flops, seconds and the metrics. ledger: what it cost. parameters: of the final model. resumed_from: the checkpoint; passed_over:
    newer ones that were damaged. set_aside: where the logs of an earlier run in the same folder were moved, "" if there were none.
    micro_batch: the most samples computed at once, None for whole batches.
    """

    model: M
    metrics: Metrics
    history: list[dict[str, float]]
    ledger: Ledger
    steps: int
    parameters: int
    resumed_from: str = ""
    passed_over: list[str] = field(default_factory=list)
    set_aside: str = ""
    micro_batch: int | None = None

    def curve(self, metric: str, x: str = "flops") -> tuple[list[float], list[float]]:
        """(x, y) lists of a metric over "flops", "tokens", "step", "seconds" or "share". Raises BadInput for another x."""
        if x not in ("flops", "tokens", "step", "seconds", "share"):
            raise one_of("RunResult.curve, x", x, ("flops", "tokens", "step", "seconds", "share"))
        rows = [row for row in self.history if metric in row]
        return [row[x] for row in rows], [row[metric] for row in rows]
