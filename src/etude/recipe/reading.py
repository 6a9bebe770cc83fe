"""What is predicted of texts, from a recipe's [objective] or [objectives.NAME]: one objective, or several that the sampler mixes.

Objectives that rearrange a text mark the places with reserved ids. Models of etude's own kinds get them after their tokenizer's ids; a
pretrained model has none to spare, so its recipe names tokens of its tokenizer (`marks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from etude.data.sources import SubsetSource
from etude.data.tokenizers import BytePairs, Marked, Tokenizer
from etude.engine.protocols import Evaluator, Metrics, Objective, Source
from etude.errors import BadInput
from etude.learn.corruption import Marks, MaskedLM, MiddleMarks, SpanCorruption, random_spans
from etude.learn.dispatch import Dispatched, ObjectiveSource
from etude.learn.finetune import Finetune
from etude.learn.infilling import Infilling
from etude.learn.language import CausalLM, HeldOutLoss
from etude.learn.prefix import PrefixLM, check_two_way
from etude.learn.unlikelihood import Unlikelihood
from etude.recipe.tables import EvaluateTable, ObjectiveTable, ReadingTable, Recipe

SENTINELS = 100
"""Most marks for spans (T5's number, arXiv 1910.10683, section 3.1.4); a row of more spans keeps the others as they are."""
RATIO, MEAN_SPAN = 0.15, 3.0
NAMES = {"spans": ("separator", "end of text", "end of span"), "infilling": ("prefix", "suffix", "middle", "end"), "masked": ("mask",)}


@dataclass(frozen=True)
class Reading:
    """objectives: by name; one is called "". two_way: the recipe's keys of those that need attention both ways. tokenizer: with the marks.
    vocab: ids that the model holds."""

    objectives: Mapping[str, Objective]
    two_way: tuple[tuple[str, str], ...]
    tokenizer: Tokenizer | None
    vocab: int

    @property
    def objective(self) -> Objective:
        return self.objectives[""] if "" in self.objectives else Dispatched(self.objectives)

    def objective_for(self, model: nn.Module) -> Objective:
        """Raises BadInput for a model whose attention cannot look both ways where that is asked for."""
        for where, kind in self.two_way:
            check_two_way(model, where, f"'{kind}'")
        return self.objective

    def source(self, source: Source) -> Source:
        """What is sampled: of several objectives, each sample once under each, and under each of its domains apart."""
        return source if "" in self.objectives else ObjectiveSource(source, list(self.objectives), within=True)

    def evaluators(self, table: EvaluateTable, held: Source, limit: int, of: str = "text") -> dict[str, Evaluator]:
        """The held-out loss of each objective, over all and by domain. Unlikelihood is measured as the likelihood that it adds to."""
        measured = {n: CausalLM() if isinstance(o, Unlikelihood) else o for n, o in self.objectives.items()}
        found: dict[str, Evaluator] = {}
        for measure in table.measures or ("loss",):
            if measure == "loss":
                found["held-out"] = Losses({"": held}, measured, limit, table.batch)
            elif measure == "domains":
                found["domains"] = Losses(parts_by_domain(held), measured, limit, table.batch)
            elif measure == "accuracy":
                raise BadInput("evaluate.measures", f"'accuracy' of {of}", "loss, domains, verifier or lm_eval:TASK")
        return found


class Losses:
    """{"loss", or DOMAIN, OBJECTIVE, DOMAIN/OBJECTIVE: mean nats per target} of each held-out part under each objective."""

    def __init__(self, parts: Mapping[str, Source], objectives: Mapping[str, Objective], limit: int, batch_size: int) -> None:
        self.each = {
            "/".join(filter(None, (part, name))) or "loss": HeldOutLoss(source, objective, limit=limit, batch_size=batch_size)
            for part, source in parts.items()
            for name, objective in objectives.items()
        }

    def half(self, which: int) -> Losses | None:
        made, parts = copy(self), {name: loss.half(which) for name, loss in self.each.items()}
        made.each = {name: part for name, part in parts.items() if part is not None}
        return made if len(made.each) == len(parts) else None

    def __call__(self, model: nn.Module) -> Metrics:
        return {name: loss(model)["loss"] for name, loss in self.each.items()}


def parts_by_domain(held: Source) -> dict[str, Source]:
    """Raises BadInput for samples without domains."""
    names = getattr(held, "domain_names", ())
    if not names:
        expected = "loss; or a corpus with domains, [data.domains.NAME], or data.domain of rows"
        raise BadInput("evaluate.measures", "'domains' where the data has none", expected)
    domains = np.asarray(held.domains)  # type: ignore[attr-defined]
    return {n: SubsetSource(held, np.flatnonzero(domains == k)) for k, n in enumerate(names) if (domains == k).any()}


def reading_of(recipe: Recipe, tokenizer: Tokenizer | None, vocab: int, context: int, *, own: bool, kind: str = "text") -> Reading:
    """own: whether the model is one of etude's own kinds, which get ids for marks. kind: of rows (`row_kinds.COLUMNS`).

    Raises BadInput for marks that are missing or unknown, and for what completions and conversations cannot be learnt by.
    """
    tables: dict[str, ObjectiveTable | ReadingTable] = dict(recipe.objectives) if recipe.objectives else {"": recipe.objective}
    marks: list[str] = []
    made: dict[str, Objective] = {}
    two_way: list[tuple[str, str]] = []
    for name, table in tables.items():
        place = f"objectives.{name}" if name else "objective"
        word = table.kind or "causal"
        if kind != "text" and word in NAMES:
            raise BadInput(f"{place}.kind", f"'{word}' for rows of the kind '{kind}'", "causal, prefix or unlikelihood; or rows of text")
        ids = _marks(table, word, place, marks, tokenizer, vocab, context, own)
        made[name] = _made(table, word, ids, vocab, completions=kind != "text")
        if word in ("prefix", "masked") or table.two_way:
            two_way.append((f"{place}.{'two_way' if table.two_way else 'kind'}", word))
    if marks and tokenizer is not None:
        tokenizer = Marked(tokenizer, marks)
    return Reading(made, tuple(two_way), tokenizer, vocab + len(marks))


def _marks(
    table: ObjectiveTable | ReadingTable, word: str, place: str, marks: list[str], tokenizer: Tokenizer | None, vocab: int, context: int,
    own: bool,
) -> list[int]:  # fmt: skip
    """The ids that an objective may use: of the tokens that the recipe names, or new ones, whose names are added to `marks`."""
    if word not in NAMES:
        return []
    if word == "spans":
        check_room(table, context, place)
    if table.marks is not None:
        least, told = len(NAMES[word]) + (word == "spans"), "the spans' marks, then " * (word == "spans") + ", ".join(NAMES[word])
        if len(table.marks) < least or (word != "spans" and len(table.marks) > least):
            raise BadInput(f"{place}.marks", f"{len(table.marks)} tokens", f"{'at least ' * (word == 'spans')}{least}: {told}")
        if not isinstance(tokenizer, BytePairs):
            raise BadInput(f"{place}.marks", "it for a tokenizer without names for tokens", "a pretrained model's or a bpe tokenizer")
        found = [tokenizer.inner.token_to_id(name) for name in table.marks]
        if None in found:
            raise BadInput(f"{place}.marks", f"'{table.marks[found.index(None)]}'", "tokens of the model's own tokenizer")
        return [int(i) for i in found if i is not None]
    if not own:
        told = "names of tokens that its tokenizer has and no text holds"
        raise BadInput(f"{place}.marks", f"nothing, for '{word}' on a pretrained model", told)
    names = [f"<{place.removeprefix('objectives.')}:{n.replace(' ', '_')}>" for n in NAMES[word]]
    if word == "spans":
        count = min(len(random_spans(context + 1, table.ratio or RATIO, table.mean_span or MEAN_SPAN, np.random.default_rng(0))), SENTINELS)
        names = [f"<{place.removeprefix('objectives.')}:span_{i}>" for i in range(count)] + names
    begin = vocab + len(marks)
    marks += names
    return list(range(begin, begin + len(names)))


def check_room(table: ObjectiveTable | ReadingTable, context: int, place: str) -> None:
    """Raises BadInput for spans that are longer than the text."""
    mean = table.mean_span or MEAN_SPAN
    most = (table.ratio or RATIO) * (context + 1)
    if mean > most:
        found = f"spans of {mean:g} tokens where {most:g} of {context + 1} are taken out"
        raise BadInput(f"{place}.mean_span", found, f"at most {most:g}, or a larger ratio or data.context")


def _made(table: ObjectiveTable | ReadingTable, word: str, ids: list[int], vocab: int, *, completions: bool) -> Objective:
    match word:
        case "prefix":
            return PrefixLM(prompts=completions)
        case "spans":
            marks = Marks(spans=ids[:-3], separator=ids[-3], end_of_text=ids[-2], end_of_span=ids[-1])
            settings: dict[str, Any] = {"ratio": table.ratio or RATIO, "mean_span": table.mean_span or MEAN_SPAN}
            return SpanCorruption(marks, prefix=bool(table.two_way), **settings)
        case "infilling":
            prefix, suffix, middle, end = ids
            return Infilling(MiddleMarks(prefix=prefix, suffix=suffix, middle=middle, end=end), table.order or "psm")
        case "masked":
            return MaskedLM(ids[0], vocab, table.ratio or RATIO)
        case "unlikelihood":
            return Unlikelihood(1.0 if table.alpha is None else table.alpha)
    return Finetune() if completions else CausalLM()
