"""Readable JSON lines: one object a line. What is wrong is named by file, line and field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.data.text import read_text
from etude.errors import BadInput, one_of

KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
WRITABLE = "what JSON can hold: finite numbers, text, lists, objects"
Row = dict[str, Any]


def read_jsonl(
    path: str | Path, required: Mapping[str, type] | None = None, optional: Mapping[str, type] | None = None, *, strict: bool = False
) -> list[Row]:
    """The objects of a file; empty lines are passed over, and an empty file holds none.

    required, optional: field -> type (float takes whole numbers). strict: other fields are errors. Raises BadInput naming the file, the
    line (from 1) and the field where a line is no object, a field is missing, of another type or twice, or a number is not finite.
    """
    path, rows = Path(path), []
    if path.is_file() and not path.read_bytes().strip():
        return rows
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            rows.append(parse_row(line, f"{path}, line {number}", required, optional, strict=strict))
    return rows


def parse_row(
    line: str, where: str, required: Mapping[str, type] | None = None, optional: Mapping[str, type] | None = None, *, strict: bool = False
) -> Row:
    """One line. Raises BadInput as `read_jsonl` does."""
    required, optional = required or {}, optional or {}

    def once(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise BadInput(f"{where}, field '{twice}'", "the field twice", "each field once")
        return row

    def refuse(text: str) -> Any:
        raise BadInput(where, text, "numbers that are finite")

    def finite(text: str) -> float:
        return number if math.isfinite(number := float(text)) else refuse(text)

    try:
        row = json.loads(line, object_pairs_hook=once, parse_constant=refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        raise BadInput(where, _no_json_at(line, error), "one JSON object a line" + _over_lines(line)) from None
    except ValueError:  # of Python's own limit, `sys.get_int_max_str_digits`
        raise BadInput(where, "a whole number of thousands of digits", "numbers that can be computed with") from None
    except RecursionError:
        raise BadInput(where, "lists or objects in each other, hundreds deep", "a JSON object of few levels") from None
    if not isinstance(row, dict):
        found = "nothing (null)" if row is None else KINDS.get(type(row), type(row).__name__)
        raise BadInput(where, found, "one JSON object a line" + _over_lines(line))
    if "\\ud" in line.lower() and (wrong := unwritable(row)):  # the escape of half a character, which no tokenizer takes
        raise BadInput(f"{where}, field '{wrong[0]}'", wrong[1], "text of whole characters")
    for field, kind in required.items():
        if field not in row:
            raise BadInput(f"{where}, field '{field}'", "nothing", KINDS[kind])
    for field, kind in (*required.items(), *optional.items()):
        if field in row and not _fits(row[field], kind):
            raise BadInput(f"{where}, field '{field}'", json.dumps(row[field], ensure_ascii=False)[:80], KINDS[kind])
    if strict:
        for field in row:
            if field not in required and field not in optional:
                raise one_of(f"{where}, field", field, [*required, *optional])
    return row


def _no_json_at(line: str, error: json.JSONDecodeError) -> str:
    """What is wrong with a line, with the text that stands there."""
    rest = line[error.pos :].strip()
    if not rest:
        return f"no JSON: the line ends before it does, after {line.strip()[-20:]!r}"
    said = "a second value on the line" if error.msg == "Extra data" else error.msg[:1].lower() + error.msg[1:]
    return f"no JSON at character {error.pos + 1}, {rest[:20]!r} ({said})"


def _over_lines(line: str) -> str:
    """More of what is expected, where a line begins as JSON that goes over several does."""
    if line.lstrip().startswith("["):
        return ", not one list of all"
    return ", not an object over several lines" if line.strip() == "{" else ""


def _fits(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


def jsonl(rows: Sequence[Row], where: str = "rows") -> str:
    """The rows as text. Raises BadInput naming `where`, the row (by its `id`, else its number) and the field that JSON cannot hold."""
    lines = []
    for number, row in enumerate(rows, start=1):
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
            line.encode()
        except (TypeError, ValueError, RecursionError) as error:
            name = f"id '{row['id']}'" if isinstance(row.get("id"), str) else f"row {number}"
            place, found = unwritable(row) or ("", str(error))
            raise BadInput(f"{where}, {name}, field '{place}'", found, WRITABLE) from None
        lines.append(line)
    return "".join(lines)


def unwritable(value: Any, place: str = "") -> tuple[str, str] | None:
    """(field, what stands there) of the first value inside `value` that a JSON text cannot hold; None where all of it can be written."""
    if isinstance(value, Mapping):
        inside = ((f"{place}.{key}" if place else str(key), item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        inside = ((f"{place}[{i}]", item) for i, item in enumerate(value))
    else:
        return (place, found) if (found := _no_json(value)) else None
    return next((wrong for at, item in inside if (wrong := unwritable(item, at))), None)


def _no_json(value: Any) -> str:
    """What is wrong with a single value, or nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{ascii(value)[:80]}, half of a character"
    elif value is not None and not isinstance(value, (bool, int, float)):
        return f"{str(value)[:80]}, a {type(value).__name__}"
    return ""
