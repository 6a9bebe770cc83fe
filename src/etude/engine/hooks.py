"""The methods of a run: which of their events are called, in which order, and who owns which slot."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from etude.engine.arguments import check_fields
from etude.engine.protocols import CHANGE, SLOTS, Method
from etude.errors import BadInput, one_of

if TYPE_CHECKING:
    from etude.engine.run import Run

EVENTS = (
    "start", "stop", "stage_start", "stage_end", "batch", "forward", "loss", "backward",
    "gradients", "clipped", "update", "updated", "evaluate", "replaced",
)  # fmt: skip


class Hooks:
    """The methods' overridden events, each list in declared phase order. Checks the exclusive slots when made."""

    def __init__(self, methods: Sequence[Method] | Method) -> None:
        self.methods = methods = [methods] if isinstance(methods, Method) else list(methods)
        names = [m.name for m in methods]
        for name in names:
            if names.count(name) > 1:
                places = [f"methods[{i}]" for i, other in enumerate(names) if other == name]
                raise BadInput("methods", f"the same method, {name}, as {' and '.join(places)}", "each method once in a run")
        for method in methods:
            if is_dataclass(method):  # its generated constructor is not among those that are held against their hints
                check_fields(method)
        owner: dict[str, str] = {}
        for method in methods:
            for slot in method.slots:
                if slot not in SLOTS:
                    raise one_of(f"{method.name}.slots", slot, SLOTS)
                if slot in owner:
                    raise BadInput(
                        "methods", f"{owner[slot]} and {method.name}, which both own '{slot}' ({SLOTS[slot]})", "one owner of a slot"
                    )
                owner[slot] = method.name
        for method in methods:
            if type(method).update is not Method.update and "optimizer_step" not in method.slots:
                raise BadInput(
                    f"{method.name}.slots", "no 'optimizer_step', though it takes the optimizer's step", "the slot of what it does"
                )
        self.owner = owner
        if "surgery" in owner:
            for method in methods:
                if method.per_parameter_state and type(method).replaced is Method.replaced:
                    raise BadInput(
                        "methods",
                        f"{owner['surgery']}, which replaces the model, with {method.name}, whose state per parameter would be lost",
                        "a method that implements `replaced`",
                    )
        self.lists: dict[str, list[Callable[..., Any]]] = {}
        for event in EVENTS:
            overriding = [m for m in methods if getattr(type(m), event) is not getattr(Method, event)]
            overriding.sort(key=lambda m: (m.phases.get(event, CHANGE), m.name))
            self.lists[event] = [getattr(m, event) for m in overriding]
        for method in methods:
            for event in method.phases:
                if event not in EVENTS:
                    raise one_of(f"{method.name}.phases", event, EVENTS)

    def call(self, event: str, *arguments: Any) -> None:
        for hook in self.lists[event]:
            _called(hook, *arguments)

    def change(self, event: str, run: Run, value: Any, *before: Any) -> Any:
        """Passes `value` through every hook; what one returns replaces it."""
        for hook in self.lists[event]:
            result = _called(hook, run, *before, value)
            if result is not None:
                value = result
        return value


def _called(hook: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return hook(*arguments)
    except BadInput as error:
        raise owned(error, [getattr(hook, "__self__", None)]) from error


def owned(error: BadInput, methods: Sequence[Any]) -> BadInput:
    """The same error at the argument of the one method that has it: "Pacing.start" of a part is "CyclicalCurriculum.start".

    An argument that a method hands on is refused by the part that takes it, under that part's name.
    """
    key = error.where.rpartition(".")[2]
    takers = [m for m in methods if isinstance(m, Method) and key in inspect.signature(type(m).__init__).parameters]
    return error.at(f"{takers[0].name}.{key}") if len(takers) == 1 and "." in error.where else error
