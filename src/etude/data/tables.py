"""Tables: a CSV file with a header, numbers in its columns and one column to predict."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from etude.data.text import read_text
from etude.errors import BadInput, one_of


@dataclass(frozen=True)
class Table:
    """x: [N, D] float32, one column of `features` each. y: [N] int64 indices into `classes`, or float32 where `classes` is empty."""

    x: Tensor
    y: Tensor
    features: tuple[str, ...]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)


def read_table(path: str | Path, target: str, *, features: Sequence[str] | None = None, classify: bool = True) -> Table:
    """Reads `path`: comma-separated, UTF-8, first line the columns' names.

    target: the column to predict. classify: its values are classes (any text; sorted), else numbers.
    features: the numeric columns to use; all others by default. Raises BadInput with the file, line and column where a
    field is missing, not a finite number, or a row has another number of fields.
    """
    path = Path(path)
    reader = csv.reader(read_text(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise BadInput(f"{path}, line 1", f"column '{repeated[0]}' twice", "each name once")
    if target not in header:
        raise one_of(f"{path}, column to predict", target, header)
    names = [name for name in header if name != target] if features is None else list(features)
    for name in names:
        if name not in header or name == target:
            raise one_of(f"{path}, features", name, [n for n in header if n != target])
    if not names:
        raise BadInput(f"{path}, line 1", f"only '{target}'", "at least one more column")
    places, at = [header.index(name) for name in names], header.index(target)
    rows: list[list[float]] = []
    wanted: list[str] = []
    for fields in reader:
        where = f"{path}, line {reader.line_num}"
        if not fields:
            continue
        if len(fields) != len(header):
            raise BadInput(where, f"{len(fields)} fields", f"{len(header)} as in line 1")
        rows.append([_number(fields[p], f"{where}, column '{name}'") for p, name in zip(places, names, strict=True)])
        if not fields[at].strip():
            raise BadInput(f"{where}, column '{target}'", "nothing", "a value")
        wanted.append(fields[at].strip() if classify else str(_number(fields[at], f"{where}, column '{target}'")))
    if not rows:
        raise BadInput(str(path), "a header and no rows", "at least one row")
    x = torch.tensor(rows, dtype=torch.float32)
    if not classify:
        return Table(x, torch.tensor([float(v) for v in wanted], dtype=torch.float32), tuple(names))
    classes = sorted(set(wanted))
    number = {name: i for i, name in enumerate(classes)}
    return Table(x, torch.tensor([number[v] for v in wanted], dtype=torch.int64), tuple(names), tuple(classes))


def _number(field: str, where: str) -> float:
    try:
        value = float(field)
    except ValueError:
        raise BadInput(where, f"'{field.strip()}'" if field.strip() else "nothing", "a number") from None
    if not math.isfinite(value):
        raise BadInput(where, f"'{field.strip()}'", "a finite number")
    return value
