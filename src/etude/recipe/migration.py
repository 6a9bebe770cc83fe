"""Recipes of an older schema, rewritten for the present one. The old file is kept beside the new.

`MIGRATIONS[n]` turns a document of schema n into one of schema n + 1; a later schema adds its step and nothing else.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, reason
from etude.recipe.config import SCHEMA, parse, read
from etude.recipe.writing import toml


@dataclass(frozen=True)
class Migration:
    """change: a document of one schema -> one of the next, as a new document. note: what it does, for the user."""

    note: str
    change: Callable[[dict[str, Any]], dict[str, Any]]


MIGRATIONS: dict[int, Migration] = {
    # Schema 0 is what had no `schema` key yet; its tables are those of schema 1.
    0: Migration("schema 0 (no `schema` key) to 1: the key is added", lambda document: {"schema": 1} | document),
}


@dataclass(frozen=True)
class Migrated:
    """path: the new recipe; kept: the old file under its new name, None where nothing was to be done. notes: a line a step."""

    path: Path
    kept: Path | None
    notes: tuple[str, ...]


def migrated(document: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """The document in the present schema and a line for each step. Raises BadInput for a schema that no step leads from."""
    notes: list[str] = []
    while (schema := document.get("schema", 0)) != SCHEMA:
        if isinstance(schema, bool) or schema not in MIGRATIONS:
            raise BadInput(f"{where}, schema", repr(schema), f"one of {', '.join(map(str, [*MIGRATIONS, SCHEMA]))}")
        step = MIGRATIONS[schema]
        document = step.change(document) | {"schema": schema + 1}
        notes.append(step.note)
    return document, notes


def migrate(path: Path | str) -> Migrated:
    """Rewrites a recipe file in the present schema.

    The old file is kept as NAME.schema-N.toml; where that exists already, or the result would be no valid recipe, nothing is
    written. Comments stay where only the `schema` key changes; otherwise they are in the kept file alone.
    """
    path = Path(path)
    old = read(path)
    new, notes = migrated(old, path.name)
    parse(new, path.name)
    if not notes:
        return Migrated(path, None, ())
    kept = path.with_name(f"{path.stem}.schema-{old.get('schema', 0)}{path.suffix}")
    text = path.read_text(encoding="utf-8")
    try:
        with kept.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        write_atomic(path, _with_schema(text, new) or toml(new))
    except FileExistsError as error:
        raise BadInput(str(kept), "a file already", "nothing there, so that the old recipe can be kept under that name") from error
    except OSError as error:
        raise BadInput(str(path), reason(error), "a folder that can be written") from error
    return Migrated(path, kept, tuple(notes))


def _with_schema(text: str, new: Mapping[str, Any]) -> str | None:
    """The text with nothing but its `schema` key changed, where that gives the new document; else None."""
    line = f"schema = {new['schema']}"
    changed, count = re.subn(r"(?m)^schema[ \t]*=[ \t]*\d+", line, text, count=1)
    if not count:
        # Before the first key or table, after the comments that head the file.
        at = re.search(r"(?m)^[ \t]*[^\s#]", text)
        place = at.start() if at else len(text)
        changed = f"{text[:place]}{line}\n{text[place:]}"
    try:
        return changed if tomllib.loads(changed) == new else None
    except tomllib.TOMLDecodeError:
        return None
