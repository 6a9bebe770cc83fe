"""A paper's card: what it claims and what it takes, checked when it is read."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from etude.errors import BadInput, one_of

SLOTS = ("sampler", "objective", "schedule", "optimizer_step", "surgery", "model", "gradients", "generator", "loop", "data", "evidence")
ARENAS = ("curricula", "improvement", "recursion", "growth", "continual")
APPLIES = ("recipe", "program", "analysis")
USE = ("method", "model")
NEEDS = ("domains",)

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a paper claims and what it takes, in a few lines.

    claim:        our words; figures are the paper's own.
    slots:        what the method touches (`SLOTS`); arenas: the questions across papers that it enters (`ARENAS`).
    applies:      "recipe" (composes with a training run), "program" (trains in rounds or not at all) or "analysis".
    authors:      as printed, in order, in the newest version found that bears this title; empty where they could not be looked up.
    authors_source: where they were looked up: "arXiv listing", "head of the paper", "proceedings"; the version where it matters.
    authors_code: "owner/name" on GitHub, empty where none was found.
    use:          "method" or "model", what the module has for a run of one's own; empty for neither. settings: lines of its table in a
                  recipe, as an example; needs: what else it asks for ("domains" of the data); python: the lines that train a model
                  ("model"), or on data of the paper's (neither).
    earliest_rung: of a screen's selection: the method pays late, and is not dropped before this rung.
    off:          lines of settings with which it is the baseline bit for bit; limit: with which it equals the baseline's losses to 1e-5;
                  no_limit: why there are neither. against: lines that make the small recipe of `etude check` that baseline, where it is
                  not the recipe as it is (its domains are `english` and `code`, its batch 8).
    whole_batch:  why a batch of 8 is not 8 of 1 for it; empty where it is.
    number:       in the list of 87; 0 for papers of other packages and files.
    module:       import name, or a file's path; origin: "etude", the distribution's name or "file".
    problem:      why it cannot be used, for a card of another package that is not in order.
    """

    slug: str
    title: str
    claim: str = ""
    family: str = "outside"
    number: int = 0
    year: int = 0
    arxiv: str = ""
    authors: tuple[str, ...] = ()
    authors_source: str = ""
    authors_code: str = ""
    applies: str = "recipe"
    slots: tuple[str, ...] = ()
    arenas: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    use: str = ""
    settings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    python: str = ""
    earliest_rung: int = 0
    off: tuple[str, ...] = ()
    limit: tuple[str, ...] = ()
    no_limit: str = ""
    against: tuple[str, ...] = ()
    whole_batch: str = ""
    module: str = ""
    origin: str = "etude"
    ready: bool = False
    problem: str = ""

    @property
    def state(self) -> str:
        """ "ready", "planned" or "broken"."""
        return "broken" if self.problem else "ready" if self.ready else "planned"

    @property
    def word(self) -> str:
        """What names it in a recipe or on the command line: its slug, or the path of a file."""
        return self.module if self.origin == "file" else self.slug

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field, tuples as lists, and the state."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | {"state": self.state}


_TYPES: dict[str, type] = {
    f.name: int if f.type == "int" else tuple if "tuple" in str(f.type) else str
    for f in fields(Card)
    if f.name not in ("module", "origin", "ready", "problem")
}
_NEEDED = [f.name for f in fields(Card) if f.name in _TYPES and f.default is MISSING]


def module_name(slug: str) -> str:
    """The slug as a Python name: `qwen2.5-math` is `qwen2_dot_5_math`, `3d-net` is `three_d_net`."""
    if slug[:1].isdigit():
        slug = f"{_DIGITS[int(slug[0])]}-{slug[1:].removeprefix('-')}"
    return slug.replace(".", "_dot_").replace("-", "_")


def card_from(values: dict[str, Any], where: str, **extra: Any) -> Card:
    """A card from a TOML table or a dict. Raises BadInput, naming the key, for what is unknown, missing or of a wrong type."""
    for key, value in values.items():
        if key not in _TYPES:
            raise one_of(f"{where}, key", key, _TYPES)
        kind = _TYPES[key]
        if kind is tuple:
            if not (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)):
                raise BadInput(f"{where}, {key}", repr(value), "a list of strings")
        elif not isinstance(value, kind) or isinstance(value, bool):
            raise BadInput(f"{where}, {key}", repr(value), "a whole number" if kind is int else "a string")
    for key in _NEEDED:
        if not values.get(key):
            raise BadInput(where, f"no {key}", f"a card with {' and '.join(_NEEDED)}")
    for key, known in (("slots", SLOTS), ("arenas", ARENAS), ("applies", APPLIES), ("use", USE), ("needs", NEEDS)):
        given = values.get(key, ())
        for value in [given] if isinstance(given, str) else given:
            if value not in known:
                raise one_of(f"{where}, {key}", value, known)
    return Card(**{k: tuple(v) if _TYPES[k] is tuple else v for k, v in values.items()}, **extra)


def read_toml(path: Path) -> dict[str, Any]:
    """A card's file. Raises BadInput with its place if it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(str(path), f"a file that cannot be read ({error})", "a card in TOML") from error
