"""Which methods apply to a recipe, each as the changes that it makes, and why the others do not.

What a card says is asked first (has it something for a recipe, does the data have what it needs), then the paper's own rule
(`suggest`), and last the engine: an arm that cannot be built and begun is refused with the engine's own reason.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etude.errors import BadInput, one_of
from etude.papers.card import ARENAS, Card
from etude.papers.catalogue import FAMILIES, card, cards
from etude.papers.loading import load_methods, suggestion
from etude.papers.suggesting import Facts

BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """changes: dotted recipe keys -> values ("model.depth"; "model" replaces the table). methods: tables to add to `[[methods]]`.

    earliest_rung: before it the candidate is not dropped. parts: the papers or files it is made of (one, or those of a combination).
    """

    name: str
    parts: tuple[str, ...] = ()
    methods: tuple[Mapping[str, Any], ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    earliest_rung: int = 0

    def of(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe document with this candidate in it."""
        made = copy.deepcopy(dict(document))
        for key, value in self.changes.items():
            *tables, last = key.split(".")
            place = made
            for table in tables:
                place = place.setdefault(table, {})
            place[last] = copy.deepcopy(value)
        made["methods"] = [*made.get("methods", ()), *(dict(table) for table in self.methods)]
        if not made["methods"]:
            del made["methods"]
        return made

    def set(self, settings: Mapping[str, Any]) -> Candidate:
        """The same of one part with some of its settings replaced."""
        if self.methods:
            return replace(self, methods=({**self.methods[0], **settings},))
        return replace(self, changes={**self.changes, "model": {**self.changes["model"], **settings}})

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "parts": list(self.parts), "methods": [dict(m) for m in self.methods],
            "changes": dict(self.changes), "earliest_rung": self.earliest_rung,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Candidate:
        more = {"parts": tuple(told["parts"]), "methods": tuple(told["methods"])}
        return cls(name=told["name"], changes=told["changes"], earliest_rung=told["earliest_rung"], **more)


BARE = Candidate(name=BASELINE)


def chosen(methods: Iterable[str] | None, family: str | None) -> list[Card]:
    """The cards to look at: those named, those of a family or arena, or all that are ready. Raises BadInput for an unknown name."""
    if methods is not None:
        named = [card(slug, to_run=True) for slug in dict.fromkeys(methods)]
        for one in named:
            if one.state != "ready":
                raise BadInput("screen, methods", f"'{one.slug}', which is {one.state}", "a paper that `etude list` shows")
        return named
    if family is not None and family not in (*FAMILIES, *ARENAS):
        raise one_of("screen, family", family, [*FAMILIES, *ARENAS])
    ready = [c for c in cards() if c.state == "ready"]
    return [c for c in ready if family is None or c.family == family or family in c.arenas]


def candidate(found: Card, facts: Facts, *, ruled: bool = True) -> Candidate | str:
    """The candidate that a paper makes for this recipe, or the reason why there is none. ruled: by the paper's own rule for its
    settings, where it has one; else with the card's example."""
    if found.applies != "recipe":
        return f"a{'n' * (found.applies == 'analysis')} {found.applies}, which is not a change of one training run"
    use = found.use or ("method" if found.origin == "file" and load_methods(found.module) else "")
    if not use:
        return "it has nothing to add to a recipe (its study compares whole set-ups)"
    if "domains" in found.needs and facts.domains < 2:
        return f"it needs data of several domains, found {facts.domains or 'none'}"
    name = found.word
    used = [table.get("use", "").partition(":")[0] for table in facts.recipe.get("methods", ())]
    if name in used or facts.recipe["model"].get("use", "").partition(":")[0] == name:
        return "it is in the recipe already"
    told = suggestion(found, facts) if ruled else None
    if told is None:
        told = tomllib.loads("\n".join(found.settings))
    if isinstance(told, str):
        return told
    changes = {key: value for key, value in told.items() if "." in key or key == "model"}
    settings = {key: value for key, value in told.items() if key not in changes}
    common: dict[str, Any] = {"name": found.slug, "parts": (name,), "earliest_rung": found.earliest_rung}
    if use == "model":
        return Candidate(changes={**changes, "model": {"use": name, **settings}}, **common)
    return Candidate(methods=({"use": name, **settings},), changes=changes, **common)


def combined(parts: Sequence[Candidate]) -> Candidate | str:
    """The candidates together, or why they do not go together: two that change the same key of the recipe."""
    changes: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for part in parts:
        for key, value in part.changes.items():
            clash = next((k for k in owner if k == key or k.startswith(f"{key}.") or key.startswith(f"{k}.")), None)
            if clash is not None:
                return f"{owner[clash]} and {part.name} both change {key}"
            changes[key], owner[key] = value, part.name
    return Candidate(
        name=" + ".join(part.name for part in parts),
        parts=tuple(slug for part in parts for slug in part.parts),
        methods=tuple(table for part in parts for table in part.methods),
        changes=changes,
        earliest_rung=max(part.earliest_rung for part in parts),
    )
