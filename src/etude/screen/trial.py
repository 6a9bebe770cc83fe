"""One run of a screen: a candidate in the user's recipe, at a learning rate, a budget in FLOPs and a seed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from etude.engine.protocols import Evaluator, Halved
from etude.engine.trainer import Trainer
from etude.evidence.study import Arm, Job, Outcome, Scale, Study
from etude.papers.loading import load_methods, load_models
from etude.recipe.build import build
from etude.recipe.config import parse
from etude.recipe.tables import Recipe
from etude.screen.candidates import BASELINE, Candidate
from etude.screen.halving import Arm as Named

SCALE = "cpu"
"""The scale whose seeds are the plain numbers: a run of a screen is the run that `etude train` makes of the same recipe."""


def arm_name(name: str, factor: float) -> str:
    return name if factor == 1 else f"{name}, lr x{factor:g}"


def with_budget(document: Mapping[str, Any], budget: Mapping[str, float]) -> dict[str, Any]:
    return {**copy.deepcopy(dict(document)), "budget": dict(budget)}


def with_rate(document: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The document with every optimizer's learning rate multiplied."""
    made = copy.deepcopy(dict(document))
    tables = list(made["optimizers"].values()) if "optimizers" in made else [made["optimizer"]]
    tables += [table["rest"] for table in tables if "rest" in table]
    for table in tables:
        table["lr"] = table["lr"] * factor
    return made


def trainer_of(recipe: Recipe, progress: Callable[[float, float], None] | None = None) -> Trainer[nn.Module]:
    """The trainer of a recipe with the catalogue's methods and architectures. Raises BadInput."""
    return build(recipe, load_methods, load_models, progress=progress)


def halved(evaluators: Mapping[str, Evaluator], which: int) -> dict[str, Evaluator]:
    """Those of the evaluators that can measure on half of their samples, each on that half."""
    halves = {name: one.half(which) for name, one in evaluators.items() if isinstance(one, Halved)}
    return {name: one for name, one in halves.items() if one is not None}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a phase runs, as its file says. document: the user's recipe with every default; arms: name -> (candidate, factor on
    the learning rate). flops: of each run. metric: "held-out/loss". half: of the held-out samples, 0 or 1, on which evaluators
    measure that can (`halved`); None for all samples."""

    document: Mapping[str, Any]
    arms: Mapping[str, tuple[Candidate, float]]
    flops: float
    metric: str
    lower_is_better: bool
    half: int | None = None

    def recipe(self, arm: str, seed: int, folder: Path | None) -> dict[str, Any]:
        """The document of one run."""
        candidate, factor = self.arms[arm]
        made = with_budget(with_rate(candidate.of(self.document), factor), {"flops": self.flops})
        made["run"] |= {"seed": seed, "trackers": []} | ({} if folder is None else {"folder": str(folder)})
        return made

    def as_json(self) -> str:
        arms = {name: [candidate.as_dict(), factor] for name, (candidate, factor) in self.arms.items()}
        more = {"metric": self.metric, "lower_is_better": self.lower_is_better, "half": self.half}
        return json.dumps({"document": self.document, "arms": arms, "flops": self.flops, **more}, indent=1)

    @classmethod
    def read(cls, path: Path) -> Phase:
        told = json.loads(path.read_text(encoding="utf-8"))
        arms = {name: (Candidate.from_dict(candidate), factor) for name, (candidate, factor) in told.pop("arms").items()}
        return cls(arms=arms, **told)


def names_of(arms: Mapping[Named, Candidate]) -> dict[str, tuple[Candidate, float]]:
    return {arm_name(name, factor): (candidate, factor) for (name, factor), candidate in arms.items()}


def study_of(word: str) -> Study:
    """The phase that a file describes, as a study: how the processes of a pool find it."""
    phase = Phase.read(Path(word))
    baseline = next(name for name, (candidate, _) in phase.arms.items() if candidate.name == BASELINE)
    return Study(
        slug="screen",
        arms={name: Arm(run=_train, about=candidate.name) for name, (candidate, _) in phase.arms.items()},
        scales={SCALE: Scale(settings=phase, seeds=1, size=f"{phase.flops:.3g} FLOPs a run")},
        claims=(),
        baseline=baseline,
        headline=phase.metric,
        lower_is_better=phase.lower_is_better,
        failure={phase.metric: math.inf if phase.lower_is_better else -math.inf},
    )


def _train(job: Job) -> Outcome:
    phase: Phase = job.settings
    part = job.part("run")
    recipe = parse(phase.recipe(job.arm, job.seed, part.folder), "screen")
    trainer = trainer_of(recipe, lambda share, loss: job.progress(min(share, 1.0), loss))
    if phase.half is not None:
        trainer.evaluators |= halved(trainer.evaluators, phase.half)
    result = trainer.run(resume=part.begun)
    return Outcome(
        metrics=result.metrics,
        curves={f"{phase.metric} / {x}": result.curve(phase.metric, x) for x in ("flops", "seconds")},
        ledger=result.ledger.as_dict(),
        parameters=result.parameters,
    )
