"""Training from a recipe file, and `etude.train` for Python."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from etude.data.packing import PackedSource
from etude.data.sources import TensorSource, WindowSource
from etude.data.stream import DataStream, source_of
from etude.engine.arguments import typed, unknown_key
from etude.engine.ledger import Budget
from etude.engine.optim import OptimizerSpec
from etude.engine.protocols import Evaluator, Method, Objective, Sampler
from etude.engine.schedule import Schedule
from etude.engine.trainer import RunResult, Trainer
from etude.errors import BadInput
from etude.learn.language import CausalLM
from etude.learn.supervised import Supervised
from etude.recipe.build import Resolve, build, no_models
from etude.recipe.config import load, read
from etude.recipe.continued import begun_from
from etude.recipe.folder import DATA_FILE, check_data, check_recipe
from etude.recipe.models import Models
from etude.recipe.overrides import parsed, replaced
from etude.recipe.places import Places
from etude.recipe.progress import Progress
from etude.recipe.rows import objective_of
from etude.recipe.stopping import stoppable
from etude.recipe.tables import PretrainedTable, Recipe

M = TypeVar("M", bound=nn.Module)


@typed("etude.train, ")
def train(
    model: M,
    data: Any,
    *,
    methods: Sequence[Method] | Method = (),
    sampler: Sampler | None = None,
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
    device: str | torch.device = "auto",
    quiet: bool = False,
    **settings: Any,
) -> RunResult[M]:
    """Trains your own module on your own data, with any methods that compose.

    data:      (x, y) arrays or tensors, a dict of them, a text file's path, that of a folder of
               memory-mapped tokens, token ids, an indexable data set, or a `Source` such as `etude.rows` gives.
    objective: by default next-token prediction for text and tokens; cross entropy for integer y, squared error for real y; for rows what
               their columns ask for: the completions' likelihood, or DPO against a frozen copy of the model.
               These two refuse NaN and infinities in x and y before anything runs; one that is given may read them as it likes.
    sampler:   which samples, in which order: one of `etude.data.samplers`, where no method brings its own.
    methods:   such as `[etude.method("stacking")(at=0.2)]`; one alone may stand without a list.
    budget:    such as `Budget(tokens=1_000_000)`; or `epochs` over the data (3 where neither is given).
    The model is trained in place and not re-initialised. `settings` go to `etude.engine.trainer.Trainer`. Raises BadInput.
    """
    if budget is not None and epochs is not None:
        raise BadInput("etude.train", "both budget and epochs", "one of them")
    for name, count in (("epochs", epochs), ("batch_size", batch_size), ("context", context)):
        if count is not None and count < 1:
            raise BadInput(f"{HERE}{name}", repr(count), "a whole number >= 1")
    _known_settings(settings)
    owner = next((m.name for m in ([methods] if isinstance(methods, Method) else methods) if "sampler" in getattr(m, "slots", ())), None)
    if sampler is not None and owner is not None:
        raise BadInput(f"{HERE}sampler", f"it beside {owner}, which brings its own", "one of them")
    try:
        source = source_of(data, context)
        budget = budget or Budget(samples=(3 if epochs is None else epochs) * len(source))
        stream = DataStream(source, batch_size, seed, sampler=sampler, drop_last=isinstance(source, (WindowSource, PackedSource)))
        if objective is None:
            objective = objective_of(source, model) or _objective(source)
            if isinstance(source, TensorSource):
                source.require_finite(("x", "y"))
    except BadInput as error:
        raise error.at(f"{HERE}{error.where}") if error.where.partition(".")[0] in ("data", "seed") else error from error
    with Progress("training", quiet) as shown:
        try:
            trainer = Trainer(
                model, stream, objective, methods=methods, budget=budget, optimizer=optimizer, schedule=schedule,
                evaluators=evaluators, seed=seed, folder=folder, device=device, progress=shown.update, **settings,
            )  # fmt: skip
        except BadInput as error:
            argument = re.split(r"[.\[, ]", error.where, maxsplit=1)[0] in inspect.signature(Trainer).parameters
            raise error.at(f"{HERE}{error.where}") if argument else error from error
        with stoppable(trainer, "`resume=True`", shown.say):
            return trainer.run(resume=resume)


HERE = "etude.train, "


def _known_settings(settings: Mapping[str, Any]) -> None:
    """That `Trainer` takes what `train` hands on to it."""
    handed = ("stream", "progress", *inspect.signature(train).parameters)
    own = [name for name in inspect.signature(Trainer).parameters if name not in handed]
    for key in settings:
        if key in ("lr", "learning_rate"):
            raise BadInput(f"{HERE}{key}", repr(settings[key]), f"optimizer=AdamW(lr={settings[key]!r}), from etude.engine.optim")
        if key not in own:
            names = [n for n in inspect.signature(train).parameters if n != "settings"]
            raise unknown_key(f"{HERE}{key}", key, [*names, *own])


def _objective(source: Any) -> Objective:
    sample = source.get(np.zeros(1, dtype=np.int64))
    if "tokens" in sample:
        return CausalLM()
    if "x" in sample and "y" in sample:
        return Supervised("mse" if sample["y"].is_floating_point() else "cross_entropy")
    raise BadInput("data", f"samples of {', '.join(sample)}", "x with y, or tokens; or an `objective` that reads them")


def recipe_of(path: Path | str, overrides: tuple[str, ...], resolve: Resolve, models: Models) -> tuple[Recipe, Places]:
    """A recipe file as it would be run, and where its mistakes are found. Raises BadInput."""
    recipe, places = load(path, overrides), Places(Path(path).name, [".".join(parsed(text)[0]) for text in overrides])
    if isinstance(recipe.model, PretrainedTable):
        # The recipe that is kept names that very checkpoint: the other run may go on.
        name = begun_from(recipe.model.pretrained, places.of("model.pretrained"), resolve, models)
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"pretrained": name})})
    return recipe, places


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
    recipe, places = recipe_of(path, overrides, resolve, models)
    folder = Path(recipe.run.folder)
    if resume:
        check_recipe(recipe, places)
    methods: Sequence[Method] = ()
    with Progress(places.file, quiet) as shown:
        try:
            trainer = build(recipe, resolve, models, progress=shown.update, note=shown.note)
            methods = trainer.hooks.methods
            if resume:
                check_data(trainer.beside, folder, recipe)
            # Said with the first update: what is refused before that stands alone.
            size = sum(p.numel() for p in trainer.model.parameters())
            trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
            notes = [f"{line} in {places.file}" for line in replaced(read(Path(path)), overrides)]
            facts = json.loads(trainer.beside[DATA_FILE])
            notes += [f"{facts[what]} rows {what}: too long for data.context" for what in ("dropped", "cut") if facts.get(what)]
            if resume and not any((folder / "checkpoints").glob("step-*")):
                notes.append(f"no checkpoint in {folder} yet: from the beginning")
            some = f", {trained:,} of them trained" if trained < size else ""
            shown.announce("\n".join([*notes, f"{size:,} parameters{some}, on {trainer.device}, into {recipe.run.folder}"]))
            command = shlex.join(["etude", "train", str(path), *overrides, "--resume"])
            with stoppable(trainer, f"`{command}`", shown.say):
                result = trainer.run(resume=resume)
        except BadInput as error:
            raise places.located(error, methods) from error
        for line in result.passed_over:
            shown.say(f"passed over {line}")
        if result.set_aside:
            shown.say(f"what an earlier run had logged there is in {result.set_aside}")
    seconds = result.ledger.of("seconds")
    generating = {"generate_share": seconds["generate"] / sum(seconds.values())} if seconds.get("generate") else {}
    return {
        "folder": str(folder),
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "metrics": result.metrics,
        "parameters": result.parameters,
        "micro_batch": result.micro_batch,
        **generating,
        "ledger": result.ledger.as_dict(),
    }
