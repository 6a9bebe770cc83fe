"""What is on record about a paper, read from its files without numpy or torch."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.engine.arguments import shown
from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Standing:
    """verdict: the primary claim's word. line: the verdict with its scale. claims: as recorded, with the secondary ones."""

    verdict: str
    line: str
    scale: str = ""
    seeds: tuple[int, ...] = ()
    claims: tuple[dict[str, Any], ...] = field(default=())


def standing(slug: str) -> Standing | None:
    """The recorded verdict of a paper, or None if there is no record. An unreadable record says so in its line.

    Read from the record's head, which is small; from the record itself where there is no head of just this record.
    """
    from etude.evidence.places import find

    place = find()
    path = place.record(slug)
    if not path.is_file():
        return None
    try:
        record = _head(place.head(slug), path.stat().st_size) or _json(path)
    except BadInput as error:
        return Standing(verdict="unreadable", line=f"unreadable record ({error.found})")
    verdict = str(record.get("verdict", "no verdict"))
    said = record.get("line") or f"{verdict} at {record.get('size') or record.get('scale') or 'an unnamed size'}"
    return Standing(
        verdict=verdict,
        line=str(said),
        scale=str(record.get("scale", "")),
        seeds=tuple(record.get("seeds", ())),
        claims=tuple(_numbers(c) for c in record.get("claims", ()) if isinstance(c, dict)),
    )


def _numbers(value: Any) -> Any:
    """Records write what JSON has no number for as text."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def history(slug: str) -> dict[str, Any]:
    """registered: date of the registration or None. attempts, abandoned: numbers of runs at the evidence's scale. plots: files."""
    from etude.evidence.places import find

    place = find()
    registered, attempts, plots = place.registered(slug), place.attempts(slug), place.plots(slug)
    date = None
    if registered.is_file():
        try:
            date = str(tomllib.loads(registered.read_text(encoding="utf-8")).get("date", "at an unknown date"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            date = "unreadable"
    # `evidence.attempts` reads the same file in full, and loads torch to do so; here only the counts are needed.
    started, ended = set(), set()
    for line in attempts.read_text(encoding="utf-8", errors="replace").splitlines() if attempts.is_file() else ():
        try:
            told = json.loads(line)
            (started if told["state"] == "started" else ended).add(told["attempt"])
        except (ValueError, KeyError, TypeError):
            continue
    pictures = sorted(str(p) for p in plots.glob("*.png")) if plots.is_dir() else []
    return {"registered": date, "attempts": len(started), "abandoned": len(started - ended), "plots": pictures}


def recipe_of(path: Path) -> dict[str, Any] | None:
    """The recipe of a run of `etude train`: a TOML file, or recipe.toml in the run's folder; None for a study's run.

    Raises BadInput where it cannot be read.
    """
    file = path / "recipe.toml" if path.is_dir() else path
    if file.suffix != ".toml" or not file.is_file():
        return None
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInput(str(file), f"a file that cannot be read ({error})", "a recipe (TOML)") from error


def mark_of(path: Path) -> dict[str, Any] | None:
    """The mark of a run from Python (`etude.train(..., folder=...)`); None where the folder is no such run's."""
    file = path / "run.json"
    return _json(file) if file.is_file() else None


def record_of(path: Path) -> dict[str, Any]:
    """The record of a study's run: a JSON file, or the newest one named record.json in (or below) a run's folder.

    Raises BadInput if there is none or it names no paper.
    """
    file = path
    if path.is_dir():
        found = sorted(path.rglob("record.json"), key=lambda p: p.stat().st_mtime_ns)
        if not found:
            raise BadInput(str(path), "no record.json and no recipe.toml", "the folder of a run")
        file = found[-1]
    elif path.suffix != ".json":
        raise BadInput(str(path), "no such file or folder", "a paper's slug, or the folder or record of a run")
    record = _json(file)
    if not isinstance(record.get("slug"), str):
        raise BadInput(str(file), "no slug", "the record of a run")
    return record


def _head(path: Path, size: int) -> dict[str, Any] | None:
    """The head, if it is one of a record of `size` bytes."""
    try:
        head = _json(path)
    except (BadInput, OSError):
        return None
    return head if head.get("bytes") == size else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(str(path), "no such file", "the record of a run") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(str(path), "no JSON", "the record of a run") from error
    if not isinstance(value, dict):
        raise BadInput(str(path), shown(value), "the record of a run")
    return value
