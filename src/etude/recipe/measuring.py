"""What a recipe measures by letting the model answer: a verifier's accuracy, and tasks of EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from etude.data.row_files import row_file
from etude.data.tasks.judging import Failure, VerifierFailed
from etude.engine.protocols import Evaluator, Metrics, Sampling
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.generate.harness import Harness
from etude.learn.language import spread
from etude.learn.problems import ProblemPool
from etude.learn.success import Success
from etude.recipe.material import Material
from etude.recipe.prompts import Asker, fitting, levels_of, row_pool, row_problems, task_of, task_pool, task_problems
from etude.recipe.rollouts import asker_of, generator_of
from etude.recipe.tables import HarnessTable, Recipe, RowsData, TaskData, TextData, VerifierTable
from etude.recipe.verifiers import Verifier, verifier_of

LM_EVAL = "lm_eval:"
FAILED = "failed.jsonl"
MAX_TOKENS = 128
"""Of an answer, where a recipe does not say; assumed."""


def answered(recipe: Recipe, material: Material) -> Mapping[str, Evaluator]:
    """The evaluators that let the model answer. Raises BadInput for what has no answers, no verifier, or no prompts."""
    table = recipe.evaluate
    measures = table.measures or ()
    wanted = "verifier" in measures or (table.measures is None and (table.verifier is not None or recipe.rollouts is not None))
    tasks = tuple(m.removeprefix(LM_EVAL) for m in measures if m.startswith(LM_EVAL))
    if (wanted or tasks) and not isinstance(recipe.data, TextData | RowsData | TaskData):
        raise BadInput(
            "evaluate.measures", f"'{'verifier' if wanted else LM_EVAL + tasks[0]}' of {material.kind}", "a language model's data"
        )
    for name, given, used in (("verifier", table.verifier, wanted), ("lm_eval", table.lm_eval, bool(tasks))):
        if given is not None and not used:
            raise BadInput(
                f"evaluate.{name}", "it without its measure", f"evaluate.measures with '{name}{':TASK' if name == 'lm_eval' else ''}'"
            )
    found: dict[str, Evaluator] = {}
    if wanted and (evaluator := _verifier(recipe, material)) is not None:
        found["verifier"] = evaluator
    if tasks:
        found["lm_eval"] = _harness(recipe, material, tasks)
    return found


# --- a verifier -------------------------------------------------------------------------------------------------------
def _verifier(recipe: Recipe, material: Material) -> Evaluator | None:
    """None for an on-policy run without anything held out that does not ask for it."""
    table = recipe.evaluate.verifier or VerifierTable()
    rollouts, asked = recipe.rollouts, recipe.evaluate.verifier is not None or recipe.evaluate.measures is not None
    if table.rows is not None and table.task is not None:
        raise BadInput("evaluate.verifier", "both rows and task", "one of them")
    name = table.use or (recipe.objective.verifier if table.task is None else None)
    where = "evaluate.verifier.use" if table.use is not None else "objective.verifier"
    if name is None and table.seconds is not None:
        raise BadInput("evaluate.verifier.seconds", "it for a task's own verifier", "evaluate.verifier.use beside it")
    limit = recipe.objective.verifier_seconds if table.seconds is None else table.seconds
    verifier = None if name is None else verifier_of(name, where, limit)
    asker = material.asker or asker_of(recipe)[0]
    most = table.max_tokens or (rollouts.max_tokens if rollouts is not None else MAX_TOKENS)
    pool = _pool(recipe, material, table, verifier, asker, material.context + 1 - most, most)
    if pool is None:
        if asked:
            raise BadInput("evaluate.verifier", "no prompts", "rows or task in it, or a share of the rows held out")
        return None
    stop = table.stop if table.stop is not None else rollouts.stop if rollouts is not None else ()
    sampling = Sampling(temperature=table.temperature, max_tokens=most, stop_strings=stop)
    end = material.stop_tokens or asker_of(recipe)[1]
    failures = table.failures or recipe.objective.failures or "stop"

    def evaluate(model: nn.Module) -> Metrics:
        ends = tuple(dict.fromkeys((*getattr(model, "end_tokens", ()), *end)))
        size = rollouts.batch if rollouts is not None else recipe.evaluate.batch
        success = Success(
            lambda present: generator_of(present, asker, material.context, size, None),
            pool,
            asker.tokenizer.encode,
            replace(sampling, stop_tokens=ends),
            samples=table.samples,
            seed=recipe.run.seed,
            failures=failures,
        )
        try:
            found = success(model)
        except VerifierFailed as error:
            _keep(error.failure, Path(recipe.run.folder))
            raise
        return found if len(pool.domain_names) > 1 else {k: v for k, v in found.items() if not k.startswith("solved/")}

    return evaluate


def _keep(failure: Failure, folder: Path) -> None:
    """The whole answer on which a verifier has failed, as a line of `failed.jsonl` in the run's folder, where there is one."""
    if folder.is_dir():
        with (folder / FAILED).open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"where": failure.where, "completion": failure.response, "error": failure.what}, ensure_ascii=False) + "\n"
            )


def _pool(
    recipe: Recipe, material: Material, table: VerifierTable, verifier: Verifier | None, asker: Asker, room: int, most: int
) -> ProblemPool | None:
    data = recipe.data
    why = f"data.context = {material.context} holds an answer of {most} tokens beside it"
    if table.task is not None:
        task = task_of(table.task, table.settings, "evaluate.verifier")
        levels = levels_of(task, table.difficulties, "evaluate.verifier")
        if table.chat and asker.template is None:
            raise BadInput("evaluate.verifier.chat", "it for a model without a chat template", "a pretrained model, or false")
        seed = _seed(recipe)
        problems = task_problems(task, asker, seed=seed, difficulties=levels, count=table.problems, chat=table.chat)
        for some in problems.values():
            fitting(some, asker.tokenizer, room, "error", why)
        return task_pool(task, problems, verifier)
    for key in ("settings", "difficulties"):
        if getattr(table, key) is not None:
            raise BadInput(f"evaluate.verifier.{key}", "it without a task", "evaluate.verifier.task beside it")
    if table.rows is None and material.held_out_problems is not None:
        held = material.held_out_problems
        if isinstance(data, TaskData):
            return held
        kept = [held[int(i)] for i in spread(len(held), table.limit)]
        assert verifier is not None
        return row_pool(held.domain_names[0], fitting(kept, asker.tokenizer, room, "error", why)[0], verifier)
    source, numbers = _held_out(data, material, table)
    if source is None:
        return None
    if verifier is None:
        expected = "'my_module:score' or './my_verifier.py:score', or a task"
        raise BadInput("evaluate.verifier.use", "nothing", expected)
    file = row_file(source, "evaluate.verifier.rows")
    problems = list(row_problems(file, asker, verifier, numbers))
    if numbers is None:
        problems = [problems[int(i)] for i in spread(len(problems), table.limit)] if problems else []
    too_long = data.too_long if isinstance(data, RowsData) and table.rows is None else "error"
    return row_pool(file.name, fitting(problems, asker.tokenizer, room, too_long, why)[0], verifier)


def _held_out(data: Any, material: Material, table: VerifierTable) -> tuple[str | None, frozenset[int] | None]:
    """(a file of prompts, the lines of it that are asked; None for all)."""
    if table.rows is not None:
        return table.rows, None
    if isinstance(data, RowsData) and data.held_out_rows is not None:
        return data.held_out_rows, None
    lines = material.held_out_lines
    if not isinstance(data, RowsData) or not len(lines):
        return None, None
    return data.rows, frozenset(int(lines[i]) for i in spread(len(lines), table.limit))


def _seed(recipe: Recipe) -> int:
    return derive(recipe.run.seed, "problems to measure on")


# --- lm-evaluation-harness --------------------------------------------------------------------------------------------
def _harness(recipe: Recipe, material: Material, tasks: tuple[str, ...]) -> Evaluator:
    table = recipe.evaluate.lm_eval or HarnessTable()
    asker, end = (material.asker, material.stop_tokens) if material.asker is not None else asker_of(recipe)[:2]
    if table.chat and asker.template is None:
        raise BadInput("evaluate.lm_eval.chat", "it for a model without a chat template", "a pretrained model, or false")
    try:
        return Harness(
            material.tokenizer or asker.tokenizer,
            tasks,
            context=material.context,
            end=end,
            include=table.include,
            shots=table.shots,
            limit=table.limit,
            batch_size=recipe.evaluate.batch,
            template=asker.template() if table.chat and asker.template is not None else None,
            seed=recipe.run.seed,
        )
    except BadInput as error:
        keys = {"tasks": "evaluate.measures", "include": "evaluate.lm_eval.include"}
        raise (error.at(keys[error.where]) if error.where in keys else error) from error
