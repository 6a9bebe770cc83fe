"""Arguments held against a function's own signature and hints: a mistake is a BadInput by its name, not a TypeError from within.

`typed` wraps a function or a constructor: unknown, missing and doubled arguments are named, then every value that its hint
rules out; NaN and infinities are no numbers unless the default is one. Ranges stay with the function itself.
"""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from etude.errors import BadInput, choice, nearest

C = TypeVar("C", bound=Callable[..., Any])
_REFUSED_INSIDE = (TypeError, ValueError, OverflowError)


def typed(where: str | None = None, *, inside: bool = False) -> Callable[[C], C]:
    """A decorator: calls with arguments that the signature or its hints rule out raise BadInput.

    where:  what stands before an argument's name in errors, such as "etude.train, "; by default a constructor's class and a dot.
    inside: whether a TypeError or ValueError from the body is one of its arguments too (constructors that convert what they get).
    """

    def wrap(function: C) -> C:
        method = next(iter(inspect.signature(function).parameters), "") == "self"

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            name = type(args[0]).__name__ if method else function.__name__
            before = where if where is not None else f"{name}."
            check_call(function, args, kwargs, before)
            try:
                return function(*args, **kwargs)
            except BadInput as error:
                raise (
                    _at_argument(suggesting(error), name, function, args, kwargs) if before == f"{name}." else suggesting(error)
                ) from error
            except _REFUSED_INSIDE as error:
                if not inside:
                    raise
                raise _unusable(error, before, function, args, kwargs) from error

        return call  # type: ignore[return-value]

    return wrap


def _unusable(error: Exception, before: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> BadInput:
    """What a constructor could not make anything of: its only argument, or one of several."""
    given = dict(zip(list(inspect.signature(function).parameters)[1:], args[1:], strict=False)) | dict(kwargs)
    if len(given) != 1:
        return BadInput(before.rstrip("., "), str(error), "arguments that it takes")
    ((key, value),) = given.items()
    return BadInput(f"{before}{key}", f"{shown(value)} ({error})", "a value that it takes")


def _at_argument(error: BadInput, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> BadInput:
    """What a part of an object refuses, at the argument of its constructor: "Pacing.factor" is the curriculum's `factor`."""
    head, _, key = error.where.rpartition(".")
    parameters = list(inspect.signature(function).parameters)
    if head == name or error.where == name:
        return error
    given = [*parameters[1 : len(args)], *kwargs]
    if key not in parameters and len(given) == 1:  # under another name: it can only be this one
        return error.at(f"{name}.{given[0]}")
    return error.at(f"{name}.{key}" if key in parameters else f"{name} ({error.where})")


def check_call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> None:
    """Raises BadInput where `function(*args, **kwargs)` could not be called, or a value is not of its hint."""
    parameters = inspect.signature(function).parameters
    in_order = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    anything = {p.kind for p in parameters.values()}
    if len(args) > len(in_order) and inspect.Parameter.VAR_POSITIONAL not in anything:
        most = len(in_order) - (in_order[:1] == ["self"])
        found = f"{len(args) - (in_order[:1] == ['self'])} arguments in order"
        raise BadInput(where.rstrip("., "), found, f"at most {most}, the others by name")
    given = dict(zip(in_order, args, strict=False))
    known = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
    for key in kwargs:
        if key in given:
            raise BadInput(f"{where}{key}", "two values", "one")
        if key not in known and inspect.Parameter.VAR_KEYWORD not in anything:
            raise unknown_key(f"{where}{key}", key, known)
    for key, parameter in parameters.items():
        missing = key not in given and key not in kwargs and parameter.default is parameter.empty
        if missing and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadInput(f"{where}{key}", "nothing", "a value")
    hints = hints_of(function)
    for key, value in (given | dict(kwargs)).items():
        # A default is right by definition, whatever its hint says (a None, an infinity).
        if key in hints and key in parameters and not _same(value, parameters[key].default):
            check(f"{where}{key}", value, hints[key])


def check_fields(instance: Any, where: str = "") -> None:
    """The same for a dataclass, from its `__post_init__`. where: what stands before a field's name; its class where not given."""
    hints = hints_of(type(instance))
    for field in fields(instance):
        value = getattr(instance, field.name)
        if field.name in hints and not _same(value, field.default):
            check(f"{where or type(instance).__name__ + '.'}{field.name}", value, hints[field.name])


def unknown_key(where: str, key: str, known: Iterable[str]) -> BadInput:
    """The error for an argument or key that nothing takes: the nearest one, or all."""
    names = list(known)
    near = nearest(key, names)
    hint = f"did you mean '{near}'?" if near else f"known: {', '.join(names)}" if names else "there are none"
    return BadInput(where, "an unknown key", f"a known one; {hint}")


def suggesting(error: BadInput) -> BadInput:
    """A refused word with the one that it most likely meant, where the error lists the words and proposes none."""
    word, listed = re.fullmatch(r"'([^']*)'", error.found), re.fullmatch(r"one of ((?:[\w:.-]+, )*[\w:.-]+)", error.expected)
    if word is None or listed is None or nearest(word[1], listed[1].split(", ")) is None:
        return error
    return choice(error.where, word[1], listed[1].split(", "))


# --- values against hints ---------------------------------------------------------------------------------------------
def check(where: str, value: Any, hint: Any) -> None:
    """Raises BadInput where a value is not what a hint says. What no plain look can tell (a function's own signature) passes."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(hint, TypeVar):
        check(where, value, hint.__bound__ or Any)
    elif origin is Annotated:
        check(where, value, inner[0])
    elif origin in (Union, types.UnionType):
        _check_union(where, value, inner)
    elif origin is Literal:
        if not any(type(value) is type(word) and value == word for word in inner):
            raise choice(where, value, map(str, inner)) if isinstance(value, str) else BadInput(where, shown(value), words(hint))
    elif not _is(value, origin or hint):
        raise BadInput(where, shown(value), _instead_of_class(value, origin or hint) or words(hint, value))
    elif isinstance(value, Mapping) and len(inner) == 2:
        for key, entry in value.items():
            check(f"{where}, key", key, inner[0])
            check(f"{where}.{key}", entry, inner[1])
    elif isinstance(value, (list, tuple)) and inner:
        _check_entries(where, value, origin, inner)


def _check_union(where: str, value: Any, members: Sequence[Any]) -> None:
    errors = []
    for member in members:
        try:
            return check(where, value, member)
        except BadInput as error:
            errors.append((member, error))
    # The one that the value comes nearest to says what is wrong inside it: an entry of a list, a word of several.
    for member, error in errors:
        if error.where != where or (get_origin(member) is Literal and isinstance(value, str)) or "made from it" in error.expected:
            raise error
    spoken = list(dict.fromkeys(words(m, value) for m in members))
    raise BadInput(where, shown(value), f"{', '.join(spoken[:-1])} or {spoken[-1]}" if len(spoken) > 1 else spoken[0])


def _check_entries(where: str, value: Sequence[Any], origin: Any, inner: Sequence[Any]) -> None:
    if origin is tuple and Ellipsis not in inner:
        if len(value) != len(inner):
            raise BadInput(where, f"{len(value)} values", f"{len(inner)}")
        hints = list(inner)
    else:
        hints = [inner[0]] * len(value)
    for i, (entry, hint) in enumerate(zip(value, hints, strict=True)):
        check(f"{where}[{i}]", entry, hint)


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is Any or kind is object or not isinstance(kind, type):
        return True
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # numpy's, without importing it
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool) and _finite(value)
    if kind in (tuple, list):  # one for the other: files know no tuples
        return isinstance(value, (tuple, list))
    if kind in (Sequence, Collection, Iterable):
        return not isinstance(value, (str, bytes, Mapping)) and (isinstance(value, kind) or hasattr(value, "__len__"))
    if getattr(kind, "_is_protocol", False) and kind is not Callable:
        return not isinstance(value, type) and all(hasattr(value, name) for name in _members(kind))
    try:
        return isinstance(value, kind)
    except TypeError:  # a kind that instances cannot be asked of
        return True


def _finite(value: Real) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


@cache
def _members(protocol: type) -> list[str]:
    """A protocol's first two members, which tell the role: what a run never asks for, a small stand-in may leave out."""
    own = [c for c in protocol.__mro__ if getattr(c, "_is_protocol", False) and c not in (Protocol, Generic)]
    names = dict.fromkeys(name for c in own for name in (*vars(c), *vars(c).get("__annotations__", ())))
    return [name for name in names if not name.startswith("_") or name in ("__call__", "__len__")][:2]


def _instead_of_class(value: Any, kind: Any) -> str | None:
    """A class where one of its objects is wanted: the parentheses were forgotten."""
    if not isinstance(value, type) or not isinstance(kind, type) or kind is type:
        return None
    fits = all(hasattr(value, name) for name in _members(kind)) if getattr(kind, "_is_protocol", False) else issubclass(value, kind)
    return f"one made from it, {value.__name__}(...)" if fits else None


_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "True or False", type(None): "None", None: "None", list: "a list",
    tuple: "a list", dict: "a dict", Path: "a path", Callable: "a function", Sequence: "a list", Collection: "a list",
    Iterable: "a list", Mapping: "a dict",
}  # fmt: skip


_OF_ETUDE = {
    "Module": "a torch.nn.Module",
    "Method": 'a method such as etude.method("stacking")()',
    "Budget": "a budget such as etude.Budget(steps=100)",
    "OptimizerSpec": "an optimizer such as etude.engine.optim.AdamW(lr=0.001)",
    "Schedule": "a schedule such as etude.engine.schedule.Cosine()",
    "Evaluator": "a function of the model that returns named numbers",
    "Objective": "an objective such as etude.learn.supervised.Supervised()",
}
"""The roles that users meet first, by name: this module knows none of them."""


def words(hint: Any, value: Any = None) -> str:
    """What a hint asks for, as a user would say it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(str(word) for word in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(member, value) for member in inner))
    kind = inner[0] if origin is Annotated else origin or hint
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return "a finite number"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(kind) or _OF_ETUDE.get(name) or f"{'an' if name[:1] in 'AEIO' else 'a'} {name}"


def shown(value: Any) -> str:
    """A value as an error quotes it: short plain ones as they are written, others by their class."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        try:
            text = repr(value)
        except ValueError:  # more digits than Python writes
            return "a huge number"
        return text if len(text) <= 60 else f"{text[:40]}...{text[-1]}"
    if isinstance(value, (list, tuple, dict)) and len(text := repr(value)) <= 60 and " object at 0x" not in text:
        return text
    name = type(value).__name__
    if name in ("function", "builtin_function_or_method", "method"):
        return f"the function {getattr(value, '__name__', '')}".strip()
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def hints_of(function: Any) -> dict[str, Any]:
    """The hints of a function, or of a dataclass's fields, that can be resolved: a name for the type checker alone hides no other."""
    try:
        return dict(_hints(function))
    except TypeError:  # nothing that can be remembered by
        return dict(_hints.__wrapped__(function))


@cache
def _hints(function: Any) -> dict[str, Any]:
    target = inspect.unwrap(function) if callable(function) and not isinstance(function, type) else function
    try:
        return get_type_hints(target, include_extras=True)
    except Exception:
        pass
    found: dict[str, Any] = {}
    for name, hint in getattr(target, "__annotations__", {}).items():
        try:
            alone = type("alone", (), {"__annotations__": {name: hint}, "__module__": target.__module__})
            found |= get_type_hints(alone, getattr(target, "__globals__", None), include_extras=True)
        except Exception:
            continue
    return found


def _same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and isinstance(value, (float, str)) and value == default)
