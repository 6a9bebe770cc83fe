"""Images and tables of a recipe: features and a class, or a number, to predict."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.images import digits, mnist1d, with_label_noise
from etude.data.sources import TensorSource
from etude.data.tables import read_arrays, read_table
from etude.engine.protocols import Evaluator
from etude.engine.streams import numpy_rng
from etude.errors import BadInput
from etude.learn.language import HeldOutLoss
from etude.learn.supervised import Accuracy, Supervised
from etude.recipe.material import Material
from etude.recipe.tables import EvaluateTable, ImageData, Recipe, TableData

IMAGES = {"digits": (digits, (2, 8)), "mnist1d": (mnist1d, (1, 40))}
"""Name -> what makes it, and (dimensions, size along each)."""


def images(recipe: Recipe, data: ImageData) -> Material:
    """Raises BadInput where the data set's package is not installed."""
    make, grid = IMAGES[data.images]
    splits = make()
    x, y = splits.train.x, splits.train.y
    if data.label_noise:
        y = with_label_noise(y, data.label_noise, splits.num_classes, recipe.run.seed)
    facts = {"images": data.images, "sha256": _digest(x, y, splits.validation.x, splits.validation.y)}
    names = tuple(str(c) for c in range(splits.num_classes))
    return _material(recipe, x, y, splits.validation.x, splits.validation.y, names, facts, grid)


def table(recipe: Recipe, data: TableData) -> Material:
    """Raises BadInput with file, line and column, or array, of what cannot be used; or where the split leaves a part empty."""
    path = Path(data.table)
    read = read_arrays if path.suffix == ".npz" else read_table
    found = read(path, data.target, features=data.features, classify=data.classify)
    order = torch.from_numpy(numpy_rng(0, "split", "table").permutation(len(found)))  # the same for all seeds
    num_held = round(data.held_out * len(found))
    if not 0 < num_held < len(found):
        raise BadInput("data.held_out", f"{data.held_out} of {len(found)} rows", "at least one row held out and one to train on")
    kept, held = order[num_held:], order[:num_held]
    x, facts = found.x, {"table": _sha256(path), "features": list(found.features), "rows": len(kept), "held_out_rows": num_held}
    if data.classify:
        facts["classes"] = list(found.classes)
    if data.standardize:
        mean, deviation = x[kept].mean(0), x[kept].std(0, correction=0)
        deviation = torch.where(deviation > 0, deviation, 1.0)  # a constant column stays zero
        x = (x - mean) / deviation
        facts |= {"mean": mean.tolist(), "deviation": deviation.tolist()}
    return _material(recipe, x[kept], found.y[kept], x[held], found.y[held], found.classes, facts)


def _material(
    recipe: Recipe, x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor, classes: tuple[str, ...], facts: dict[str, Any],
    grid: tuple[int, int] | None = None,
) -> Material:  # fmt: skip
    smoothing = recipe.objective.label_smoothing
    if smoothing and not classes:
        raise BadInput("objective.label_smoothing", repr(smoothing), "0 where a number is predicted")
    return Material(
        source=TensorSource(x=x, y=y),
        objective=Supervised("cross_entropy", smoothing) if classes else Supervised("mse"),
        evaluators=_evaluators(recipe.evaluate, held_x, held_y, bool(classes)),
        facts=facts,
        inputs=x[0].numel(),
        outputs=len(classes) or 1,
        grid=grid,
        groups=y.numpy() if classes else None,
        group_names=classes,
    )


def _evaluators(table: EvaluateTable, x: Tensor, y: Tensor, classes: bool) -> dict[str, Evaluator]:
    measures = table.measures or (("loss", "accuracy") if classes else ("loss",))
    for measure in measures:
        if measure not in ("loss", "accuracy") or (measure == "accuracy" and not classes):
            raise BadInput("evaluate.measures", f"'{measure}'", "loss or accuracy" if classes else "loss, where a number is predicted")
    if table.limit is not None and table.limit < len(y):
        rows = np.linspace(0, len(y) - 1, table.limit).round().astype(np.int64)
        x, y = x[rows], y[rows]
    if "accuracy" in measures:  # with the loss
        return {"held-out": Accuracy(x, y, batch_size=max(table.batch, 256))}
    return {"held-out": HeldOutLoss(TensorSource(x=x, y=y), Supervised("cross_entropy" if classes else "mse"), batch_size=table.batch)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()
