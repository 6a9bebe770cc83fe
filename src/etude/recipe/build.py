"""From a validated recipe to the parts of a trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from etude.data.corpora import corpus
from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.data.text import read_text
from etude.data.tokenizers import Tokenizer, make
from etude.engine.ledger import Budget
from etude.engine.optim import SGD, AdamW, Muon, OptimizerSpec
from etude.engine.protocols import Method
from etude.engine.schedule import SCHEDULES, Schedule
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput, one_of
from etude.learn.language import CausalLM, HeldOutLoss
from etude.nn.recurrent import RecurrentConfig, RecurrentLM
from etude.nn.transformer import Transformer, TransformerConfig
from etude.recipe.config import MethodTable, OptimizerTable, Recipe, ScheduleTable, TransformerTable

Resolve = Callable[[str], Mapping[str, type[Method]]]
"""A paper's slug (or a file) -> its method classes by name. Whoever composes gives it: this floor knows no paper."""


def build(recipe: Recipe, resolve: Resolve, *, progress: Callable[[float, float], None] | None = None) -> tuple[Trainer[Any], Tokenizer]:
    """The trainer that a recipe describes, and the tokenizer of its text. Raises BadInput where its parts do not fit."""
    tokens, held_out, tokenizer = texts(recipe)
    data, run = recipe.data, recipe.run
    windows, held = WindowSource(tokens, data.context), WindowSource(held_out, data.context)
    if len(windows) < data.batch:
        raise BadInput("data", f"{len(tokens)} tokens for training", f"at least one batch: {data.batch * data.context + 1}")
    budget = {k: v for k, v in recipe.budget.model_dump().items() if v is not None}
    trainer = Trainer(
        initialise(model_of(recipe, tokenizer.vocab), run.seed),
        DataStream(windows, data.batch, run.seed, drop_last=True),
        CausalLM(),
        optimizer=optimizer_of(recipe.optimizer),
        schedule=schedule_of(recipe.schedule),
        methods=[method_of(table, i, resolve) for i, table in enumerate(recipe.methods)],
        budget=Budget(**budget),
        seed=run.seed,
        clip=run.clip,
        accumulate=run.accumulate,
        evaluators={"held-out": HeldOutLoss(held, limit=256)},
        evaluate_every=run.evaluate_every,
        checkpoint_every=run.checkpoint_every,
        folder=Path(run.folder),
        device=run.device,
        precision=run.precision,
        progress=progress,
    )
    return trainer, tokenizer


def texts(recipe: Recipe) -> tuple[np.ndarray, np.ndarray, Tokenizer]:
    """Training tokens, held-out tokens and the tokenizer. A vocabulary is learnt from the training part alone where it can be."""
    data = recipe.data
    if data.corpus is not None:
        train, held = corpus(data.corpus, "train").text, corpus(data.corpus, "validation").text
    else:
        text = read_text(Path(data.text or ""))
        cut = int(len(text) * (1 - data.held_out))
        train, held = text[:cut], text[cut:]
    # Characters must cover what is measured too; a byte-pair vocabulary can encode anything.
    tokenizer = make(data.tokenizer, train + held if data.tokenizer == "character" else train, data.vocab)
    return tokenizer.encode(train), tokenizer.encode(held), tokenizer


def model_of(recipe: Recipe, vocab: int) -> nn.Module:
    table = recipe.model
    if isinstance(table, TransformerTable):
        shape = table.model_dump(exclude={"kind"})
        return Transformer(TransformerConfig(vocab=vocab, context=recipe.data.context, **shape))
    return RecurrentLM(RecurrentConfig(cell=table.kind, width=table.width, depth=table.depth, vocab=vocab))


def optimizer_of(table: OptimizerTable) -> OptimizerSpec:
    given = {k: v for k, v in table.model_dump().items() if v is not None and k != "kind"}
    if table.kind == "adamw" and "momentum" in given:
        raise BadInput("optimizer.momentum", repr(table.momentum), "no momentum with adamw; it is for sgd and muon")
    if table.kind == "muon":
        return Muon(**given, rest=AdamW(weight_decay=table.weight_decay))
    return {"adamw": AdamW, "sgd": SGD}[table.kind](**given)


def schedule_of(table: ScheduleTable) -> Schedule:
    kind = SCHEDULES[table.kind]
    given = {k: v for k, v in table.model_dump().items() if v is not None and k != "kind"}
    known = inspect.signature(kind).parameters
    for name in given:
        if name not in known:
            raise BadInput(f"schedule.{name}", repr(given[name]), f"a key of a {table.kind} schedule: {', '.join(known)}")
    return kind(**given)


def method_of(table: MethodTable, index: int, resolve: Resolve) -> Method:
    """The method that a `[[methods]]` table names, with its settings. Raises BadInput naming the key."""
    where = f"methods[{index}]"
    slug, _, name = table.use.partition(":")
    found = dict(resolve(slug))
    if not found:
        raise BadInput(f"{where}.use", f"'{slug}', which has no method to add to a run", "a paper with one (`etude show PAPER`)")
    if not name and len(found) > 1:
        raise BadInput(f"{where}.use", f"'{slug}', which has several methods", f"one of {', '.join(f'{slug}:{n}' for n in found)}")
    if name and name not in found:
        raise one_of(f"{where}.use", name, found)
    kind = found[name] if name else next(iter(found.values()))
    known = inspect.signature(kind).parameters
    for key in table.settings:
        if key not in known:
            raise one_of(f"{where}.{key}", key, known)
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in table.settings:
            raise BadInput(f"{where}.{key}", "nothing", f"a value, which {kind.__name__} needs")
    try:
        return kind(**table.settings)
    except TypeError as error:
        raise BadInput(where, str(error), f"settings of the types that {kind.__name__} takes") from error
