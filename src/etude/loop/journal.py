"""Files of one round that survive a kill at any moment: JSON lines appended one by one, whole files written at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etude.data.jsonl import WRITABLE, Row, jsonl, parse_row, unwritable
from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput


class Journal:
    """A file of JSON lines that grows. A line that a kill cut short is dropped when the file is opened again; anything else that is
    malformed raises BadInput naming file, line and field.

    required: fields that every line has, with their types. key: the field by which a line is known; twice the same is an error.
    """

    def __init__(self, path: Path, key: str, required: Mapping[str, type]) -> None:
        self.path, self.key, self.required = path, key, {key: str, **required}
        self.rows: dict[str, Row] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
            where = f"{self.path}, line {number}"
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise BadInput(where, f"byte {error.start + 1} that is no UTF-8", "the line as it was written") from None
            self._take(parse_row(text, where, self.required), where)
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())

    def _take(self, row: Row, where: str) -> None:
        if row[self.key] in self.rows:
            raise BadInput(f"{where}, field '{self.key}'", f"'{row[self.key]}' again", "each once")
        self.rows[row[self.key]] = row

    def append(self, row: Row) -> None:
        """Adds one line, on disk when this returns. Raises BadInput for a line that lacks a field or was there before, and for a value
        that JSON cannot hold (its field named)."""
        text = jsonl([row], str(self.path))
        self._take(parse_row(text, f"{self.path}, line {len(self.rows) + 1}", self.required), f"{self.path}, line {len(self.rows) + 1}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drops the lines that are not wanted, in one atomic step."""
        kept = {name: row for name, row in self.rows.items() if wanted(row)}
        if len(kept) < len(self.rows):
            self.rows = kept
            write_atomic(self.path, jsonl(list(kept.values()), str(self.path)))


def write_json(path: Path, value: Any) -> None:
    """Raises BadInput naming the file and the field where a value is one that JSON cannot hold, NaN among them."""
    try:
        data = (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        field, found = unwritable(value) or ("", str(error))
        raise BadInput(f"{path}, field '{field}'", found, WRITABLE) from None
    write_atomic(path, data)


def read_json(path: Path) -> Any:
    """Raises BadInput where the file is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(str(path), f"unreadable content ({error})", "JSON, as a loop has written it") from None
