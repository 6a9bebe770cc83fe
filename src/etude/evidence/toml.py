"""Reads and writes TOML: strings, numbers, booleans, lists, tables and lists of tables."""

from __future__ import annotations

import datetime
import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.errors import BadInput

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read(path: Path, expected: str) -> dict[str, Any]:
    """The document in a file. Raises BadInput for one that cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"unreadable content ({error})", expected) from error


def dumps(table: Mapping[str, Any]) -> str:
    """The text of a document. TOML knows no null: such entries are left out. Raises TypeError for what it cannot say."""
    lines: list[str] = []
    _table(table, (), lines)
    return "\n".join(lines).strip() + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    present = {str(k): v for k, v in table.items() if v is not None}
    below = {k: v for k, v in present.items() if isinstance(v, Mapping) or _list_of_tables(v)}
    for key, value in present.items():
        if key not in below:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in below.items():
        name = ".".join(_key(k) for k in (*path, key))
        for one in [value] if isinstance(value, Mapping) else value:
            lines.extend(["", f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"])
            _table(one, (*path, key), lines)


def _list_of_tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, Mapping) for v in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _quoted(key)


def _string(text: str) -> str:
    if "\n" in text and "'''" not in text and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
        return f"'''\n{text}'''"  # the line break after the quotes is not part of it
    return _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value if v is not None) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(k))} = {_value(v)}" for k, v in value.items() if v is not None) + " }"
    raise TypeError(f"TOML: {type(value).__name__} cannot be written")
