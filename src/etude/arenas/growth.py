"""Does a model that grows while it trains beat one that is whole from the start? Three kinds of data, eight layers in the end."""

from __future__ import annotations

from pathlib import Path

from etude.arenas import recipes, work
from etude.arenas.arena import Arena
from etude.arenas.curricula import ROWS, TEXT, shaped
from etude.arenas.recipes import RecipeTask, Settings
from etude.evidence.study import Scale

DEPTH = 8
"""Two and six: what can be stacked in fours and in twos, and shared in threes and in twos."""


def tasks(width: int, steps: int) -> dict[str, RecipeTask]:
    """Those of recursion too."""
    texts = shaped(TEXT, width, DEPTH, first="english", second="code")
    return {
        "texts": RecipeTask(about="held-out loss on English and code", data=work.english_and_code, recipe=texts, steps=steps),
        "sums": RecipeTask(
            about="held-out loss on sums of two digits", data=work.sums, recipe=shaped(ROWS, width, DEPTH, context=16), steps=2 * steps,
        ),
        "sorting": RecipeTask(
            about="held-out loss on sorting", data=work.sorting, recipe=shaped(ROWS, width, DEPTH, context=40), steps=steps,
        ),
    }  # fmt: skip


def scales() -> dict[str, Scale]:
    return {
        "smoke": Scale(settings=Settings(tasks=tasks(8, 12)), seeds=1, size="10k parameters / 12 updates a task"),
        "quick": Scale(settings=Settings(tasks=tasks(24, 100)), seeds=3, size="60k parameters / 100 updates a task"),
        "cpu": Scale(settings=Settings(tasks=tasks(40, 400)), seeds=5, size="170k parameters / 400 updates a task"),
    }


ARENA = Arena(
    name="growth",
    question="Does a model that grows while it trains beat one that is whole from the start?",
    goals={name: task.goal for name, task in tasks(8, 1).items()},
    enter=recipes.entrant,
    scales=scales(),
    plots=recipes.curves(tasks(8, 1)),
    code=(Path(__file__), Path(recipes.__file__), Path(work.__file__), Path(recipes.__file__).with_name("curricula.py")),
    baseline_about="all eight layers from the start",
)
