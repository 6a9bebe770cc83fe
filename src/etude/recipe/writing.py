"""Documents of tables, lists and plain values as TOML, and a recipe as one that `parse` reads back to an equal recipe."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from etude.recipe.tables import Recipe


def dump(recipe: Recipe) -> str:
    """The recipe as a TOML file, with every default that it was run with."""
    return toml(plain(recipe))


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the document that `dump` writes."""
    document = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["run"].setdefault("clip", "none")  # None is not left out: the default is another
    for one, several in (("optimizer", recipe.optimizers), ("objective", recipe.objectives)):
        if several is not None:
            del document[one]
    if "held_out_rows" in document["data"]:
        document["data"].pop("held_out", None)  # a default beside what replaces it
    return document


def toml(document: Mapping[str, Any]) -> str:
    return "\n".join(_lines(document, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, Mapping) and not _tables(v)]
    for key, value in table.items():
        name = ".".join(_key(k) for k in (*path, key))
        if isinstance(value, Mapping):
            inner = _lines(value, (*path, key))
            # A table of nothing but tables needs no line of its own.
            lines += [*(["", f"[{name}]"] if inner[:1] != [""] else []), *inner]
        elif _tables(value):
            for entry in value:
                lines += ["", f"[[{name}]]", *(f"{_key(k)} = {_value(v)}" for k, v in entry.items())]
    return lines


def _tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return repr(value) if isinstance(value, int | float) else str(value)
