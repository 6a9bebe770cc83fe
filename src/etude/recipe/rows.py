"""Rows of a recipe: the columns of a file decide what is learnt from it. Also `etude.rows`, the same for Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.data.chat import ChatTemplate, Template, begin_of, transformers_tokenizer
from etude.data.packing import PackedSource
from etude.data.row_files import RowFile, row_file
from etude.data.row_kinds import kind_of
from etude.data.row_store import RowStore, stored
from etude.data.tokenizers import Tokenizer
from etude.engine.device import device_of
from etude.engine.protocols import Batch, Evaluator, Metrics, Objective, Source
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.pretrained import Pretrained, tokenizer_of, vocabulary_of
from etude.learn.finetune import Finetune
from etude.learn.language import CausalLM, HeldOutLoss
from etude.learn.logprobs import frozen_copy
from etude.learn.mapped import MappedPairs, MappedRows, fitted
from etude.learn.preference import DPO, IPO, ORPO, PairLoss, Preference, SimPO
from etude.recipe.material import Material
from etude.recipe.prompts import Asker
from etude.recipe.tables import EvaluateTable, ObjectiveTable, PretrainedTable, Recipe, RowsData

LIMIT = 256
"""Held-out samples that are measured, where a recipe does not say."""
LOSSES: Mapping[str, type[DPO] | type[IPO] | type[ORPO] | type[SimPO]] = {"dpo": DPO, "ipo": IPO, "orpo": ORPO, "simpo": SimPO}


@dataclass(frozen=True)
class Reader:
    """What reads rows for a model. end: the id that closes a text. template: made when messages are met; None has no tokenizer of
    transformers'. begin: id and text of the token before a text, where the model has one."""

    tokenizer: Tokenizer
    end: int | None = None
    template: Callable[[], Template] | None = None
    begin: tuple[int, str] | None = None

    @property
    def asker(self) -> Asker:
        return Asker(self.tokenizer, self.template, "" if self.begin is None else self.begin[1])


def reader_of(folder: Path, name: str) -> Reader:
    """Of a model folder: its tokenizer, its end token and its chat template. Raises BadInput for tokens that the model does not hold."""
    inner, tokenizer = transformers_tokenizer(folder), tokenizer_of(folder)
    vocab = vocabulary_of(folder)
    if vocab is not None:
        where = f"the tokenizer of {name}"
        if tokenizer.vocab > vocab:
            raise BadInput(where, f"a vocabulary of {tokenizer.vocab} tokens", f"at most the {vocab} of the model")
        used = f"{inner.eos_token} {inner.chat_template or ''}"
        for token, number in inner.get_added_vocab().items():
            if number >= vocab and token in used:
                found = f"'{token}' as number {number}, in the chat template or the end of texts"
                raise BadInput(where, found, f"numbers below the {vocab} of the model (`resize_token_embeddings` makes room)")
    return Reader(tokenizer, inner.eos_token_id, lambda: ChatTemplate(inner, name), begin_of(inner))


def read_rows(file: RowFile, reader: Reader) -> RowStore:
    """Raises BadInput as `stored` does."""
    template = reader.template() if reader.template is not None and conversational(file) else None
    begin = None if reader.begin is None else reader.begin[0]
    return stored(file, reader.tokenizer, template=template, begin=begin, end=reader.end)


def conversational(file: RowFile) -> bool:
    """Whether the first row holds messages."""
    for number, row in file.rows():
        kind = kind_of(row, file.where(number))
        return isinstance(row[{"preference": "chosen"}.get(kind, kind)], list)
    return False


def samples(store: RowStore, context: int, too_long: str, numbers: np.ndarray | None = None) -> tuple[Source, int, int]:
    """(source, dropped, cut) of some of a store's samples, all by default. Documents are packed, and cut into pieces where they must be."""
    if store.kind == "text":
        return PackedSource(store, context, documents=numbers), 0, 0
    fit = fitted(store, context, too_long)
    kept = fit.numbers if numbers is None else np.intersect1d(fit.numbers, numbers)
    if not len(kept):
        raise BadInput(
            store.file.name, "no sample that fits in one of its parts", "shorter rows, a longer context or another data.held_out"
        )
    made = MappedPairs if store.kind == "preference" else MappedRows
    return made(store, kept, context=context), fit.dropped, fit.cut


def parted(count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers for training and held out, these spread evenly; at least one of each where there are two and a share above 0."""
    numbers = np.arange(count)
    held = np.floor((numbers + 1) * share) > np.floor(numbers * share)
    if share and not held.any():
        held[-1] = True
    return numbers[~held], numbers[held]


def parted_samples(store: RowStore, share: float) -> tuple[np.ndarray, np.ndarray]:
    """As `parted`, by the file's rows: samples of one conversation stay on one side."""
    lines = store.lines[:: store.rows_each]
    row = np.cumsum(np.diff(lines, prepend=lines[:1]) != 0)
    held = np.isin(row, parted(int(row[-1]) + 1, share)[1])
    return np.flatnonzero(~held), np.flatnonzero(held)


def rows_material(recipe: Recipe, data: RowsData) -> Material:
    """Raises BadInput for rows that are wrong or too long, fewer than a batch, or an objective that does not fit them."""
    assert isinstance(recipe.model, PretrainedTable)
    found = locate(recipe.model.pretrained, recipe.model.revision, "model.pretrained")
    reader = reader_of(found.path, found.name)
    store = read_rows(row_file(data.rows), reader)
    loss = pair_loss(recipe.objective, store.kind)
    training, held_out = (None, None) if data.held_out_rows is not None else parted_samples(store, data.held_out)
    source, dropped, cut = samples(store, data.context, data.too_long, training)
    held = None
    if data.held_out_rows is not None:
        other = read_rows(row_file(data.held_out_rows, "data.held_out_rows"), reader)
        if other.kind != store.kind:
            raise BadInput("data.held_out_rows", f"rows of the kind '{other.kind}'", f"'{store.kind}', as {data.rows}")
        held, more_dropped, more_cut = samples(other, data.context, data.too_long)
        dropped, cut = dropped + more_dropped, cut + more_cut
    elif held_out is not None and len(held_out):
        held = samples(store, data.context, data.too_long, held_out)[0]
    if len(source) < data.batch:
        what = "packed rows" if store.kind == "text" else "samples"
        expected = f"at least one batch of {data.batch}; more rows, or a smaller data.batch or data.held_out"
        raise BadInput(data.rows, f"{len(source)} {what} for training", expected)
    weights = {path.name: path.stat().st_size for path in sorted(found.path.glob("*.safetensors"))}
    facts = {
        "rows": {
            "name": Path(data.rows).name, "kind": store.kind, "sha256": store.sha256, "rows": store.num_lines, "tokens": len(store.tokens),
        },
        "model": {"name": found.name, "commit": found.commit, "bytes": weights},
        "vocab": store.vocab, "samples": len(source), "held_out_samples": 0 if held is None else len(held), "dropped": dropped, "cut": cut,
    }  # fmt: skip
    return Material(
        source=source,
        objective=CausalLM() if store.kind == "text" else Finetune(),
        objective_for=None if loss is None else lambda model: Preference(loss, frozen_copy(model) if loss.needs_reference else None),
        evaluators={} if held is None or loss is not None else _evaluators(recipe.evaluate, held, store.kind),
        evaluators_for=None if held is None or loss is None else lambda objective: _pair_evaluators(recipe.evaluate, held, objective),
        facts=facts,
        vocab=store.vocab,
        tokenizer=reader.tokenizer,
        context=data.context,
        asker=reader.asker,
        held_out_lines=() if held_out is None else np.unique(store.lines[held_out * store.rows_each]).tolist(),
        stop_tokens=() if reader.end is None else (reader.end,),
    )


def pair_loss(table: ObjectiveTable, kind: str) -> PairLoss | None:
    """Of preferences; None for other rows. Raises BadInput for settings that the kind of row or of loss does not have."""
    given = {name: value for name in ("beta", "gamma", "weight", "normalised") if (value := getattr(table, name)) is not None}
    if kind != "preference":
        if table.kind is not None or given:
            name = "kind" if table.kind is not None else next(iter(given))
            raise BadInput(f"objective.{name}", f"it for rows of the kind '{kind}'", "rows with chosen and rejected, or no such key")
        return None
    made = LOSSES[table.kind or "dpo"]
    for name in given:
        if name not in made.__dataclass_fields__:
            known = ", ".join(made.__dataclass_fields__)
            raise BadInput(f"objective.{name}", f"it for the kind '{table.kind or 'dpo'}'", f"what that has: {known}")
    return made(**given)


def _evaluators(table: EvaluateTable, held: Source, kind: str) -> dict[str, Evaluator]:
    for measure in table.measures or ("loss",):
        if measure in ("domains", "accuracy"):
            raise BadInput("evaluate.measures", f"'{measure}' of rows", "loss, verifier or lm_eval:TASK")
    if "loss" not in (table.measures or ("loss",)):
        return {}
    objective = None if kind == "text" else Finetune()
    return {"held-out": HeldOutLoss(held, objective, limit=table.limit or LIMIT, batch_size=table.batch)}


def _pair_evaluators(table: EvaluateTable, held: Source, objective: Objective) -> dict[str, Evaluator]:
    if "domains" in (table.measures or ()):
        raise BadInput("evaluate.measures", "'domains' of rows", "loss, accuracy, verifier or lm_eval:TASK")
    wanted = table.measures is None or not {"loss", "accuracy"}.isdisjoint(table.measures)
    return {"held-out": HeldOutPairs(held, objective, table)} if wanted else {}


class HeldOutPairs:
    """{"loss", "accuracy" (share of pairs whose chosen completion is paid more), "margin"} over held-out pairs, spread evenly."""

    def __init__(self, source: Source, objective: Objective, table: EvaluateTable) -> None:
        self.source, self.objective, self.batch_size = source, objective, table.batch
        count = min(len(source), table.limit or LIMIT)
        self.ids = np.linspace(0, len(source) - 1, count).round().astype(np.int64)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Metrics:
        sums = dict.fromkeys(("loss", "accuracy", "margin"), 0.0)
        for start in range(0, len(self.ids), self.batch_size):
            ids = self.ids[start : start + self.batch_size]
            output = self.objective(model, Batch(self.source.get(ids), ids).to(device_of(model)))
            sums["loss"] += float(output.loss) * len(ids)
            for name in ("accuracy", "margin"):
                sums[name] += float(output.signals[name]) * len(ids)
        return {name: total / len(self.ids) for name, total in sums.items()}


# --- Python -----------------------------------------------------------------------------------------------------------
def rows(path: str | Path, *, tokenizer: Any, context: int = 512, too_long: str = "error", end: int | None = None) -> Source:
    """Rows of a JSONL or Parquet file or a `datasets` folder as a `Source` for `etude.train`, whose columns decide the objective:
    `text`; `prompt` and `completion`; `messages`; `prompt`, `chosen` and `rejected`.

    tokenizer: a transformers folder or an id of the Hub, with its chat template and end token; a model of `pretrained`; or an etude
    tokenizer. end: the id that closes documents and completions, where the tokenizer's own is not meant. context: most tokens a row.
    too_long: "error", "drop" or "cut". Raises BadInput naming file, line and field.
    """
    if isinstance(tokenizer, str | Path):
        found = locate(str(tokenizer), None, "tokenizer")
        reader = reader_of(found.path, found.name)
    elif isinstance(tokenizer, Pretrained):
        if tokenizer.tokenizer is None:
            raise BadInput("tokenizer", "a model without one", "a model folder with tokenizer.json")
        reader = reader_of(Path(tokenizer.inner.config._name_or_path), tokenizer.inner.config._name_or_path)
    else:
        reader = Reader(tokenizer)
    store = read_rows(row_file(path, "rows"), replace(reader, end=reader.end if end is None else end))
    return samples(store, context, too_long)[0]


def objective_of(source: Source, model: nn.Module) -> Objective | None:
    """The objective of rows, by their kind: DPO against a frozen copy of the model for preferences. None for other sources."""
    match source:
        case MappedRows():
            return Finetune()
        case MappedPairs():
            return Preference(DPO(), None if source.reference is not None else frozen_copy(model))
    return None
