"""Settings from a recipe's table, checked against what a class takes: names, then types, then the class's own ranges."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from etude.engine.arguments import shown, suggesting, unknown_key
from etude.engine.schedule import Schedule
from etude.errors import BadInput, one_of
from etude.recipe.config import expected_of
from etude.recipe.schedules import schedule_from

T = TypeVar("T")


def made(kind: type[T], settings: Mapping[str, Any], where: str, given: Mapping[str, Any] | None = None) -> T:
    """`kind(**settings)`, with every error at its key as `where.key`.

    A table for a parameter that is a dataclass makes that; one for a parameter that is a schedule, a schedule.
    given: values that the run decides, such as the vocabulary; they go to parameters of these names at any depth and may
    not be set. Raises BadInput for unknown keys, missing ones, values of another type, or ones that the class refuses.
    """
    given = given or {}
    known, hints = inspect.signature(kind).parameters, _hints(kind)
    for key in settings:
        if key not in known:
            raise unknown_key(f"{where}.{key}", key, [k for k in known if k not in given])
        if key in given:
            raise BadInput(f"{where}.{key}", repr(settings[key]), f"no such key: the data sets it ({given[key]!r})")
    values: dict[str, Any] = {}
    for key, parameter in known.items():
        place, inner = f"{where}.{key}", _dataclass_in(hints.get(key))
        if key in settings:
            values[key] = _typed(settings[key], hints.get(key), inner, place, given)
        elif key in given:
            values[key] = given[key]
        elif inner is not None and any(name in _all_names(inner) for name in given):
            values[key] = made(inner, {}, place, given)
        elif parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadInput(place, "nothing", f"a value, which {kind.__name__} needs")
    try:
        return kind(**values)
    except BadInput as error:
        raise relocated(error, where, known) from error
    except (TypeError, ValueError) as error:
        raise BadInput(where, str(error), f"settings that {kind.__name__} takes") from error


def relocated(error: BadInput, where: str, known: Mapping[str, Any]) -> BadInput:
    """The same error at a place of the recipe: "Grow.at" of a class becomes "methods[0].at"."""
    error = suggesting(error)
    head, _, key = error.where.rpartition(".")
    if key.split(",")[0] in known:
        return BadInput(f"{where}.{key}", error.found, error.expected)
    return error if error.where.startswith(where) else BadInput(f"{where} ({error.where})" if head else where, error.found, error.expected)


def _typed(value: Any, hint: Any, inner: type | None, place: str, given: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping) and inner is not None:
        return made(inner, value, place, given)
    if isinstance(value, Mapping) and (hint is Schedule or Schedule in get_args(hint)):
        return schedule_from(value, place)
    if hint is None:
        return value
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except (PydanticUserError, TypeError):  # a hint that no plain value can be checked against
        if inner is not None or Schedule in (hint, *get_args(hint)):
            raise BadInput(place, repr(value), "a table of its settings") from None
        return value
    try:
        return adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        at = "".join(f"[{p}]" for p in first["loc"] if isinstance(p, int))
        raise BadInput(f"{place}{at}", shown(first["input"]), expected_of(first)) from None


def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind if is_dataclass(kind) else kind.__init__)
    except (NameError, TypeError):  # names that exist for the type checker alone
        return {}


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that a hint is, or allows beside None."""
    return next((h for h in (hint, *get_args(hint)) if isinstance(h, type) and is_dataclass(h)), None)


def _all_names(kind: type) -> set[str]:
    names = set(inspect.signature(kind).parameters)
    return names.union(*(_all_names(inner) for hint in _hints(kind).values() if (inner := _dataclass_in(hint)) not in (None, kind)))


def resolved(where: str, resolve: Callable[[str], T], word: str) -> T:
    """What a resolver finds under "slug" or "slug:name"; a paper that is unknown or not here is the mistake of the key at `where`."""
    try:
        return resolve(word.partition(":")[0])
    except BadInput as error:
        raise (error.at(where) if error.where.partition(" ")[0] == "paper" else error) from error


def named(where: str, word: str, found: Mapping[str, T], what: str, suggestion: str) -> T:
    """The one that "slug" or "slug:name" means among what a paper has. Raises BadInput where there is none or the choice is open."""
    slug, _, name = word.partition(":")
    if not found:
        raise BadInput(where, f"'{slug}', which has no {what}", suggestion)
    if not name and len(found) > 1:
        raise BadInput(where, f"'{slug}', which has several", f"one of {', '.join(f'{slug}:{n}' for n in found)}")
    if name and name not in found:
        raise one_of(where, name, found)
    return found[name] if name else next(iter(found.values()))
