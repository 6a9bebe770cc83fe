"""On-policy objectives of a recipe: GRPO, Dr. GRPO, DAPO, REINFORCE and RLOO on a file's prompts or a task's problems."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from etude.data.row_fields import labels
from etude.data.row_files import row_file
from etude.data.tokenizers import Bytes
from etude.engine.ledger import Ledger
from etude.engine.protocols import Sampler, Sampling, Stream
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.local import LocalGenerator
from etude.learn.advantages import Overlong
from etude.learn.estimators import GroupAdvantages
from etude.learn.logprobs import frozen_copy
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import DAPO, GRPO, REINFORCE, PolicyConfig, PolicyGradient, dr_grpo
from etude.learn.problems import ProblemPool
from etude.learn.rollouts import Collector
from etude.learn.round import Group, RoundConfig, informative
from etude.recipe.material import Material
from etude.recipe.prompts import (
    Asker,
    fitting,
    held_out_seed,
    levels_of,
    row_pool,
    row_problems,
    task_of,
    task_pool,
    task_problems,
)
from etude.recipe.rows import check_domains, parted, reader_of
from etude.recipe.scorers import graded
from etude.recipe.tables import ObjectiveTable, PretrainedTable, Recipe, RolloutsTable, RowsData, TaskData
from etude.recipe.verifiers import Verifier, verifier_of

Note = Callable[[str], None]
"""Told in a few words how a round goes."""

CONFIGS: Mapping[str, PolicyConfig] = {"grpo": GRPO, "dapo": DAPO, "reinforce": REINFORCE, "rloo": REINFORCE}
ESTIMATORS = {
    "grpo": GroupAdvantages(), "dr-grpo": GroupAdvantages(by_std=False), "dapo": GroupAdvantages(),
    "reinforce": GroupAdvantages(baseline="batch", by_std=False), "rloo": GroupAdvantages(baseline="leave-one-out", by_std=False),
}  # fmt: skip
DRAWS = 4
"""How often DAPO draws again for groups that are paid unalike, where the recipe does not say; assumed."""


def policy_config(table: ObjectiveTable, max_tokens: int) -> PolicyConfig:
    """Raises BadInput for settings that the kind does not have."""
    kind = str(table.kind)
    config = dr_grpo(max_tokens) if kind == "dr-grpo" else CONFIGS[kind]
    given = {name: value for name in ("kl", "clip_low", "clip_high", "entropy") if (value := getattr(table, name)) is not None}
    for name in given:
        if name.startswith("clip") and config.surrogate != "clip":
            raise BadInput(f"objective.{name}", f"it for the kind '{kind}'", "one of kl and entropy: it has no ratio to clip")
    return replace(config, **given)


def rollouts_material(recipe: Recipe, data: RowsData | TaskData) -> Material:
    """Raises BadInput for prompts that are wrong or too long, a verifier that cannot be used, or settings that do not go together."""
    table, objective = recipe.rollouts, recipe.objective
    assert table is not None
    asker, end, facts = asker_of(recipe)
    config = policy_config(objective, table.max_tokens)
    _check_draws(table, str(objective.kind))
    limit = objective.verifier_seconds
    if objective.verifier is None and limit is not None:
        raise BadInput("objective.verifier_seconds", "it for a task's own verifier", "objective.verifier beside it")
    verifier = None if objective.verifier is None else verifier_of(objective.verifier, "objective.verifier", limit)
    if verifier is not None:
        facts["verifier"] = verifier.facts
    room = data.context + 1 - table.max_tokens
    if room < 1:
        raise BadInput("data.context", repr(data.context), f"more than rollouts.max_tokens, {table.max_tokens}")
    parts = _of_rows if isinstance(data, RowsData) else _of_task
    spent = Ledger()
    training, held_out = parts(recipe, data, asker, verifier, room, facts, spent)  # type: ignore[arg-type]
    sampling = Sampling(temperature=table.temperature, max_tokens=table.max_tokens, stop_tokens=end, stop_strings=table.stop)
    failures = objective.failures or "stop"

    def stream_for(model: nn.Module, sampler: Sampler, note: Note | None) -> Stream:
        shaping = [Overlong(max_tokens=table.max_tokens, margin=table.overlong)] if table.overlong else []
        ends = replace(sampling, stop_tokens=tuple(dict.fromkeys((*getattr(model, "end_tokens", ()), *end))))
        rules = Collector(training, asker.tokenizer, ends, context=data.context, shaping=shaping, failures=failures)
        said = _Said(note)
        return RolloutStream(
            lambda present: generator_of(present, asker, data.context, table.batch, said.generating),
            rules,
            RoundConfig(
                prompts=min(table.prompts, len(training)), samples=table.samples, epochs=table.epochs, minibatch=data.batch,
                max_draws=(table.max_draws or DRAWS) if objective.kind == "dapo" else 1,
            ),
            seed=recipe.run.seed,
            advantages=ESTIMATORS[str(objective.kind)],
            reference=frozen_copy(model) if config.kl else None,
            keep=informative if objective.kind == "dapo" else None,
            sampler=sampler,
            watch=said.round,
        )  # fmt: skip

    try:
        ESTIMATORS[str(objective.kind)].check(table.samples)
    except BadInput as error:
        raise error.at(f"rollouts.{error.where}") from error
    vocab = asker.tokenizer.vocab
    facts |= {"vocab": vocab, "samples": len(training), "held_out_samples": len(held_out) if held_out else 0}
    return Material(
        source=training,
        objective=PolicyGradient(config),
        evaluators={},
        facts=facts,
        vocab=vocab,
        tokenizer=asker.tokenizer,
        context=data.context,
        groups=training.domains,
        group_names=tuple(training.domain_names),
        stream_for=stream_for,
        asker=asker,
        held_out_problems=held_out,
        stop_tokens=end,
        spent=spent,
    )


def generator_of(model: nn.Module, asker: Asker, context: int, batch_size: int, progress: Callable[[float], None] | None) -> LocalGenerator:
    """With a ledger of its own, so that the stream may charge what it counts."""
    return LocalGenerator(model, asker.tokenizer, context=context, batch_size=batch_size, ledger=Ledger(), progress=progress)


def asker_of(recipe: Recipe) -> tuple[Asker, tuple[int, ...], dict[str, Any]]:
    """(how prompts reach the model, its tokenizer's end token, which model it is). Models of etude's own kinds read bytes."""
    if not isinstance(recipe.model, PretrainedTable):
        return Asker(Bytes()), (), {}
    found = locate(recipe.model.pretrained, recipe.model.revision, "model.pretrained")
    reader = reader_of(found.path, found.name)
    weights = {path.name: path.stat().st_size for path in sorted(found.path.glob("*.safetensors"))}
    facts = {"model": {"name": found.name, "commit": found.commit, "bytes": weights}}
    return reader.asker, () if reader.end is None else (reader.end,), facts


def _check_draws(table: RolloutsTable, kind: str) -> None:
    for name in ("max_draws", "overlong"):
        if getattr(table, name) is not None and kind != "dapo":
            raise BadInput(f"rollouts.{name}", f"it for the kind '{kind}'", "objective.kind = 'dapo', or no such key")
    if table.overlong is not None and table.overlong > table.max_tokens:
        raise BadInput("rollouts.overlong", repr(table.overlong), f"at most rollouts.max_tokens, {table.max_tokens}")


def _of_rows(
    recipe: Recipe, data: RowsData, asker: Asker, verifier: Verifier, room: int, facts: dict[str, Any], spent: Ledger
) -> tuple[ProblemPool, ProblemPool | None]:
    assert recipe.rollouts is not None
    if data.too_long == "cut":
        raise BadInput("data.too_long", "'cut' for prompts", "error or drop: a prompt without its end is another prompt")
    why = f"data.context = {data.context} holds a response of rollouts.max_tokens = {recipe.rollouts.max_tokens} beside it"
    file = row_file(data.rows)
    names = () if data.domain is None else labels(file, data.domain, "data.domain").names
    problems, dropped = fitting(list(row_problems(file, asker, verifier)), asker.tokenizer, room, data.too_long, why)
    training, held = problems, None
    if data.held_out_rows is not None:
        other = row_file(data.held_out_rows, "data.held_out_rows")
        held, more = fitting(list(row_problems(other, asker, verifier)), asker.tokenizer, room, data.too_long, why)
        dropped += more
        facts["held_out_rows"] = {"name": Path(data.held_out_rows).name, "sha256": other.sha256()}
    elif data.held_out:
        train_numbers, held_numbers = parted(len(problems), data.held_out)
        training, held = [problems[i] for i in train_numbers], [problems[i] for i in held_numbers]
    if not training:
        raise BadInput(data.rows, "no prompt left for training", "more rows, or data.held_out = 0")
    tokens = sum(len(asker.tokenizer.encode(p.prompt)) for p in problems)
    name = Path(data.rows).name
    facts["rows"] = {"name": name, "kind": "prompt", "sha256": file.sha256(), "rows": len(problems), "tokens": tokens}
    facts["dropped"] = dropped
    pool = row_pool(name, training, verifier, data.domain)
    if names:
        check_domains(data, names, np.array([names.index(n) for n in pool.domain_names]))
    if data.difficulty == "length":
        pool.difficulty = np.array([len(asker.tokenizer.encode(pool[i].prompt)) for i in range(len(pool))], dtype=np.float64)
    elif data.difficulty is not None:
        found = graded(file, data.difficulty, spent, facts)
        each = {file.where(int(line)): value for line, value in zip(found.lines, found.values, strict=True)}
        pool.difficulty = np.array([each[pool[i].id] for i in range(len(pool))])
    return pool, row_pool(name, held, verifier) if held else None


def _of_task(
    recipe: Recipe, data: TaskData, asker: Asker, verifier: Verifier | None, room: int, facts: dict[str, Any], spent: Ledger
) -> tuple[ProblemPool, ProblemPool | None]:
    assert recipe.rollouts is not None
    if data.chat and asker.template is None:
        raise BadInput("data.chat", "it for a model without a chat template", "a pretrained model, or false")
    task = task_of(data.task, data.settings, "data")
    levels = levels_of(task, data.difficulties, "data")
    why = f"data.context = {data.context} holds a response of rollouts.max_tokens = {recipe.rollouts.max_tokens} beside it"
    seed = recipe.run.seed
    held = task_problems(
        task, asker, seed=held_out_seed(seed), difficulties=levels, count=data.held_out_problems, chat=data.chat
    )  # fmt: skip
    asked = {p.prompt for some in held.values() for p in some}
    training = task_problems(task, asker, seed=seed, difficulties=levels, count=data.problems, chat=data.chat, without=asked)
    for some in (*held.values(), *training.values()):
        fitting(some, asker.tokenizer, room, "error", why)
    asked_of = [problem for some in training.values() for problem in some]
    facts["task"] = {
        "name": task.name, "difficulties": list(levels), "problems": {str(k): len(v) for k, v in training.items()},
        # Another release of a task's package may draw other problems of the same seed.
        "sha256": hashlib.sha256(json.dumps([[p.prompt, p.answer] for p in asked_of]).encode()).hexdigest(),
        "tokens": sum(len(asker.tokenizer.encode(p.prompt)) for p in asked_of),
    }  # fmt: skip
    return task_pool(task, training, verifier), task_pool(task, held, verifier)


class _Said:
    """What the rounds have come to, for the progress line."""

    def __init__(self, note: Note | None) -> None:
        self.note, self.last, self.failed = note, "", 0

    def generating(self, share: float) -> None:
        if self.note is not None and share < 1:
            self.note(f"{self.last}  generating {share:.0%}".strip())

    def round(self, groups: Sequence[Group]) -> None:
        self.failed += sum(bool(rollout.error) for group in groups for rollout in group.rollouts)
        self.last = f"reward {np.mean([group.rewards.mean() for group in groups]):.3f}"
        if self.failed:
            self.last += f"  {self.failed} failures of the verifier"
        if self.note is not None:
            self.note(self.last)
