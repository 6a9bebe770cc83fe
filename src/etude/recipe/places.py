"""Where a mistake in a recipe was made: at a key of the file, or on the command line that changed it. No torch here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from etude.errors import BadInput
from etude.recipe.tables import Recipe, RunTable

OF_THE_TRAINER = {name: f"run.{name}" for name in RunTable.model_fields} | {"batch_size": "data.batch", "context": "data.context"}
"""What the engine calls its settings -> the recipe's key."""


class Places:
    """file: the recipe's name as errors show it. changed: the dotted keys that the command line sets."""

    def __init__(self, file: str, changed: Iterable[str] = ()) -> None:
        self.file, self.changed = file, tuple(changed)

    def of(self, place: str) -> str:
        """ "r.toml, methods[0].at"; "command line, methods.0.at" where that is what the command line sets, or set something in.

        Two keys of a table that do not go together ("model.width and heads") are both named, each at its place.
        """
        first, both, second = place.partition(" and ")
        if both:
            one, other = self.of(first), self.of(f"{first.rpartition('.')[0]}.{second}")
            source = one.partition(", ")[0] + ", "
            return f"{one} and {other.removeprefix(source)}"
        dotted = re.sub(r"\[(\d+)\]", r".\1", place)
        table = dotted.rpartition(".")[0]
        for key in self.changed:
            inside, around = dotted == key or dotted.startswith(f"{key}."), key.startswith(f"{dotted}.")
            if inside or around or key in (f"{table}.kind", f"{table}.use"):
                return f"command line, {dotted}"
        return f"{self.file}, {place}"

    def of_all(self, keys: Iterable[str]) -> str:
        """The command line where it alone sets all of these keys, else the file."""
        by_line = all(any(key == c or key.startswith(f"{c}.") for c in self.changed) for key in keys)
        return "command line" if by_line else self.file

    def located(self, error: BadInput, methods: Sequence[Any] = ()) -> BadInput:
        """An error of a part that the recipe made, at the recipe's key; one at a file or elsewhere as it is.

        methods: in the order of the recipe's [[methods]]. They, and their parts, name themselves by their classes.
        """
        where = error.where
        head = re.split(r"[.\[,:( ]", where, maxsplit=1)[0]
        if head in Recipe.model_fields:
            return error.at(self.of(where))
        if head in OF_THE_TRAINER:
            return error.at(self.of(OF_THE_TRAINER[head] + where[len(head) :]))
        for i, method in enumerate(methods):
            if head == method.name:
                return error.at(self.of(f"methods[{i}]{where[len(head) :]}"))
        takers = [i for i, m in enumerate(methods) if where in inspect.signature(type(m).__init__).parameters]
        return error.at(self.of(f"methods[{takers[0]}].{where}")) if len(takers) == 1 else error
