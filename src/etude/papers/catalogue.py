"""The cards of all papers, ready and planned, read without importing any of them.

A card is a TOML file beside its paper's module. A paper is ready when that module exists. Papers of other packages join through
the entry-point group `etude.papers` (see `outside`); a single file is named by its path. Nothing here loads torch or numpy, so
that `etude list` answers at once; `load_study` and `load_methods` import one paper, when asked.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from etude.errors import BadInput, nearest, one_of
from etude.papers.card import Card, card_from, module_name, read_toml
from etude.papers.outside import file_card, installed_cards, is_file

FAMILIES: dict[str, str] = {
    "improvement": "models that learn from their own output",
    "architecture": "recursion and recurrence inside the model",
    "order": "what is seen when",
    "continual": "going on learning without forgetting",
    "analysis": "measuring what training does",
    "growth": "models that grow, shrink and merge",
    "incontext": "learning in context",
    "objective": "what is predicted, and how the step is taken",
    "synthesis": "training data that is made",
    "programs": "recursive programs around a language model",
}


@cache
def _own() -> tuple[Card, ...]:
    found = []
    for path in Path(__file__).parent.glob("*/*.toml"):
        values = read_toml(path)
        module = module_name(values.get("slug", ""))
        if (path.parent.name, path.stem) != (values.get("family"), module):
            raise BadInput(str(path), f"the card of {values.get('slug')}", f"it under {values.get('family')}/{module}.toml")
        ready = path.with_suffix(".py").exists() or (path.with_suffix("") / "__init__.py").exists()
        found.append(card_from(values, path.name, module=f"etude.papers.{path.parent.name}.{module}", ready=ready))
    return tuple(sorted(found, key=lambda c: c.number))


@cache
def cards() -> tuple[Card, ...]:
    """Every card: etude's own by number, then those of other packages by slug."""
    own = _own()
    return (*own, *installed_cards({c.slug for c in own}))


def card(slug: str, *, to_run: bool = False) -> Card:
    """The card of a paper, or of a method's file given by path. Raises BadInput ("did you mean") if there is none.

    to_run: whether the paper is to be run, so that one that can be is proposed first.
    """
    if is_file(slug):
        return file_card(slug)
    known = {c.slug: c for c in cards()}
    found = known.get(slug) or known.get(slug.lower().replace("_", "-"))
    if found is None and slug.isdigit():
        found = next((c for c in _own() if c.number == int(slug)), None)
    if found is None:
        raise _unknown(slug, known, to_run)
    return found


def _unknown(slug: str, known: dict[str, Card], to_run: bool) -> BadInput:
    running = [name for name, c in known.items() if c.state == "ready"]
    near = (nearest(slug, running) if to_run else None) or nearest(slug, known)
    if near is None:
        return one_of("paper", slug, running if to_run else [*running, *(name for name in known if name not in running)], show=6)
    planned = " (planned)" if known[near].state == "planned" else ""
    return BadInput("paper", f"'{slug}'", f"a known name; did you mean '{near}'{planned}?")


def ready(slug: str) -> bool:
    """Whether the paper can be run here. Raises BadInput for an unknown one."""
    return card(slug).state == "ready"


def load_study(name: str) -> Any:
    """The `Study` of a paper or file: see `etude.papers.loading.load_study`."""
    # Imported by name: a plain import would tie this module to torch and numpy, which it promises to do without.
    return import_module("etude.papers.loading").load_study(name)


def load_methods(name: str) -> dict[str, type]:
    """The `Method` classes of a paper or file, by class name: see `etude.papers.loading.load_methods`."""
    return import_module("etude.papers.loading").load_methods(name)
