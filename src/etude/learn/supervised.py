"""Supervised objectives for any module `model(x)` and their evaluators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.data.sources import TensorSource
from etude.engine.arguments import shown, typed
from etude.engine.device import device_of
from etude.engine.protocols import Batch, Metrics, Output
from etude.engine.streams import halves
from etude.errors import BadInput, choice


def _squared(predicted: Tensor, target: Tensor) -> Tensor:
    if predicted.shape != target.shape and predicted.ndim:
        predicted = predicted.squeeze(-1)
    if predicted.shape != target.shape:
        found, expected = f"{_type(target)} numbers of shape {tuple(target.shape)}", f"the model's {tuple(predicted.shape)}"
        if target.numel() == len(target) < predicted.numel():  # one number a sample for several outputs
            expected += "; if they are classes, whole numbers (`y.long()`)"
        raise BadInput("data.y", found, expected)
    return (predicted - target).square().flatten(1).mean(1) if predicted.ndim > 1 else (predicted - target).square()


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


class Supervised:
    """The mean loss over a batch of `x` and `y`.

    loss: "cross_entropy" (logits [B, C], y [B] int64 classes), "mse" (y of the output's shape), or a function
    (output, y) -> [B] losses. label_smoothing: for cross entropy.
    Raises BadInput for a batch without `y`, shapes that do not go together, or classes that the model has no output for.
    """

    @typed("objective.")
    def __init__(self, loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy", label_smoothing: float = 0.0) -> None:
        if isinstance(loss, str) and loss not in ("cross_entropy", "mse"):
            raise choice("objective.loss", loss, ("cross_entropy", "mse", "a function"))
        if not 0 <= label_smoothing <= 1:
            raise BadInput("objective.label_smoothing", repr(label_smoothing), "a number from 0 to 1")
        self.loss, self.label_smoothing = loss, label_smoothing

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        if "x" not in batch.data or "y" not in batch.data:
            raise BadInput("data", f"samples of {', '.join(batch.data)}", "x and y")
        predicted, y = model(batch.data["x"]), batch.data["y"]
        if not isinstance(predicted, Tensor):
            raise BadInput("model", f"an output that is {shown(predicted)}", "a tensor; or an objective of your own that reads it")
        if self.loss == "cross_entropy":
            each = self._cross_entropy(predicted, y)
        elif self.loss == "mse":
            each = _squared(predicted, y)
        else:
            each = self.loss(predicted, y)  # type: ignore[operator]
        if each.shape != (len(batch),):
            raise BadInput("objective.loss", f"shape {tuple(each.shape)}", f"one loss a sample, ({len(batch)},)")
        return Output(each.mean(), each.detach(), float(len(batch)))

    def _cross_entropy(self, predicted: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point() and y.shape != predicted.shape:
            raise BadInput(
                "data.y",
                f"{_type(y)} numbers of shape {tuple(y.shape)}",
                'classes as whole numbers (`y.long()`), or the loss "mse"',
            )
        try:
            return F.cross_entropy(predicted, y, reduction="none", label_smoothing=self.label_smoothing)
        except IndexError as error:
            # Only now look for the class that does not exist, so that no step pays for it.
            wrong = int(y.min()) if int(y.min()) < 0 else int(y.max())
            classes = f"classes from 0 to {predicted.shape[1] - 1}, the model's outputs"
            if predicted.shape[1] == 1:
                classes = "two outputs or more of the model for classes, or real numbers (`y.float()`) and the squared error for regression"
            raise BadInput("data.y", f"class {wrong}", classes) from error
        except (RuntimeError, ValueError) as error:
            if predicted.ndim < 2 or len(predicted) != len(y):
                raise BadInput(
                    "model", f"an output of shape {list(predicted.shape)}", f"one row of logits a sample, [{len(y)}, C]"
                ) from error
            expected = [len(y), *predicted.shape[2:]]
            raise BadInput("data.y", f"{_type(y)} of shape {list(y.shape)}", f"whole numbers (int64) of shape {expected}") from error


class Accuracy:
    """{"accuracy": share of right classes, "loss": mean cross entropy in nats} on x, y."""

    @typed()
    def __init__(self, x: Any, y: Any, batch_size: int = 1024) -> None:
        data = TensorSource(x=x, y=y).data
        self.x, self.y, self.batch_size = data["x"], data["y"], batch_size
        if batch_size < 1:
            raise BadInput("Accuracy.batch_size", repr(batch_size), "a whole number >= 1")

    def half(self, which: int) -> Accuracy | None:
        if len(self.y) < 2:
            return None
        rows = torch.from_numpy(halves(len(self.y))[which])
        return Accuracy(self.x[rows], self.y[rows], self.batch_size)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Metrics:
        device = device_of(model)
        right, loss = 0, 0.0
        for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
            x, y = x.to(device), y.to(device)
            logits = model(x)
            right += int((logits.argmax(-1) == y).sum())
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
        return {"accuracy": right / len(self.y), "loss": loss / len(self.y)}
