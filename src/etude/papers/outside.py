"""Papers that live outside etude: other packages (entry points) and single files.

A package declares, in its pyproject.toml,

    [project.entry-points."etude.papers"]
    my-method = "my_package.my_method"

The module named there defines `STUDY`. Its card is `my_method.toml` beside it, or a literal dict `CARD` in it; both are read
without importing the module, so that listing the catalogue runs nobody's code.
"""

from __future__ import annotations

import ast
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from etude.errors import BadInput
from etude.papers.card import Card, card_from, read_toml

GROUP = "etude.papers"


def is_file(name: str) -> bool:
    """Whether a paper's name is a path: it ends in .py or has a slash."""
    return name.endswith(".py") or "/" in name or "\\" in name


def written_card(path: Path) -> dict[str, Any]:
    """The card of a module: `NAME.toml` beside it, or its literal `CARD`; empty if it has neither.

    Raises BadInput if the file is missing, not Python in UTF-8, or its CARD is no literal dict.
    """
    if (beside := _beside(path)) is not None:
        return read_toml(beside)
    for node in _parsed(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = getattr(node, "value", None)
        if value is not None and any(isinstance(t, ast.Name) and t.id == "CARD" for t in targets):
            try:
                literal = ast.literal_eval(value)
            except ValueError:
                literal = None
            if not isinstance(literal, dict):
                raise BadInput(f"{path}:{node.lineno}", "a computed CARD", "a dict of plain strings, numbers and lists")
            return literal
    return {}


def _beside(path: Path) -> Path | None:
    """The card's file beside a module. A recipe of the same name is none."""
    beside = (path.parent if path.name == "__init__.py" else path).with_suffix(".toml")
    return beside if beside.is_file() and "schema" not in read_toml(beside) else None


def _parsed(path: Path) -> ast.Module:
    if not path.is_file():
        raise BadInput(str(path), "a folder" if path.is_dir() else "no such file", "a Python file that defines STUDY")
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except UnicodeDecodeError as error:
        raise BadInput(str(path), f"bytes that are not UTF-8 at {error.start}", "a Python file that defines STUDY") from error
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        line, message = getattr(error, "lineno", None), getattr(error, "msg", str(error))
        where = f"{path}:{line}" if line else str(path)
        raise BadInput(where, f"no valid Python ({message})", "a Python file that defines STUDY") from error


def file_card(name: str) -> Card:
    """The card of a single file; what it does not say is taken from its name."""
    path = Path(name)
    if path.is_file() and path.suffix != ".py":
        raise BadInput(str(path), "a file that does not end in .py", "a Python file that defines STUDY")
    values = written_card(path)
    slug = path.stem.replace("_", "-")
    return card_from({"slug": slug, "title": slug} | values, str(_beside(path) or path), module=str(path), origin="file", ready=True)


def installed_cards(taken: set[str]) -> list[Card]:
    """Cards of the installed packages that declare papers, by slug. One that is not in order is returned with its `problem`."""
    from importlib.metadata import entry_points  # only here: it costs 20 ms

    found: dict[str, Card] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        origin = entry.dist.name if entry.dist else "unknown"
        given: dict[str, Any] = {"module": entry.module, "origin": origin}
        free = entry.name not in taken and entry.name not in found
        slug = entry.name if free else f"{entry.name}@{origin}"  # the first owner keeps the name
        try:
            if not free:
                raise BadInput(f"{origin}, entry point", f"'{entry.name}'", "a slug that no other paper has")
            values = {"slug": slug, "title": slug} | written_card(find_module(entry.module))
            if values["slug"] != slug:
                raise BadInput(f"{entry.module}, slug", f"'{values['slug']}'", f"'{slug}', its entry point's name")
            found[slug] = card_from(values, entry.module, ready=True, **given)
        except BadInput as error:
            found[slug] = Card(slug=slug, title=entry.name, problem=str(error), **given)
    return sorted(found.values(), key=lambda c: c.slug)


def find_module(name: str) -> Path:
    """The file of a module, without importing it or its parents. Raises BadInput if it is not installed."""
    places = None
    parts = name.split(".")
    for depth, part in enumerate(parts, start=1):
        spec = PathFinder.find_spec(part if places is None else ".".join(parts[:depth]), places)
        if spec is None or (spec.origin is None and depth == len(parts)):
            break
        if depth == len(parts):
            return Path(str(spec.origin))
        places = list(spec.submodule_search_locations or [])
    raise BadInput("entry point", f"module {name}, which is not installed", "a module that defines STUDY")
