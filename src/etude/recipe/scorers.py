"""How difficult a sample is, by a user's own function: `difficulty = "./hard.py:words"`.

    def words(text): ...              the row's fields by their names; of text files and corpora there is `text` alone
    def words(row): ...               `row` is the whole row

It runs in this process, once for each sample before training; the calls and their seconds are charged to the ledger as "prepare".
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.data.row_fields import Field, numbers
from etude.data.row_files import RowFile
from etude.engine.ledger import Ledger
from etude.errors import BadInput
from etude.recipe.verifiers import ALL, imported

EXPECTED = "'my_module:difficulty' or './my_scorer.py:difficulty'"


@dataclass(frozen=True)
class Scorer:
    """name: as the recipe has it. sha256: of its file. takes: the fields that it is given; needs: those that it cannot do without."""

    name: str
    function: Callable[..., Any]
    sha256: str
    takes: tuple[str, ...]
    needs: tuple[str, ...]

    def scores(self, rows: Iterable[tuple[str, Mapping[str, Any]]], spent: Ledger) -> np.ndarray:
        """[N] of (place, row) pairs. Raises BadInput naming the place for a missing field, a scorer that raises, or no finite number."""
        found, begun = [], time.perf_counter()
        for where, row in rows:
            for field in self.needs:
                if field not in row:
                    raise BadInput(f"{where}, field '{field}'", "nothing", f"it: {self.name} asks for it")
            given = {k: v for k, v in row.items() if k in self.takes}
            if ALL in self.takes and ALL not in given:
                given[ALL] = dict(row)
            try:
                value = self.function(**given)
            except Exception as error:
                raise BadInput(f"{self.name} of {where}", f"{type(error).__name__}: {error}", "a number") from error
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
                raise BadInput(f"{self.name} of {where}", repr(value)[:100], "a finite number")
            found.append(float(value))
        spent.charge("prepare", calls=len(found), seconds=time.perf_counter() - begun)
        return np.array(found)

    @property
    def facts(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}


def graded(file: RowFile, difficulty: str, spent: Ledger, facts: dict[str, Any]) -> Field:
    """How difficult each row of a file is: by a field of that name, or by a scorer, which `facts` are then told of.

    Raises BadInput naming file and line, as `row_fields.numbers` and `Scorer.scores` do.
    """
    if ":" not in difficulty:
        return numbers(file, difficulty, "data.difficulty")
    scorer = scorer_of(difficulty, "data.difficulty")
    facts["difficulty"] = scorer.facts
    lines = np.array([number for number, _ in file.rows()], dtype=np.int64)
    return Field(lines, scorer.scores(((file.where(number), row) for number, row in file.rows()), spent))


def scorer_of(name: str, where: str) -> Scorer:
    """Imports "my_module:difficulty" (also from the working folder) or "./my_scorer.py:difficulty". Raises BadInput where that fails."""
    function, sha256 = imported(name, where, EXPECTED)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise BadInput(where, f"'{name}', whose parameters cannot be read ({error})", "a function written in Python") from None
    if inspect.iscoroutinefunction(function):
        raise BadInput(where, f"'{name}', which is asynchronous", "a plain function")
    own = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not own:
        raise BadInput(where, f"'{name}', which takes no field", "a function such as difficulty(text) or difficulty(row)")
    needs = tuple(p.name for p in own if p.default is p.empty and p.name != ALL)
    return Scorer(name, function, sha256, tuple(p.name for p in own), needs)
