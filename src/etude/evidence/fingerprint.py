"""Fingerprints: what a result depends on, as hashes that ignore comments, docstrings and layout.

Four parts: the paper's own code, the settings, the data, and the floors below. A record whose first three still match is
current; where only the floors have moved on it is older, and still valid.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import etude
from etude.evidence.study import Study

ABOVE = ("papers", "cli", "web", "screen", "arenas", "evidence", "adapt")
"""Folders of etude that no run's numbers depend on, but for the paper's own (and evidence/study.py)."""
RULE = "suggest"
"""The function, or the file of a package, that proposes a paper's settings for a recipe."""
APART = (RULE, "arena")
"""Files of a package that its study does not run: the rule, and how it does other people's work."""
Plain = Any  # JSON values


def digest(value: Plain) -> str:
    """16 hexadecimal digits over the JSON text of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Plain:
    """`value` as JSON values: data classes become dicts, sequences lists, functions their names, what is left its repr."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (torch.dtype, torch.device, Path)):
        return str(value)
    name = getattr(value, "__qualname__", None)
    return name if name is not None else repr(value)


def code_hash(sources: Mapping[str, str]) -> str:
    """Over the parsed code of named sources (name -> text). Comments, docstrings, layout and the Python version do not count."""
    return digest({name: _shape(_studied(ast.parse(text))) for name, text in sources.items()})


def paper_code(study: Study) -> str:
    """The hash of the code that defines a study: every file of its own that its arms and settings come from, and what arms name."""
    own = code_hash({name: path.read_text(encoding="utf-8") for name, path in paper_files(study).items()})
    named = {_name_of(path): path for arm in study.arms.values() for path in arm.code}
    return own if not named else digest([own, {name: _shape(ast.parse(path.read_text(encoding="utf-8"))) for name, path in named.items()}])


def paper_files(study: Study) -> dict[str, Path]:
    """name -> file of the study's own code: a paper's module, or all of its package; an outside study's file or package."""
    files: dict[str, Path] = {}
    things: list[Any] = [arm.run for arm in study.arms.values()] + [type(s.settings) for s in study.scales.values()]
    for thing in things:
        file = _file_of(thing)
        if file is None or _below_papers(file):
            continue
        files |= code_files(file)
    return dict(sorted(files.items()))


def code_files(file: Path) -> dict[str, Path]:
    """name -> file: a module alone, or every file of its package; without what is for other people's work."""
    return {_name_of(member): member for member in _package_of(file) if member.stem not in APART}


@lru_cache(maxsize=1)
def floors_code() -> str:
    """The hash of all of etude that lies below the papers and can move a number."""
    root = _root()
    files = [p for p in root.rglob("*.py") if p.relative_to(root).parts[0] not in ABOVE] + [root / "evidence" / "study.py"]
    return code_hash({str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in sorted(files)})


def settings_of(study: Study, scale: str) -> Plain:
    """The settings of a scale as JSON values."""
    return plain(study.scales[scale].settings)


def data_hashes(names: Iterable[str]) -> dict[str, str]:
    """corpus name -> SHA-256 from its card. Raises BadInput for a name without a card."""
    return {name: _data_hash(name) for name in names}


def libraries() -> dict[str, str]:
    """The versions that bits depend on."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), "torch": torch.__version__, "numpy": np.__version__}


def instruction_set() -> str:
    """What torch's CPU kernels were picked for: "AVX2", "AVX512", ..."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def study_hashes(study: Study, scale: str) -> dict[str, str]:
    """The four parts: code, settings, data, floors."""
    return {
        "code": paper_code(study),
        "settings": digest(settings_of(study, scale)),
        "data": digest(data_hashes(study.data)),
        "floors": floors_code(),
    }


def run_hash(study: Study, scale: str, arm: str, seed: int, hashes: Mapping[str, str]) -> str:
    """What one finished run depends on; it is reused only where all of it is the same."""
    where = {"libraries": libraries(), "instruction_set": instruction_set(), "threads": 1}
    return digest([study.slug, scale, arm, seed, dict(hashes), where])


def _data_hash(name: str) -> str:
    from etude.data import cards

    card = cards.card(name)
    return card.sha256 or digest({part: _data_hash(part) for part in card.parts})


def _shape(node: Any) -> Plain:
    if isinstance(node, ast.AST):
        fields: dict[str, Any] = {}
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                value = _without_docstring(value)
            if value is None or value == [] or name in ("kind", "type_comment", "ctx"):
                continue  # newer Pythons add empty fields
            fields[name] = _shape(value)
        return [type(node).__name__, fields]
    if isinstance(node, list):
        return [_shape(item) for item in node]
    return f"{type(node).__name__}:{node!r}"


def _studied(module: ast.Module) -> ast.Module:
    """Without `suggest`, which proposes settings for other people's recipes: no study runs it."""
    module.body = [node for node in module.body if not (isinstance(node, ast.FunctionDef) and node.name == RULE)]
    return module


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """Drops every bare string, which covers the docstrings of constants too."""
    return [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str))]


def _file_of(thing: Callable[..., Any] | type) -> Path | None:
    while isinstance(thing, partial):
        thing = thing.func
    code = getattr(thing, "__code__", None)
    if code is not None:
        file = code.co_filename
    else:
        holder = thing if isinstance(thing, type) else type(thing)
        file = getattr(sys.modules.get(holder.__module__), "__file__", None)
    path = None if file is None else Path(file)
    return path.resolve() if path is not None and path.is_file() and path.suffix == ".py" else None


def _root() -> Path:
    return Path(next(iter(etude.__path__))).resolve()


def _below_papers(file: Path) -> bool:
    """Whether the file belongs to etude's floors (hashed apart) or to Python itself, rather than to a paper."""
    root = _root()
    if file.is_relative_to(root):
        return file.relative_to(root).parts[0] != "papers"
    return file.is_relative_to(Path(sys.base_prefix) / "lib") and "site-packages" not in file.parts


def _package_of(file: Path) -> list[Path]:
    """The file alone, or all files of its package. A family (papers/<family>/) is a shelf and not a paper's package."""
    papers = _root() / "papers"
    folder = file.parent
    if not (folder / "__init__.py").is_file() or folder == papers or folder.parent == papers:
        return [file]
    top = folder
    while (top.parent / "__init__.py").is_file() and top.parent.parent != papers and top.parent != papers:
        top = top.parent
    return sorted(top.rglob("*.py"))


def _name_of(file: Path) -> str:
    papers = _root() / "papers"
    if file.is_relative_to(papers):
        return file.relative_to(papers).as_posix()
    parts = [file.name]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return "/".join(parts)
