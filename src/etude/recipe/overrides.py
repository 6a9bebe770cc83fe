"""`key=value` changes of a recipe on the command line. No torch here.

A change that chooses one of several alternatives replaces the one in the file: `budget.steps=5` a budget in tokens,
`data.corpus=kjv` a text, `optimizer.kind=sgd` what only AdamW knows, `objective.kind=orpo` the beta of another loss,
`methods.0.use=X` another method's settings. Two alternatives on the command line itself stay both, and are refused as they
would be in a file.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import BaseModel

from etude.engine.schedule import SCHEDULES
from etude.errors import BadInput
from etude.recipe.tables import (
    CLIPPED,
    DATA,
    MODELS,
    OPTIMIZERS,
    PAIR_KEYS,
    PAIRS,
    POLICIES,
    POLICY_KEYS,
    READING,
    READING_KEYS,
    SAMPLERS,
    BudgetTable,
    kind_of_data,
)

SOURCES = ("text", "corpus", "tokens", "domains", "images", "table", "rows", "task")
"""The keys of [data] that name the data; the first three name a domain's, too."""
_DEFAULTS = {"model": "transformer", "optimizer": "adamw", "sampler": "shuffle", "schedule": "cosine"}
_KINDS: dict[str, Mapping[str, type]] = {"model": MODELS, "optimizer": OPTIMIZERS, "sampler": SAMPLERS, "schedule": SCHEDULES}

Change = tuple[list[str], Any]
"""The parts of a dotted key, and the value."""


def apply(document: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """Changes the document as the overrides say, in their order; returns their keys. Raises BadInput naming the key."""
    changes = [parsed(text) for text in overrides]
    for parts, value in changes:
        _make_way(document, parts, value)
    for parts, value in changes:
        _set(document, parts, value)
    return [".".join(parts) for parts, _ in changes]


def replaced(document: Mapping[str, Any], overrides: Iterable[str]) -> list[str]:
    """ "budget.steps=5 in place of budget.tokens = 200000", for each change that takes an alternative's place."""
    left, lines = copy.deepcopy(dict(document)), []
    for text in overrides:
        before = _flat(left)
        _make_way(left, *parsed(text))
        gone = [f"{key} = {value!r}" for key, value in before.items() if key not in _flat(left)]
        if gone:
            lines.append(f"{text} in place of {', '.join(gone)}")
    return lines


def _flat(table: Any, place: str = "") -> dict[str, Any]:
    entries = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) and place == "methods" else None
    if entries is None:
        return {place: table}
    return {key: value for name, inner in entries for key, value in _flat(inner, f"{place}.{name}".lstrip(".")).items()}


def parsed(text: str) -> Change:
    """ "run.seed=3" as (["run", "seed"], 3); the value in TOML's notation, or a bare word."""
    key, equals, written = text.partition("=")
    if not equals or not key.strip():
        raise BadInput("command line", f"'{text}'", "key=value, such as budget.tokens=200000")
    parts = key.strip().split(".")
    if not all(parts):
        raise BadInput("command line", f"'{key}'", "a key such as budget.tokens, or methods.0.at of a list")
    if not written.strip():
        raise BadInput(f"command line, {key}", "nothing after '='", "a value")
    try:
        return parts, tomllib.loads(f"v = {written}")["v"]
    except tomllib.TOMLDecodeError:
        return parts, written


def _set(document: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    where = f"command line, {'.'.join(parts)}"
    place: Any = document
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        last = not following
        if isinstance(place, list):
            if not part.isdecimal() or int(part) > len(place):
                raise BadInput(where, f"no entry {part}", f"a number from 0 to {len(place)}, which adds one")
            if int(part) == len(place):
                place.append({})
            if last:
                place[int(part)] = value
            place = place[int(part)]
        elif isinstance(place, dict):
            if last:
                place[part] = value
            else:
                place = place.setdefault(part, [] if part == "methods" and following.isdecimal() else {})
        else:
            raise BadInput(where, f"'{part}' below a plain value", "a key of a table")


# --- alternatives -----------------------------------------------------------------------------------------------------
def _make_way(document: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    """Removes from the document what the change stands in the place of."""
    first, rest = parts[0], parts[1:]
    if first == "optimizer":
        document.pop("optimizers", None)
    elif first == "optimizers":
        document.pop("optimizer", None)
    elif first in ("objective", "objectives"):
        document.pop("objectives" if first == "objective" else "objective", None)
    table = document.get(first)
    if first == "methods" and isinstance(table, list) and len(rest) == 2 and rest[1] == "use":
        entry = table[int(rest[0])] if rest[0].isdecimal() and int(rest[0]) < len(table) else None
        if isinstance(entry, dict) and _slug(entry.get("use")) != _slug(value):
            entry.clear()
    if not isinstance(table, dict) or not rest:
        return
    if first == "budget":
        own = ("limit", "weights") if rest[0] in ("limit", "weights") else (rest[0],)
        if rest[0] in BudgetTable.model_fields:
            _drop(table, [k for k in BudgetTable.model_fields if k not in own])
    elif first == "data":
        _data(table, rest)
    elif first == "objective" and rest == ["kind"]:
        _objective(document, value)
    elif first == "optimizers" and len(rest) == 2 and rest[1] == "kind" and isinstance(table.get(rest[0]), dict):
        _kind(table[rest[0]], value, OPTIMIZERS, "adamw")
    elif (first == "model" and rest == ["pretrained"]) or (first == "model" and rest == ["kind"] and "pretrained" in table):
        table.clear()
    elif first == "model" and (rest == ["use"] or "use" in table):
        if (rest == ["use"] and _slug(table.get("use")) != _slug(value)) or rest == ["kind"]:
            table.clear()  # a paper's architecture shares no settings with etude's own kinds
    elif first in _KINDS and rest == ["kind"]:
        _kind(table, value, _KINDS[first], _DEFAULTS[first])


def _data(table: dict[str, Any], rest: Sequence[str]) -> None:
    if rest[0] == "domains" and len(rest) == 3 and rest[2] in SOURCES[:3]:
        domain = table.get("domains", {}).get(rest[1]) if isinstance(table.get("domains"), dict) else None
        if isinstance(domain, dict):
            _drop(domain, [k for k in SOURCES[:3] if k != rest[2]])
    if rest[0] not in SOURCES:
        return
    before, after = DATA[kind_of_data(table)], DATA[kind_of_data({rest[0]: True})]
    _drop(table, [k for k in SOURCES if k != rest[0]])
    if before is not after:
        _drop(table, [k for k in before.model_fields if k not in after.model_fields])
    if rest[0] not in ("text", "domains"):
        _drop(table, ["separator"])  # corpora and tokens know their documents
    if rest[0] == "tokens":
        _drop(table, ["tokenizer", "vocab"])


def _objective(document: dict[str, Any], kind: Any) -> None:
    """Drops what the former kind alone knows; of preferences all, as a beta means something else in each loss."""
    table = document["objective"]
    before = table.get("kind", "grpo" if kind_of_data(document.get("data")) == "task" else "dpo")
    if kind in READING:
        others = [*PAIR_KEYS, *POLICY_KEYS, *(k for keys in READING_KEYS.values() for k in keys)]
        _drop(table, [k for k in others if k not in READING_KEYS[kind]])
    if kind == before or kind not in (*PAIRS, *POLICIES):
        return
    if before in READING:
        _drop(table, READING_KEYS[before])
    elif before in PAIRS:
        _drop(table, PAIR_KEYS)
    elif kind in PAIRS:
        _drop(table, POLICY_KEYS)
        document.pop("rollouts", None)
    else:
        if before in CLIPPED and kind not in CLIPPED:
            _drop(table, ("clip_low", "clip_high"))
        if before == "dapo" and isinstance(document.get("rollouts"), dict):
            _drop(document["rollouts"], ("max_draws", "overlong"))


def _kind(table: dict[str, Any], kind: Any, kinds: Mapping[str, type], default: str) -> None:
    """Drops what only the former kind knows. Keys that neither knows stay, to be refused; those that both know keep their values."""
    if kind in kinds and (before := kinds.get(str(table.get("kind", default)))) is not None:
        after = _names(kinds[kind])
        _drop(table, [k for k in _names(before) if k not in after and k != "kind"])


def _names(kind: type) -> list[str]:
    return list(kind.model_fields) if issubclass(kind, BaseModel) else [f.name for f in fields(kind)]


def _drop(table: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        table.pop(name, None)


def _slug(word: Any) -> str:
    return str(word).partition(":")[0]
