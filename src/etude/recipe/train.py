"""Training from a recipe file, and `etude.train` for Python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from etude.data.packing import PackedSource
from etude.data.sources import WindowSource
from etude.data.stream import DataStream, source_of
from etude.engine.ledger import Budget
from etude.engine.optim import OptimizerSpec
from etude.engine.protocols import Evaluator, Method, Objective
from etude.engine.schedule import Schedule
from etude.engine.trainer import RunResult, Trainer
from etude.errors import BadInput
from etude.learn.language import CausalLM
from etude.learn.supervised import Supervised
from etude.recipe.build import Resolve, build, no_models
from etude.recipe.config import load
from etude.recipe.folder import check_data, check_recipe
from etude.recipe.models import Models
from etude.recipe.progress import Progress
from etude.recipe.tables import Recipe

M = TypeVar("M", bound=nn.Module)


def train(
    model: M,
    data: Any,
    *,
    methods: Sequence[Method] = (),
    objective: Objective | None = None,
    budget: Budget | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    context: int = 128,
    optimizer: OptimizerSpec | None = None,
    schedule: Schedule | None = None,
    evaluators: Mapping[str, Evaluator] | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> RunResult[M]:
    """Trains your own module on your own data, with any methods that compose.

    data:      (x, y) arrays or tensors, a dict of them, a text file's path, that of a folder of
               memory-mapped tokens, token ids, an indexable data set, or a `Source`.
    objective: by default next-token prediction for text and tokens; cross entropy for integer y, squared error for real y.
    budget:    such as `Budget(tokens=1_000_000)`; or `epochs` over the data (3 where neither is given).
    The model is trained in place and not re-initialised. `settings` go to `etude.engine.trainer.Trainer`. Raises BadInput.
    """
    source = source_of(data, context)
    if budget is not None and epochs is not None:
        raise BadInput("etude.train", "both budget and epochs", "one of them")
    budget = budget or Budget(samples=(3 if epochs is None else epochs) * len(source))
    stream = DataStream(source, batch_size, seed, drop_last=isinstance(source, (WindowSource, PackedSource)))
    with Progress("training", quiet) as shown:
        return Trainer(
            model, stream, objective or _objective(source), methods=methods, budget=budget, optimizer=optimizer, schedule=schedule,
            evaluators=evaluators, seed=seed, folder=folder, device=device, progress=shown.update, **settings,
        ).run(resume=resume)  # fmt: skip


def _objective(source: Any) -> Objective:
    sample = source.get(np.zeros(1, dtype=np.int64))
    if "tokens" in sample:
        return CausalLM()
    if "y" in sample:
        return Supervised("mse" if sample["y"].is_floating_point() else "cross_entropy")
    raise BadInput("etude.train", f"data of {', '.join(sample)}", "an objective for it (x with y, and tokens, have one by default)")


def train_recipe(
    path: Path | str,
    *,
    resolve: Resolve,
    models: Models = no_models,
    overrides: tuple[str, ...] = (),
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs a recipe file to the end of its budget and returns a summary.

    resolve, models: the methods and the architectures of a paper by its slug. The folder of the run gets the recipe with all
    defaults, the tokenizer and `data.json` before the first update, then metrics, the order of the data and checkpoints.
    Raises BadInput; on `resume` also for a recipe or data other than those that the run was begun with.
    """
    recipe, where = load(path, overrides), Path(path).name
    folder = Path(recipe.run.folder)
    if resume:
        check_recipe(recipe, where)
    with Progress(where, quiet) as shown:
        try:
            trainer = build(recipe, resolve, models, progress=shown.update)
        except BadInput as error:
            raise _in_file(error, where) from error
        if resume:
            check_data(trainer.beside, folder)
        shown.say(f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters, on {trainer.device}, into {recipe.run.folder}")
        result = trainer.run(resume=resume)
        for line in result.passed_over:
            shown.say(f"passed over {line}")
    return {
        "folder": str(folder),
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "metrics": result.metrics,
        "parameters": result.parameters,
        "ledger": result.ledger.as_dict(),
    }


def _in_file(error: BadInput, where: str) -> BadInput:
    """An error at a key of the recipe, with the recipe's name before it; any other as it is."""
    key = re.split(r"[.\[, ]", error.where, maxsplit=1)[0]
    return BadInput(f"{where}, {error.where}", error.found, error.expected) if key in Recipe.model_fields else error
