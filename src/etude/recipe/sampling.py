"""Samplers from a recipe's table. Weights are named after the data's domains, or its classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from etude.data.samplers import Curriculum, FixedMixture, OnlineMixture, Shuffle, WeightedDraw, by_loss, by_softmax
from etude.engine.protocols import Graded, Labelled, Sampler
from etude.errors import BadInput, one_of
from etude.recipe.material import Material
from etude.recipe.tables import CurriculumTable, MixtureTable, OnlineTable, Recipe, ShuffleTable, WeightedTable


def sampler_of(recipe: Recipe, material: Material) -> Sampler:
    """Raises BadInput where the data has no domains (or classes) to weigh, or a stretch is no whole number of updates."""
    table = recipe.sampler
    if isinstance(table, ShuffleTable):
        return Shuffle(table.replacement)
    if isinstance(table, WeightedTable):
        if material.groups is None:
            raise BadInput(
                "sampler.weights",
                "data without domains or classes",
                "a corpus with domains, [data.domains.NAME], data.domain of rows, or classes",
            )
        return WeightedDraw(_weights(table.weights, material)[material.groups], table.share)
    if isinstance(table, CurriculumTable):
        _whole_updates(table.update_every, recipe)
        return _curriculum(table, material)
    if not isinstance(material.source, Labelled):
        raise BadInput(
            "sampler.kind", f"'{table.kind}' for data without domains", "a corpus with domains, [data.domains.NAME], or data.domain of rows"
        )
    _whole_updates(table.update_every, recipe)
    if isinstance(table, MixtureTable):
        return FixedMixture(_weights(table.weights, material), table.update_every, table.replacement)
    return _online(table, material)


def _whole_updates(update_every: int, recipe: Recipe) -> None:
    key, size = ("data.batch", recipe.data.batch) if recipe.rollouts is None else ("rollouts.prompts", recipe.rollouts.prompts)
    if update_every % size:
        raise BadInput("sampler.update_every", repr(update_every), f"a multiple of {key} ({size})")


def _curriculum(table: CurriculumTable, material: Material) -> Curriculum:
    measured = table.by == "loss"
    if measured and material.stream_for is not None:
        raise BadInput("sampler.by", "'loss' for prompts that are answered", "difficulty")
    if not measured and not isinstance(material.source, Graded):
        raise BadInput(
            "sampler.by", "'difficulty' for data without one", "data.difficulty of texts or rows, a task's levels; or by = 'loss'"
        )
    settings = table.model_dump(exclude={"kind", "by"})
    return Curriculum(measured=measured, **settings)


def _online(table: OnlineTable, material: Material) -> OnlineMixture:
    answered = material.stream_for is not None
    if table.signal != "loss" and not answered:
        raise BadInput("sampler.signal", f"'{table.signal}' where nothing is answered", "loss")
    if answered and (table.signal, table.weigh) == ("loss", "loss"):
        expected = "weigh = 'softmax', which takes the reward that is missing; or signal = 'reward' or 'advantage'"
        raise BadInput("sampler.weigh", "'loss' for prompts that are answered", expected)
    weigh = by_loss if table.weigh == "loss" else partial(by_softmax, temperature=table.temperature)
    initial = None if table.weights is None else _weights(table.weights, material)
    return OnlineMixture(weigh, table.update_every, table.smoothing, initial, signal=table.signal)


def _weights(weights: Mapping[str, float], material: Material) -> np.ndarray:
    """[K], 0 for what is not named."""
    for name in weights:
        if name not in material.group_names:
            raise one_of(f"sampler.weights.{name}", name, material.group_names)
    if not any(weights.values()):
        raise BadInput("sampler.weights", "only zeros", "at least one number > 0")
    return np.array([weights.get(name, 0.0) for name in material.group_names])
