"""One more field of users' rows: the domain that a row belongs to, or how difficult it is. What is missing is named by file and line.

Shapes: R rows of a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.data.row_files import RowFile
from etude.errors import BadInput, nearest

LONGEST = 200
"""Characters of a domain's name."""


@dataclass(frozen=True)
class Field:
    """lines: [R] where each row stands, rising. values: [R] numbers, or indices into `names`."""

    lines: np.ndarray
    values: np.ndarray
    names: tuple[str, ...] = ()

    def at(self, lines: np.ndarray) -> np.ndarray:
        """The values of the rows that stand at these lines."""
        return self.values[np.searchsorted(self.lines, lines)]


def labels(file: RowFile, field: str, where: str) -> Field:
    """A domain a row: a text, a whole number or a truth value; names in the order in which they first come.

    where: the recipe's key, for errors. Raises BadInput naming file, line and field for a row without it, or with something else in it.
    """
    names: dict[str, int] = {}
    lines, values = [], []
    for line, value in _values(file, field, where):
        if isinstance(value, float | list | dict) or not (name := str(value).strip()) or len(name) > LONGEST:
            raise BadInput(file.where(line, field), _shown(value), f"a domain's name, of at most {LONGEST} characters")
        lines.append(line)
        values.append(names.setdefault(name, len(names)))
    return Field(np.array(lines, dtype=np.int64), np.array(values, dtype=np.int64), tuple(names))


def numbers(file: RowFile, field: str, where: str) -> Field:
    """A finite number a row. Raises BadInput as `labels` does."""
    lines, values = [], []
    for line, value in _values(file, field, where):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(file.where(line, field), _shown(value), "a finite number")
        lines.append(line)
        values.append(float(value))
    return Field(np.array(lines, dtype=np.int64), np.array(values))


def _values(file: RowFile, field: str, where: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of each row. A field that the first row lacks is taken for a mistake of the recipe."""
    first = True
    for line, row in file.rows():
        if row.get(field) is None:
            if first:
                near = nearest(field, row)
                meant = f"; did you mean '{near}'?" if near else ""
                raise BadInput(where, f"'{field}', which {file.where(line)} does not have", f"one of its fields: {', '.join(row)}{meant}")
            raise BadInput(file.where(line, field), "nothing", f"it in every row: {where} names it")
        first = False
        yield line, row[field]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
