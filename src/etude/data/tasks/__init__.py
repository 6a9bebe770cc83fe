"""Tasks: a seeded generator of problems and a verifier that formatting cannot fool, one file a family.

`task("countdown")` gives one, `task("reasoning-gym/zebra_puzzles")` one of reasoning-gym's. A response may be working followed by a
last line `> ANSWER`, or the answer alone; nothing else is read (`answers.py`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from etude.engine.arguments import typed
from etude.engine.protocols import Task
from etude.errors import one_of

_HOMES = {
    "addition": ("sums", "Addition"),
    "arithmetic": ("arithmetic", "Arithmetic"),
    "chains": ("chains", "Chains"),
    "constrained-strings": ("strings", "ConstrainedStrings"),
    "copying": ("sequences", "Copying"),
    "countdown": ("countdown", "Countdown"),
    "key-recall": ("recall", "KeyRecall"),
    "knights": ("knights", "Knights"),
    "lego": ("lego", "Lego"),
    "parity": ("sequences", "Parity"),
    "paths": ("paths", "Paths"),
    "sorting": ("sequences", "Sorting"),
    "sorting-hints": ("hints", "SortingHints"),
    "sudoku-4x4": ("sudoku", "Sudoku"),
    "sum-chains": ("sums", "SumChains"),
    "zebra": ("zebra", "Zebra"),
}
OTHERS = "reasoning-gym/"


def names() -> list[str]:
    """etude's own tasks. Those of reasoning-gym, where it is installed, come as "reasoning-gym/NAME" (`gym.names()`)."""
    return sorted(_HOMES)


@typed("etude.task, ")
def task(name: str, **settings: Any) -> Task:
    """The task with this name; `settings` go to its class. Raises BadInput for an unknown name (proposing a near one) or setting."""
    if name.startswith(OTHERS):
        from etude.data.tasks.gym import GymTask

        return GymTask(name.removeprefix(OTHERS), **settings)
    if name not in _HOMES:
        raise one_of("task", name, [*names(), OTHERS + "countdown"])
    module, attribute = _HOMES[name]
    kind = getattr(import_module(f"etude.data.tasks.{module}"), attribute)
    known = kind.settings()
    for given in settings:
        if given not in known:
            raise one_of(f"task {name}, setting", given, known)
    return kind(**settings)
