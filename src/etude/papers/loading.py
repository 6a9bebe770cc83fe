"""Imports one paper, when it is asked for: its study and its methods."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from etude.engine.arguments import shown, typed
from etude.engine.protocols import Method
from etude.engine.source_files import spec_of_file
from etude.errors import BadInput
from etude.evidence.study import Study
from etude.papers.catalogue import Card, card
from etude.papers.outside import find_module
from etude.papers.suggesting import Facts, Suggestion

ENTRY = "arena"
"""The file of a package that says how it does the work of arenas."""


@typed("etude.study, ")
def load_study(name: str) -> Study:
    """The study of a paper (slug) or of a single file (path).

    Raises BadInput if the paper is unknown, planned or out of order, if its module cannot be imported or has no `STUDY`, or
    if the study's slug is not the card's.
    """
    found = card(name, to_run=True)
    module = load_module(found)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        kind = "no STUDY" if study is None else f"a STUDY that is {shown(study)}"
        raise BadInput(found.module, kind, "STUDY, an etude.evidence.study.Study")
    if study.slug != found.slug:
        raise BadInput(f"{found.module}, STUDY.slug", f"'{study.slug}'", f"'{found.slug}', as on its card")
    return study


def load_methods(name: str) -> dict[str, type[Method]]:
    """The method classes that a paper's or file's module exports and defines itself, by class name."""
    module = load_module(card(name, to_run=True))
    own = (module.__name__, f"{module.__name__}.")
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Method) and (value.__module__ == own[0] or value.__module__.startswith(own[1]))
    }


def load_models(name: str) -> dict[str, tuple[type, Callable[[Any], nn.Module]]]:
    """The architectures that a paper's or file's module exports as MODELS: name -> (configuration class, model class).

    Empty where it exports none. Raises BadInput as `load_study` does, or where MODELS is something else.
    """
    module = load_module(card(name, to_run=True))
    models = getattr(module, "MODELS", {})
    pairs = models.values() if isinstance(models, dict) else [None]
    if not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], type) and callable(pair[1]) for pair in pairs):
        raise BadInput(f"{module.__name__}, MODELS", repr(models)[:60], "a dict of name: (configuration class, model class)")
    return models


def suggestion(found: Card, facts: Facts) -> Suggestion:
    """What the paper's rule sets in this recipe, or why it does not apply; None where it has no rule.

    The rule is the function `suggest(facts)` of its module, or of the file `suggest.py` in its package.
    """
    module = load_module(found)
    rule = getattr(module, "suggest", None)
    if isinstance(rule, ModuleType) or rule is None:
        named = f"{module.__name__}.suggest"
        rule = getattr(import_module(named), "suggest", None) if hasattr(module, "__path__") and find_spec(named) else None
    return None if rule is None else rule(facts)


def entry(found: Card, arena: str) -> Callable[[Any], Any] | str:
    """How a paper that is a program does an arena's work, or why it does not: what the file `arena.py` of its package names as the arena,
    or what a paper in one file does.

    Raises BadInput where that is neither a function nor a text.
    """
    module, how = load_module(found), None
    named = f"{module.__name__}.{ENTRY}" if hasattr(module, "__path__") else module.__name__
    if named == module.__name__ or find_spec(named):
        how = getattr(import_module(named), arena, None)
    if how is None:
        return f"it does not say how it does this work (a function {arena} in its file {ENTRY}.py)"
    if not callable(how) and not isinstance(how, str):
        raise BadInput(f"{named}, {arena}", shown(how), "a function of the work, or the reason why it does not enter")
    return how


def load_module(found: Card) -> ModuleType:
    """The module of a card, imported. A second call gives the same module. Raises BadInput as `load_study` does."""
    if found.problem:
        raise BadInput(f"paper {found.slug}", f"a package out of order ({found.problem})", "a working installation")
    if not found.ready:
        raise BadInput(f"paper {found.slug}", "a paper that is planned, not yet here", "one that `etude list` shows")
    try:
        return _load_file(Path(found.module)) if found.origin == "file" else import_module(found.module)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        where, said = _place(error, found), f"{type(error).__name__}: {error}".removesuffix(": ")
        raise BadInput(where, f"an error on import ({said})", "a module that can be imported") from error


def _place(error: BaseException, found: Card) -> str:
    """ "method.py:12": the line of the module, or of a file beside it, in which its import failed."""
    path = Path(found.module) if found.origin == "file" else find_module(found.module)
    if isinstance(error, SyntaxError) and error.filename:  # of a file that it imports
        lines = [(error.filename, error.lineno or 0)]
    else:
        lines = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    root = path.resolve().parent
    for name, line in reversed(lines):
        file = Path(name).resolve()
        if file.is_relative_to(root) and "site-packages" not in file.relative_to(root).parts:
            return f"{path if file == path.resolve() else file}:{line}"
    return found.module


def _load_file(path: Path) -> ModuleType:
    # The name holds a digest of the whole path: two files called method.py must not share one module.
    path = path.resolve()
    name = f"etude_file_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_of_file(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(str(path), "a file that cannot be imported", "a file ending in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@typed("etude.method, ")
def method(name: str) -> type[Method]:
    """The method class of a paper or file: `etude.method("stacking")(at=0.2)`; "slug:Class" where there are several.

    Raises BadInput where there is none or the choice is open.
    """
    slug, _, kind = name.partition(":")
    found = load_methods(slug)
    if kind and kind in found:
        return found[kind]
    if kind or len(found) != 1:
        options = ", ".join(f"{slug}:{n}" for n in found) or "a paper with a method to add to a run"
        raise BadInput("method", f"'{name}'", options if len(found) < 2 else f"one of {options}")
    return next(iter(found.values()))
