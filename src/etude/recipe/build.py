"""From a validated recipe to the parts of a trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from etude.data.stream import DataStream
from etude.engine.device import pick_device
from etude.engine.identity import flat
from etude.engine.ledger import Budget
from etude.engine.memory import TO_TRAIN, WEIGHT_BYTES, sized
from etude.engine.protocols import Graded, Method, Reading, Source
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.nn.activations import checkpoint_activations
from etude.recipe.folder import DATA_FILE, RECIPE_FILE, TOKENIZER_FILE
from etude.recipe.language import language
from etude.recipe.material import Material
from etude.recipe.measuring import answered
from etude.recipe.models import Models, adapted, model_of
from etude.recipe.optimizers import optimizer_of
from etude.recipe.rollouts import Note, rollouts_material
from etude.recipe.rows import rows_material
from etude.recipe.sampling import sampler_of
from etude.recipe.schedules import schedule_of
from etude.recipe.settings import made, named, resolved
from etude.recipe.supervised import images, table
from etude.recipe.tables import READING, ImageData, MethodTable, PretrainedTable, Recipe, RowsData, TableData, TaskData, TextData
from etude.recipe.writing import dump, plain

Resolve = Callable[[str], Mapping[str, type[Method]]]
"""A paper's slug (or a file) -> its method classes by name. Whoever composes gives it: this floor knows no paper."""


def no_models(slug: str) -> Mapping[str, Any]:
    """The architectures of papers, for who knows none."""
    return {}


def build(
    recipe: Recipe,
    resolve: Resolve,
    models: Models = no_models,
    *,
    progress: Callable[[float, float], None] | None = None,
    note: Note | None = None,
) -> Trainer[nn.Module]:
    """The trainer that a recipe describes. note: told how an on-policy round goes. Raises BadInput where its parts do not fit."""
    material, run = material_of(recipe), recipe.run
    methods = [method_of(entry, i, resolve, material.source) for i, entry in enumerate(recipe.methods)]
    for method in methods:
        if isinstance(method, Reading) and method.tokenizer is None:
            method.tokenizer = material.tokenizer
    owner = next((method.name for method in methods if "sampler" in method.slots), None)
    if owner is not None and recipe.sampler.kind != "shuffle":
        raise BadInput("sampler", f"a sampler of kind '{recipe.sampler.kind}' beside {owner}, which brings its own", "one of them")
    owner = next((method.name for method in methods if "objective" in method.slots), None)
    if owner is not None and (recipe.objectives is not None or recipe.objective.kind in READING):
        raise BadInput("objectives" if recipe.objectives else "objective.kind", f"it beside {owner}, which brings its own", "one of them")
    surgeon = next((method.name for method in methods if "surgery" in method.slots), None)
    if recipe.lora is not None and surgeon is not None:
        raise BadInput("lora", f"it beside {surgeon}, which puts another model in place of the one that LoRA froze", "one of them")
    if isinstance(recipe.model, PretrainedTable):
        model = model_of(recipe, material, models)
    else:
        make = partial(model_of, recipe, material, models)
        model = initialise(sized(make, "model", pick_device(run.device), _bytes_each(recipe)), run.seed)
    model = adapted(recipe, model)
    if run.activation_checkpointing:
        checkpoint_activations(model)
    objective, evaluators = material.learnt_by(model)
    sampler = sampler_of(recipe, material)
    if material.stream_for is not None:
        stream = material.stream_for(model, sampler, note)
    else:
        stream = DataStream(material.source, recipe.data.batch, run.seed, sampler=sampler, drop_last=material.vocab is not None)
    trainer = Trainer(
        model,
        stream,
        objective,
        optimizer=optimizer_of(recipe),
        schedule=schedule_of(recipe.schedule),
        methods=methods,
        budget=budget_of(recipe),
        seed=run.seed,
        clip=run.clip,
        accumulate=run.accumulate,
        micro_batch=run.micro_batch,
        evaluators={**evaluators, **answered(recipe, material)},
        evaluate_every=run.evaluate_every,
        checkpoint_every=run.checkpoint_every,
        keep_checkpoints=run.keep_checkpoints,
        log_every=run.log_every,
        feedback_every=run.feedback_every,
        folder=Path(run.folder),
        device=run.device,
        precision=run.precision,
        trackers=run.trackers,
        progress=progress,
    )
    trainer.prepared = material.spent
    trainer.config = flat(plain(recipe))
    trainer.beside = {RECIPE_FILE: dump(recipe), DATA_FILE: json.dumps(material.facts, indent=1)}
    if material.tokenizer is not None:
        trainer.beside |= {TOKENIZER_FILE: material.tokenizer.to_json()}
    return trainer


def _bytes_each(recipe: Recipe) -> int:
    """Bytes that a parameter takes in training, at least; of several optimizers, the one that keeps the least."""
    if recipe.lora is not None:
        return WEIGHT_BYTES
    used = [recipe.optimizer] if recipe.optimizers is None else recipe.optimizers.values()
    return min(TO_TRAIN[optimizer.kind] for optimizer in used)


def material_of(recipe: Recipe) -> Material:
    match recipe.data:
        case TextData():
            return language(recipe, recipe.data)
        case RowsData() | TaskData() if recipe.rollouts is not None:
            return rollouts_material(recipe, recipe.data)
        case RowsData():
            return rows_material(recipe, recipe.data)
        case TaskData():
            raise BadInput("data.task", "it without an objective that samples", "objective.kind = 'grpo' or another of its kin")
        case ImageData():
            return images(recipe, recipe.data)
        case TableData():
            return table(recipe, recipe.data)


def budget_of(recipe: Recipe) -> Budget:
    given: dict[str, Any] = {k: v for k, v in recipe.budget.model_dump().items() if v is not None}
    return Budget(**given)


EASINESS = "data.easiness"
"""As a method's setting: how easy each training sample is, a list of numbers."""


def easiness(source: Source | None, where: str) -> list[float]:
    """[N], the share of samples that are at least as difficult, above 0. Raises BadInput at `where` for data without a difficulty.

    Without data (a run that is read back, whose order is past) it is one number.
    """
    if source is None:
        return [1.0]
    if not isinstance(source, Graded):
        raise BadInput(where, f"'{EASINESS}' of data without a difficulty", "data.difficulty of texts or rows, or a task's levels")
    ranked = np.sort(source.difficulty)
    return (1 - np.searchsorted(ranked, source.difficulty) / len(ranked)).tolist()


def method_of(entry: MethodTable, index: int, resolve: Resolve, source: Source | None = None) -> Method:
    """The method that a `[[methods]]` table names, with its settings. Raises BadInput naming the key."""
    where = f"methods[{index}]"
    found = resolved(f"{where}.use", resolve, entry.use)
    kind = named(
        f"{where}.use",
        entry.use,
        found,
        "method to add to a run",
        "a paper with one (`etude show PAPER`)",
    )
    settings = {key: easiness(source, f"{where}.{key}") if value == EASINESS else value for key, value in entry.settings.items()}
    return made(kind, settings, where)
