"""Rows of a recipe: the columns of a file decide what is learnt from it. Also `etude.rows`, the same for Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.data.chat import ChatTemplate, Template, begin_of, transformers_tokenizer
from etude.data.packing import packed
from etude.data.row_fields import labels
from etude.data.row_files import RowFile, row_file
from etude.data.row_kinds import kind_of
from etude.data.row_store import RowStore, stored
from etude.data.sources import DescribedSource
from etude.data.tokenizers import Bytes, Tokenizer
from etude.engine.device import device_of
from etude.engine.ledger import Ledger
from etude.engine.protocols import Batch, Evaluator, Metrics, Objective, Source
from etude.engine.streams import halves
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.pretrained import Pretrained, tokenizer_of, vocabulary_of
from etude.learn.finetune import Finetune
from etude.learn.language import spread
from etude.learn.logprobs import frozen_copy
from etude.learn.mapped import MappedPairs, MappedRows, fitted
from etude.learn.preference import DPO, IPO, ORPO, PairLoss, Preference, SimPO
from etude.recipe.material import Material
from etude.recipe.prompts import Asker
from etude.recipe.reading import reading_of
from etude.recipe.scorers import graded
from etude.recipe.tables import PAIR_KEYS, PAIRS, READING, EvaluateTable, PretrainedTable, Recipe, RowsData

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


@dataclass(frozen=True)
class Told:
    """What each sample of a store belongs to, [N] each. domains: indices into `names`. difficulty: higher is harder."""

    domains: np.ndarray | None = None
    names: tuple[str, ...] = ()
    difficulty: np.ndarray | None = None

    def of(self, numbers: np.ndarray) -> dict[str, Any]:
        """Of some of them, for `DescribedSource` and `packed`."""
        pick = {"domains": self.domains, "difficulty": self.difficulty}
        return {"names": self.names} | {name: None if values is None else values[numbers] for name, values in pick.items()}

    @property
    def nothing(self) -> bool:
        return self.domains is None and self.difficulty is None


def told(data: RowsData, file: RowFile, store: RowStore, spent: Ledger, facts: dict[str, Any]) -> Told:
    """What the recipe asks of each row: its domain, how difficult it is. Raises BadInput naming file, line and field."""
    lines = store.lines[:: store.rows_each]
    domains, names, difficulty = None, (), None
    if data.domain is not None:
        found = labels(file, data.domain, "data.domain")
        domains, names = found.at(lines), found.names
    if data.difficulty == "length":
        difficulty = np.diff(store.offsets).reshape(len(store), store.rows_each).max(1)
    elif data.difficulty is not None:
        difficulty = graded(file, data.difficulty, spent, facts).at(lines)
    return Told(domains, names, difficulty)


def samples(
    store: RowStore, context: int, too_long: str, numbers: np.ndarray | None = None, told: Told | None = None
) -> tuple[Source, int, int]:
    """(source, dropped, cut) of some of a store's samples, all by default. Documents are packed, and cut into pieces where they must be.

    told: the source then has it. Raises BadInput for a domain without samples.
    """
    told = told or Told()
    if store.kind == "text":
        chosen = np.arange(len(store)) if numbers is None else numbers
        return packed(store, context, documents=numbers, **told.of(chosen)), 0, 0
    fit = fitted(store, context, too_long)
    kept = fit.numbers if numbers is None else np.intersect1d(fit.numbers, numbers)
    if not len(kept):
        raise BadInput(
            store.file.name, "no sample that fits in one of its parts", "shorter rows, a longer context or another data.held_out"
        )
    made = MappedPairs if store.kind == "preference" else MappedRows
    source = made(store, kept, context=context)
    return source if told.nothing else DescribedSource(source, **told.of(kept)), fit.dropped, fit.cut


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
    reader, model = reader_for(recipe)
    file, spent, facts = row_file(data.rows), Ledger(), model
    store = read_rows(file, reader)
    loss = pair_loss(recipe, store.kind)
    about = told(data, file, store, spent, facts)
    training, held_out = (None, None) if data.held_out_rows is not None else parted_samples(store, data.held_out)
    plain, dropped, cut = samples(store, data.context, data.too_long, training, about)
    if about.names:
        check_domains(data, about.names, np.asarray(plain.domains))  # type: ignore[attr-defined]
    held = None
    if data.held_out_rows is not None:
        other = read_rows(row_file(data.held_out_rows, "data.held_out_rows"), reader)
        if other.kind != store.kind:
            raise BadInput("data.held_out_rows", f"rows of the kind '{other.kind}'", f"'{store.kind}', as {data.rows}")
        beside = told(data.model_copy(update={"difficulty": None}), other.file, other, spent, {})
        held, more_dropped, more_cut = samples(other, data.context, data.too_long, told=beside)
        dropped, cut = dropped + more_dropped, cut + more_cut
    elif held_out is not None and len(held_out):
        held = samples(store, data.context, data.too_long, held_out, Told(about.domains, about.names))[0]
    if len(plain) < data.batch:
        what = "packed rows" if store.kind == "text" else "samples"
        expected = f"at least one batch of {data.batch}; more rows, or a smaller data.batch or data.held_out"
        raise BadInput(data.rows, f"{len(plain)} {what} for training", expected)
    own = not isinstance(recipe.model, PretrainedTable)
    reading = reading_of(recipe, reader.tokenizer, store.vocab, data.context, own=own, kind=store.kind) if loss is None else None
    source, vocab = (plain, store.vocab) if reading is None else (reading.source(plain), reading.vocab)
    facts |= {
        "rows": {
            "name": Path(data.rows).name, "kind": store.kind, "sha256": store.sha256, "rows": store.num_lines, "tokens": len(store.tokens),
        },
        "vocab": vocab, "samples": len(plain), "held_out_samples": 0 if held is None else len(held), "dropped": dropped, "cut": cut,
    }  # fmt: skip

    def preferred(model: nn.Module) -> Objective:
        assert loss is not None
        return Preference(loss, frozen_copy(model) if loss.needs_reference else None)

    return Material(
        source=source,
        objective=Finetune() if reading is None else reading.objective,
        objective_for=preferred if reading is None else reading.objective_for,
        evaluators={}
        if held is None or reading is None
        else reading.evaluators(recipe.evaluate, held, recipe.evaluate.limit or LIMIT, "rows"),
        evaluators_for=None if held is None or loss is None else lambda objective: _pair_evaluators(recipe.evaluate, held, objective),
        facts=facts,
        vocab=vocab,
        tokenizer=reader.tokenizer if reading is None else reading.tokenizer,
        context=data.context,
        groups=getattr(source, "domains", None),
        group_names=tuple(getattr(source, "domain_names", ())),
        spent=spent,
        asker=reader.asker,
        held_out_lines=() if held_out is None else np.unique(store.lines[held_out * store.rows_each]).tolist(),
        stop_tokens=() if reader.end is None else (reader.end,),
    )


def reader_for(recipe: Recipe) -> tuple[Reader, dict[str, Any]]:
    """What reads rows for the recipe's model, and which model it is. Models of etude's own kinds read bytes."""
    if not isinstance(recipe.model, PretrainedTable):
        return Reader(Bytes()), {}
    found = locate(recipe.model.pretrained, recipe.model.revision, "model.pretrained")
    weights = {path.name: path.stat().st_size for path in sorted(found.path.glob("*.safetensors"))}
    return reader_of(found.path, found.name), {"model": {"name": found.name, "commit": found.commit, "bytes": weights}}


def check_domains(data: RowsData, names: Sequence[str], domains: np.ndarray) -> None:
    """Raises BadInput for a domain of which nothing is left to train on. domains: of the training samples, indices into `names`."""
    counts = np.bincount(domains, minlength=len(names))
    if not counts.all():
        found = f"nothing to train on in the domain '{names[int(counts.argmin())]}' of {data.rows}"
        raise BadInput("data.domain", found, "at least one row that fits and is not held out")


def pair_loss(recipe: Recipe, kind: str) -> PairLoss | None:
    """Of preferences; None for other rows. Raises BadInput for settings that the kind of row or of loss does not have."""
    table = recipe.objective
    given = {name: value for name in PAIR_KEYS if (value := getattr(table, name)) is not None}
    if kind != "preference":
        if table.kind in PAIRS or given:
            name = "kind" if table.kind in PAIRS else next(iter(given))
            raise BadInput(f"objective.{name}", f"it for rows of the kind '{kind}'", "rows with chosen and rejected, or no such key")
        return None
    if recipe.objectives or table.kind in READING:
        place, found = ("objectives", "it") if recipe.objectives else ("objective.kind", f"'{table.kind}'")
        raise BadInput(place, f"{found} for rows with chosen and rejected", f"objective.kind of {', '.join(PAIRS)}")
    made = LOSSES[table.kind or "dpo"]
    for name in given:
        if name not in made.__dataclass_fields__:
            known = ", ".join(made.__dataclass_fields__)
            raise BadInput(f"objective.{name}", f"it for the kind '{table.kind or 'dpo'}'", f"what that has: {known}")
    return made(**given)


def _pair_evaluators(table: EvaluateTable, held: Source, objective: Objective) -> dict[str, Evaluator]:
    if "domains" in (table.measures or ()):
        raise BadInput("evaluate.measures", "'domains' of rows", "loss, accuracy, verifier or lm_eval:TASK")
    wanted = table.measures is None or not {"loss", "accuracy"}.isdisjoint(table.measures)
    return {"held-out": HeldOutPairs(held, objective, table)} if wanted else {}


class HeldOutPairs:
    """{"loss", "accuracy" (share of pairs whose chosen completion is paid more), "margin"} over held-out pairs, spread evenly."""

    def __init__(self, source: Source, objective: Objective, table: EvaluateTable) -> None:
        self.source, self.objective, self.batch_size = source, objective, table.batch
        self.limit = table.limit or LIMIT
        self.ids = spread(len(source), self.limit)

    def half(self, which: int) -> HeldOutPairs | None:
        if len(self.source) < 2:
            return None
        made, ids = copy(self), halves(len(self.source))[which]
        made.ids = ids[spread(len(ids), self.limit)]
        return made

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
