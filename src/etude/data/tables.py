"""Tables: numbers in columns and one column to predict, from a CSV file with a header or an NPZ file of named arrays."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
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


def read_arrays(path: str | Path, target: str, *, features: Sequence[str] | None = None, classify: bool = True) -> Table:
    """Reads an NPZ file: arrays [N] or [N, ...] by name, the columns of all `features` side by side.

    target: the array [N] to predict; classify: its distinct values, sorted, are the classes. features: all others by default.
    Nothing in the file is unpickled. Raises BadInput naming the array that is missing, of another length, not of numbers or
    not finite.
    """
    path = Path(path)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise BadInput(str(path), "no such file", "an NPZ file") from error
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise BadInput(str(path), f"a file that cannot be read ({error})", "an NPZ file of plain arrays") from error
    if target not in arrays:
        raise one_of(f"{path}, array to predict", target, arrays)
    names = [name for name in arrays if name != target] if features is None else list(features)
    for name in names:
        if name not in arrays or name == target:
            raise one_of(f"{path}, features", name, [n for n in arrays if n != target])
    if not names:
        raise BadInput(str(path), f"only '{target}'", "at least one more array")
    y = arrays[target]
    if y.ndim != 1 or not len(y):
        raise BadInput(f"{path}, array '{target}'", f"shape {y.shape}", "one value a row, at least one row")
    columns: list[np.ndarray] = []
    labels: list[str] = []
    for name in names:
        where, values = f"{path}, array '{name}'", arrays[name]
        if not values.ndim or len(values) != len(y):
            raise BadInput(where, f"shape {values.shape}", f"{len(y)} rows as '{target}'")
        columns.append(_finite(values, where).reshape(len(y), -1))
        width = columns[-1].shape[1]
        labels += [name] if width == 1 else [f"{name}[{i}]" for i in range(width)]
    x = torch.from_numpy(np.concatenate(columns, axis=1))
    if not classify:
        return Table(x, torch.from_numpy(_finite(y, f"{path}, array '{target}'")), tuple(labels))
    classes, numbers = np.unique(y, return_inverse=True)
    return Table(x, torch.from_numpy(numbers.astype(np.int64)), tuple(labels), tuple(str(c) for c in classes))


def _finite(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise BadInput(where, f"values of {values.dtype}", "numbers")
    if not np.isfinite(values).all():
        raise BadInput(where, "a number that is not finite", "finite numbers")
    return values.astype(np.float32)


def _number(field: str, where: str) -> float:
    try:
        value = float(field)
    except ValueError:
        raise BadInput(where, f"'{field.strip()}'" if field.strip() else "nothing", "a number") from None
    if not math.isfinite(value):
        raise BadInput(where, f"'{field.strip()}'", "a finite number")
    return value
