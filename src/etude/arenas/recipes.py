"""Arenas whose tasks are recipes: an entrant is what its paper's own rule makes of each recipe, at the FLOPs of the recipe as it is."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from etude.arenas.arena import Goal, added, scored
from etude.errors import BadInput
from etude.evidence.study import Job, Outcome, Plot
from etude.papers.card import Card
from etude.papers.catalogue import card
from etude.papers.suggesting import Facts
from etude.recipe.config import parse
from etude.recipe.writing import plain
from etude.screen.candidates import BARE, Candidate, candidate
from etude.screen.probe import Probe, probe
from etude.screen.trial import trainer_of, with_budget


@dataclass(frozen=True, kw_only=True)
class RecipeTask:
    """recipe: TOML text in which {folder} is where `data` has written its files. steps: updates of the recipe as it is, whose FLOPs are
    every arm's budget. metric: what is measured, worst and best: what counts as 0 and 1. told: paper -> settings that a user would
    tell it about this data (which domains are hints)."""

    about: str
    data: Callable[[Path], None]
    recipe: str
    steps: int
    metric: str = "held-out/loss"
    worst: float = 5.545  # ln 256: any byte
    best: float = 0.0
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def goal(self) -> Goal:
        return Goal(about=self.about, worst=self.worst, best=self.best)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """tasks: name -> task, in order."""

    tasks: Mapping[str, RecipeTask]


def entrant(found: Card | None) -> Callable[[Job], Outcome] | str:
    """How a paper runs in an arena of recipes, or why it does not enter: it changes no recipe."""
    if found is None:
        return partial(run, word="")
    if found.applies != "recipe":
        return f"a{'n' * (found.applies == 'analysis')} {found.applies}, which is not a change of one training run"
    if not found.use:
        return "it has nothing to add to a recipe (its study compares whole set-ups)"
    return partial(run, word=found.word)


def run(job: Job, word: str) -> Outcome:
    """All tasks, one after another. A method that a task's recipe has no use for is the baseline there; its metric "enters" counts."""
    settings: Settings = job.settings
    values: dict[str, float] = {}
    ledgers, drawn, parameters, enters = [], {}, 0, 0
    with tempfile.TemporaryDirectory(prefix="etude-arena-") as spare:
        folder = Path(spare) if job.folder is None else job.folder / "data"
        for number, (name, task) in enumerate(settings.tasks.items()):
            document, facts, flops = prepared(task, folder / name, job.seed)
            made = proposed(word, task, facts, name) if word else BARE
            enters += isinstance(made, Candidate) and bool(word)
            chosen = made if isinstance(made, Candidate) else BARE
            part = job.part(name)
            told = with_budget(chosen.of(document), {"flops": flops})
            told["run"] |= {"seed": job.seed, "folder": str(part.folder or folder / f"{name}-run")}

            def progress(share: float, loss: float, done: int = number) -> None:
                job.progress((done + min(share, 1.0)) / len(settings.tasks), loss)

            result = trainer_of(parse(told, f"arena, {name}"), progress).run(resume=part.begun)
            values[name] = result.metrics[task.metric]
            ledgers.append(result.ledger.as_dict())
            drawn[curve_of(name, task)] = result.curve(task.metric, "share")
            parameters = max(parameters, result.parameters)
    goals = {name: task.goal for name, task in settings.tasks.items()}
    return scored(goals, values, metrics={"enters": float(enters)}, ledger=added(ledgers), curves=drawn, parameters=parameters)


def prepared(task: RecipeTask, folder: Path, seed: int) -> tuple[dict[str, Any], Facts, float]:
    """Writes a task's data, and returns its recipe with every default, what a paper's rule is told, and the FLOPs of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    task.data(folder)
    told = tomllib.loads(task.recipe.replace("{folder}", folder.as_posix()))
    told["run"] = {"device": "cpu", **told.get("run", {})}
    document = plain(parse({**told, "budget": {"steps": task.steps}}, "arena"))
    first = with_budget(document, {"steps": 2})
    first["run"]["seed"] = seed
    base = probe(first)
    if not isinstance(base, Probe):
        raise BadInput("arena", base, "a recipe that trains")
    epochs = task.steps * document["data"]["batch"] * document["run"]["accumulate"] / max(base.samples, 1)
    facts = Facts(recipe=document, samples=base.samples, steps=task.steps, epochs=epochs, domains=base.domains)
    return document, facts, task.steps * base.flops


def proposed(word: str, task: RecipeTask, facts: Facts, name: str) -> Candidate | str:
    """The change that a paper makes to a task's recipe: by its rule, or with what it is told about this data; or why it makes none."""
    found = card(word)
    if found.slug in task.told:
        made = candidate(found, facts, ruled=False)
        return made if isinstance(made, str) else made.set(task.told[found.slug])
    return candidate(found, facts)


def curves(tasks: Mapping[str, RecipeTask]) -> list[Plot]:
    """How each task's measure comes down, an arm a line."""
    return [Plot(title=task.about, kind="curve", curve=curve_of(name, task), log_y=True) for name, task in tasks.items()]


def curve_of(name: str, task: RecipeTask) -> str:
    return f"{name}, {task.metric.replace('/', ' ')} / share"
