"""An arena as a study: its arms are a baseline and the papers that enter, its claims one an entrant, its outcome a ranking.

A run of an arm does all of the arena's work, task after task, and spends the same on each as the baseline does. A task's score is

    (worst - value) / (worst - best)        0 where the value is `worst`, 1 where it is `best`

so that tasks of different measures can be averaged; the arm's "score" is their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from etude.arenas import NAMES, PREFIX, SEPARATOR
from etude.engine.ledger import Ledger
from etude.errors import BadInput, one_of
from etude.evidence.claims import Entrant
from etude.evidence.report import TASK
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.papers.card import Card
from etude.papers.catalogue import card, cards
from etude.papers.loading import ENTRY, entry, load_methods, load_module

BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a task is judged by. worst, best: values of its measure that count as 0 and as 1; fixed beforehand, they only set a scale."""

    about: str
    worst: float
    best: float

    def score(self, value: float) -> float:
        return (self.worst - value) / (self.worst - self.best)


@dataclass(frozen=True, kw_only=True)
class Arena:
    """goals: task -> what it is judged by. enter: a card -> how a run of it goes, or why it does not enter; with None: the baseline.

    A run is given its job and returns what each task's measure came to with the ledger (`scored` makes the outcome of it).
    d: smallest difference in score of interest. controls: name -> (how a run of it goes, what it is): what no paper claims, to read the
    others by; ranked with them. code: files of the arena's own that its numbers depend on.
    """

    name: str
    question: str
    goals: Mapping[str, Goal]
    enter: Callable[[Card | None], Callable[[Job], Outcome] | str]
    scales: Mapping[str, Scale]
    d: float = 0.01
    baseline_about: str = "the same work without a method"
    plots: Sequence[Plot] = ()
    data: Sequence[str] = ()
    deviations: Sequence[tuple[str, str, str, str, str]] = ()
    controls: Mapping[str, tuple[Callable[[Job], Outcome], str]] = field(default_factory=dict)
    code: tuple[Path, ...] = ()
    planned: Callable[[Any], Mapping[str, float]] | None = field(default=None)

    @property
    def slug(self) -> str:
        return PREFIX + self.name

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(TASK + name for name in self.goals)

    def members(self) -> dict[str, Callable[[Job], Outcome] | str]:
        """slug -> how a run of it goes, or why it does not enter, for every ready paper whose card names this arena."""
        return {one.slug: self.enter(one) for one in self._cards()}

    def _cards(self) -> list[Card]:
        return [one for one in cards() if one.state == "ready" and self.name in one.arenas]

    def study(self, files: Sequence[str] = ()) -> Study:
        """files: papers that are a file of one's own, which enter beside those of the catalogue.

        Raises BadInput where nobody enters, or one of the files cannot.
        """
        base = self.enter(None)
        assert not isinstance(base, str)
        arms = {BASELINE: Arm(run=base, about=self.baseline_about, code=self.code, planned=self.planned)}
        for one, asked in [*((c, False) for c in self._cards()), *((_of_file(file), True) for file in files)]:
            run = self.enter(one)
            if not isinstance(run, str):
                arms[one.slug] = Arm(run=run, about=one.title, code=files_of(one, self.name), planned=self.planned)
            elif asked:
                raise BadInput(f"arena {self.name}, {one.word}", run, "a paper that can enter")
        if len(arms) == 1:
            raise BadInput(f"arena {self.name}", "nobody that enters", f"a paper whose card names it: arenas = ['{self.name}']")
        arms |= {name: Arm(run=run, about=about, code=self.code, planned=self.planned) for name, (run, about) in self.controls.items()}
        claims = [
            Entrant(text=f"{name} is better than the baseline over the tasks", arm=name, baseline=BASELINE, metrics=self.metrics, d=self.d)
            for name in arms
            if name != BASELINE
        ]
        places = Plot(title=f"Arena {self.name}: places over tasks and seeds", kind="custom", draw=_places)
        each = Plot(title=f"Arena {self.name}: gain over the baseline, task by task", kind="custom", draw=_gains)
        return Study(
            slug=self.slug, arms=arms, scales=self.scales, claims=claims, baseline=BASELINE, headline="score", lower_is_better=False,
            plots=[places, each, *self.plots], data=self.data, deviations=self.deviations,
            failure=dict.fromkeys(("score", *self.metrics), 0.0),
        )  # fmt: skip


def scored(arena_goals: Mapping[str, Goal], values: Mapping[str, float], **more: Any) -> Outcome:
    """The outcome of a run: each task's measure and score, and the mean score. more: the outcome's other fields."""
    scores = {TASK + name: arena_goals[name].score(value) for name, value in values.items()}
    measured = {f"measure, {name}": value for name, value in values.items()}
    more["metrics"] = {**more.get("metrics", {}), "score": float(np.mean(list(scores.values()))), **scores, **measured}
    return Outcome(**more)


def _of_file(file: str) -> Card:
    """The card of a file of one's own. A file with a method in it can be added to a recipe, as in a screen, whether or not it says so."""
    found = card(file, to_run=True)
    return replace(found, use="method") if not found.use and load_methods(found.module) else found


def files_of(found: Card, arena: str) -> tuple[Path, ...]:
    """Every file of a paper: its rule for settings decides with which it enters; its `arena.py` counts where it is for this arena."""
    file = Path(str(load_module(found).__file__)).resolve()
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return tuple(one for one in files if one.stem != ENTRY or callable(entry(found, arena)))


def added(ledgers: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The sum of ledgers, category by category."""
    total = Ledger()
    for ledger in ledgers:
        total.merge(Ledger.from_dict(ledger))
    return total.as_dict()


def _places(axes: Any, record: dict[str, Any]) -> None:
    ranked = record["ranking"]
    for row, one in enumerate(ranked):
        color = "#8a9099" if one["arm"] == record["baseline"] else "#1f6feb"
        axes.plot(one["interval"], [row, row], color=color, linewidth=2, solid_capstyle="round")
        axes.plot([one["iqm"]], [row], "o", color=color, markersize=7)
        told = f"{one['iqm']:+.4f}"
        if one["improvement"] is not None:
            low, high = one["improvement_interval"]
            told += f", better than the baseline in {one['improvement']:.0%} [{low:.0%}, {high:.0%}]"
        axes.annotate(told, (one["iqm"], row), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8, color=color)
    axes.set_yticks(range(len(ranked)), [one["arm"] for one in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.7)
    axes.margins(x=0.45)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("gain in score over the baseline: interquartile mean, 95 % interval")


def _gains(axes: Any, record: dict[str, Any]) -> None:
    base = record["arms"][record["baseline"]]["metrics"]
    tasks = list(record["ranking"][0]["tasks"])
    arms = [one["arm"] for one in record["ranking"] if one["arm"] != record["baseline"]]
    colors = ("#1f6feb", "#d9822b", "#2e8b57", "#b0419b", "#c23b3b", "#6b7280", "#00838f", "#8d6e63")
    for column, arm in enumerate(arms):
        shift = (column - (len(arms) - 1) / 2) * 0.8 / max(len(arms), 1)
        for row, task in enumerate(tasks):
            gains = np.subtract(record["arms"][arm]["metrics"][task], base[task])
            color = colors[column % len(colors)]
            axes.plot([row + shift] * len(gains), gains, "o", color=color, markersize=3, alpha=0.45, markeredgewidth=0)
            axes.plot([row + shift], [gains.mean()], "o", color=color, markersize=7, label=arm if row == 0 else None)
    axes.axhline(0, color="#8a9099", linewidth=1)
    axes.set_xticks(range(len(tasks)), [task.removeprefix(TASK) for task in tasks])
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("score beyond the baseline's, seed by seed")
    axes.legend(fontsize=8, frameon=False)


def named(name: str) -> Arena:
    """The arena of that name. Raises BadInput."""
    from importlib import import_module

    if name not in NAMES:
        raise one_of("etude arena", name, NAMES)
    return import_module(f"etude.arenas.{name}").ARENA


def study_of(word: str) -> Study:
    """How another process finds an arena's study: by its name or slug, with the files that enter after it (separated by lines)."""
    name, *files = word.split(SEPARATOR)
    return named(name.removeprefix(PREFIX)).study(files)
